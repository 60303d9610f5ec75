"""Parity cases: reproducible, stored and read back, of several sizes and lengths."""

import dataclasses

import numpy as np
import pytest

from export.certificate.parity_cases import make_cases, pack_cases, sampled, unpack_cases
from server.bundle import Bundle
from server.contract.manifest import BundleError


def cases_of(bundle):
    tokenizer = bundle.prompts if bundle.manifest.detection is not None else bundle.sentences
    return make_cases(bundle.manifest.preprocessing, tokenizer)


def same(a, b):
    left, right = dataclasses.asdict(a), dataclasses.asdict(b)
    images = zip(left.pop("images"), right.pop("images"), strict=True)
    return left == right and all(np.array_equal(x, y) for x, y in images)


@pytest.fixture(params=["clip_bundle", "detector_bundle"])
def bundle(request):
    return Bundle(request.getfixturevalue(request.param))


def test_cases_are_the_same_each_time(bundle):
    assert all(same(a, b) for a, b in zip(cases_of(bundle), cases_of(bundle), strict=True))


def test_cases_come_back_from_a_file_as_they_were(bundle, tmp_path):
    cases = cases_of(bundle)
    np.savez_compressed(tmp_path / "cases.npz", **pack_cases(cases))
    with np.load(tmp_path / "cases.npz", allow_pickle=False) as arrays:
        assert all(same(a, b) for a, b in zip(unpack_cases(dict(arrays)), cases, strict=True))


def test_cases_hold_several_batches_sizes_and_lengths(detector_bundle):
    bundle = Bundle(detector_bundle)
    cases = cases_of(bundle)
    assert {len(case.images) for case in cases} == {1, 2, 3}
    assert len({case.pixels(bundle.manifest.preprocessing)[0].shape for case in cases}) == 3
    lengths = [len(prompt) for case in cases for prompt in case.prompts(bundle.prompts)]
    assert max(lengths) > 3 * min(lengths)


def test_serving_size_is_among_the_cases(detector_bundle):
    bundle = Bundle(detector_bundle)
    assert cases_of(bundle)[0].pixels(bundle.manifest.preprocessing)[0].shape == (3, 128, 170)


def test_text_that_does_not_fit_the_model_is_replaced(save_checkpoint, tmp_path):
    from export.bundle import export_bundle

    out = tmp_path / "short"
    export_bundle(save_checkpoint("detector", text={"max_tokens": 12, "max_label_tokens": None}), out)
    bundle = Bundle(out)
    assert all(len(prompt) <= 12 for case in cases_of(bundle) for prompt in case.prompts(bundle.prompts))


def test_unreadable_cases_are_a_bundle_error():
    with pytest.raises(BundleError, match="no readable cases"):
        unpack_cases({"cases": np.frombuffer(b'[{"name": "one"}]', np.uint8)})


def test_levels_of_different_widths_are_sampled_together():
    levels = [np.ones((2, 3, 4), np.float32), np.full((5, 2, 2), 3, np.float32)]
    found = sampled(levels)
    assert found.shape[1] == 5
    assert {tuple(row) for row in found.tolist()} == {(1, 1, 0, 0, 0), (3, 3, 3, 3, 3)}
