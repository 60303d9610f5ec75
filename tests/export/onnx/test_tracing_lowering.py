import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from export.certificate.verify import verify
from export.onnx.tracing import gather_sample, lowered
from export.progress import Progress
from server.bundle import Bundle
from server.contract.manifest import read_manifest


def random_case(*, seed=0, spread=1.5):
    """Maps and places, of which a third or more lies outside."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, 8, 7, 11, generator=generator)
    return maps, (torch.rand(3, 4, 50, 2, generator=generator) * 2 - 1) * spread


def operators(file):
    return {node.op_type for node in onnx.load(str(file)).graph.node}


@pytest.mark.parametrize("spread", [0.9, 1.5, 40.0, 1e12])
def test_gathers_are_grid_sample_within_rounding(spread):
    maps, grid = random_case(spread=spread)
    wanted = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(gather_sample(maps, grid), wanted, rtol=1e-5, atol=5e-6)


def test_gathers_are_grid_sample_at_edges_and_centres_of_cells():
    maps, _ = random_case()
    steps = torch.linspace(-1, 1, 15)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).expand(3, -1, -1, -1)
    wanted = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(gather_sample(maps, grid), wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("options", [{"align_corners": True}, {"padding_mode": "border"}, {"mode": "nearest"}])
def test_sampling_that_gathers_do_not_do_is_refused(options):
    with lowered("gather"), pytest.raises(ValueError, match=next(iter(options))):
        F.grid_sample(*random_case(), **options)


def test_lowering_ends_with_its_context():
    maps, grid = random_case()
    with lowered("gather"):
        inside = F.grid_sample(maps, grid, align_corners=False)
    assert torch.equal(inside, gather_sample(maps, grid))
    after = F.grid_sample(maps, grid, align_corners=False)
    assert torch.equal(after, torch.grid_sampler(maps, grid, 0, 0, False))


def test_unknown_lowering_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'conv'.*grid_sample.*gather"), lowered("conv"):
        pass


@pytest.mark.parametrize(
    ("bundle", "lowering"),
    [("detector_bundle", "deform_conv"), ("grid_sample_bundle", "grid_sample"), ("gather_bundle", "gather")],
)
def test_each_lowering_is_certified(request, bundle, lowering):
    folder = request.getfixturevalue(bundle)
    detector = next(a for a in read_manifest(folder).artefacts if a.part == "detector")
    assert detector.lowering == lowering
    assert detector.certificate.passed
    # The decoder has few queries, on which the operator would compute a whole map: they stay with GridSample.
    assert ("GridSample" in operators(folder / detector.file)) == (lowering != "gather")
    assert ("DeformConv" in operators(folder / detector.file)) == (lowering == "deform_conv")
    assert verify(folder, Progress(quiet=True)).faults == ()


def test_part_that_does_not_sample_has_no_lowering(gather_bundle):
    text = next(a for a in read_manifest(gather_bundle).artefacts if a.part == "text_encoder")
    assert text.lowering is None


def test_all_lowerings_give_the_same_detections(detector_bundle, grid_sample_bundle, gather_bundle):
    bundles = [Bundle(folder) for folder in (detector_bundle, grid_sample_bundle, gather_bundle)]
    prompt = bundles[0].prompts.from_labels(["a dog", "red bicycle"])
    pixels = np.random.default_rng(0).normal(size=(3, 77, 131)).astype(np.float32)
    answers = [bundle.run_detector([pixels], [prompt], bundle.encode_prompts([prompt]))[0] for bundle in bundles]
    for one, *others in zip(*answers, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, atol=1e-4)
