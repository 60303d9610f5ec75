"""Grounding DINO against outputs of the official code, stage by stage."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.registry import LoadedCheckpoint
from tests.parity import adapter, golden
from tests.parity.conftest import Loader
from tests.parity.golden import Golden

SIZES = {"SwinT_OGC": "swin_t", "SwinB_cogcoor": "swin_b", "tiny": "swin_t", "base": "swin_b"}
# With a ranking given to the model no query can swap, so every query counts and only noise is left.
FORCED_LOGIT, FORCED_BOX = 5e-3, 1e-4
RANKED = ("enc_topk_indices", "pred_", "decoder_")


@pytest.fixture(scope="module", params=golden.goldens("grounding_dino"), ids=str)
def reference(request: pytest.FixtureRequest) -> Golden:
    if request.param.name.endswith("_batchasis"):
        pytest.skip("the official code mixes the text masks of a batch's captions; ours keeps each caption's own")
    return request.param


@pytest.fixture(scope="module")
def checkpoint(reference: Golden, loaded: Loader) -> LoadedCheckpoint:
    return loaded(reference)


@pytest.fixture(scope="module")
def inputs(reference: Golden) -> dict[str, Tensor]:
    return adapter.grounding_dino_inputs(images_of(reference), captions_of(reference))


@pytest.fixture(scope="module")
def results(checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return adapter.run_grounding_dino(checkpoint.model, inputs)


def images_of(reference: Golden) -> list[Tensor]:
    return reference.images(golden.recipe.DINO_MEAN, golden.recipe.DINO_STD)


def captions_of(reference: Golden) -> list[str]:
    return [str(caption) for caption in reference.data["captions"]]


def test_prompt_equals_the_official_tokens(reference: Golden, inputs: dict[str, Tensor]) -> None:
    names = {
        "input_ids": "input_ids",
        "attention_mask": "text_mask",
        "text_position_ids": "position_ids",
        "text_self_attention_masks": "self_attention_mask",
    }
    for theirs, ours in names.items():
        if theirs in reference.data:
            np.testing.assert_array_equal(inputs[ours], reference.data[theirs])


def test_variant_and_container_are_recognised(reference: Golden, checkpoint: LoadedCheckpoint) -> None:
    assert checkpoint.variant == SIZES[reference.variant]
    assert checkpoint.container == {"idea": "idea", "hf": "huggingface"}[reference.kind]


def test_every_stage_before_the_ranking_equals_the_official_output(
    reference: Golden, results: dict[str, Tensor]
) -> None:
    stages = {n: value for n, value in results.items() if reference.holds(n) and not n.startswith(RANKED)}
    assert stages.keys() >= {"encoded_text", "memory", "memory_text", "enc_topk_score_all"}
    faults = [
        reference.difference(name, value, golden.PROPOSAL_SCORES if "score" in name else golden.GROUNDING_DINO)
        for name, value in stages.items()
    ]
    assert not any(faults), "\n".join(filter(None, faults))


def test_answers_equal_the_official_ones_where_the_ranking_does(reference: Golden, results: dict[str, Tensor]) -> None:
    indices, wanted = results["enc_topk_indices"].numpy(), reference.data["enc_topk_indices"].astype(np.int64)
    scores = reference.data["enc_topk_score_all"]
    tied = np.take_along_axis(scores, indices, 1) == np.take_along_axis(scores, wanted, 1)
    same = (indices == wanted) | tied
    assert same.mean() >= golden.QUERY_SHARE
    logit, box = query_differences(reference, results)
    close = (logit <= golden.QUERY_LOGIT) & (box <= golden.QUERY_BOX)
    assert close[same].mean() >= golden.QUERY_SHARE, f"median logit {np.median(logit)}, box {np.median(box)}"


def test_every_answer_equals_the_official_one_on_the_official_ranking(
    reference: Golden, checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor]
) -> None:
    ranking = torch.from_numpy(reference.data["enc_topk_indices"].astype(np.int64))
    results = adapter.run_grounding_dino(checkpoint.model, inputs, topk_indices=ranking)
    stages = {n: value for n, value in results.items() if n.startswith("decoder_") and reference.holds(n)}
    faults = [reference.difference(name, value, golden.GROUNDING_DINO) for name, value in stages.items()]
    assert not any(faults), "\n".join(filter(None, faults))
    logit, box = query_differences(reference, results)
    assert logit.max() <= FORCED_LOGIT
    assert box.max() <= FORCED_BOX


def test_batch_equals_one_by_one_on_the_same_canvas(
    reference: Golden, checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor], results: dict[str, Tensor]
) -> None:
    """Each image alone, padded like the batch; its caption is without the batch's padding, which must not matter."""
    images, captions = images_of(reference), captions_of(reference)
    if len(captions) == 1:
        pytest.skip("the reference has one image")
    for row, caption in enumerate(captions):
        one = adapter.grounding_dino_inputs(images[row : row + 1], [caption])
        one |= {name: inputs[name][row : row + 1] for name in ("pixel_values", "pixel_mask")}
        ranking = results["enc_topk_indices"][row : row + 1]
        alone = adapter.run_grounding_dino(checkpoint.model, one, topk_indices=ranking)
        scores = results["enc_topk_score_all"][row], alone["enc_topk_score_all"][0]
        torch.testing.assert_close(*scores, rtol=0, atol=golden.PROPOSAL_SCORES[0])
        logits = results["pred_logits"][row, :, : one["input_ids"].shape[1]], alone["pred_logits"][0]
        torch.testing.assert_close(*logits, rtol=0, atol=FORCED_LOGIT)
        torch.testing.assert_close(results["pred_boxes"][row], alone["pred_boxes"][0], rtol=0, atol=FORCED_BOX)


def query_differences(reference: Golden, results: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The largest difference of each query [B, N] in logits, whose infinities must agree, and in boxes."""
    wanted = reference.data["pred_logits_valid_tokens"]
    logits = results["pred_logits"].numpy()[..., : wanted.shape[-1]]
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(logits), finite)
    logit = np.where(finite, np.abs(np.where(finite, logits, 0) - np.where(finite, wanted, 0)), 0).max(-1)
    return logit, np.abs(results["pred_boxes"].numpy() - reference.data["pred_boxes"]).max(-1)
