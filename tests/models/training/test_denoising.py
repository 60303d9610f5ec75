import pytest
import torch

from models.grounding_dino.model import DenoisedOutput, GroundingDino, GroundingDinoOutput
from models.losses.box_losses import to_xyxy
from models.losses.grounding_dino_loss import Denoised, DetectorLossConfig, Targets, denoised, detector_loss
from models.training.denoising import DenoisingConfig, LabelQueries, NoisedObjects, add_noise
from tests.models.small_grounding_dino import SWIN, arguments, random_inputs, random_model

BOXES = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.1]])
LABELS = torch.eye(6, dtype=torch.bool)[1:5]  # four labels of one token each
POSITIVE = LABELS[:2]
DEFAULT = DenoisingConfig()


def queries(config: DenoisingConfig = DEFAULT, *, seed: int = 0, count: int = 2) -> NoisedObjects:
    generator = torch.Generator().manual_seed(seed)
    return add_noise(BOXES[:count], POSITIVE[:count], LABELS, generator, config=config)


def test_groups_share_the_queries_and_hold_a_pair_for_each_object():
    one = queries(DenoisingConfig(queries=100))
    assert one.groups == 50
    assert len(one.objects) == 50 * 2 * 2
    assert one.group.tolist() == [group for group in range(50) for _ in range(4)]
    assert one.found[:4].tolist() == [True, True, False, False]
    assert one.objects[:4].tolist() == [0, 1, 0, 1]


def test_a_picture_with_more_objects_than_queries_has_one_group():
    assert queries(DenoisingConfig(queries=1)).groups == 1


def test_a_picture_without_objects_and_no_denoising_have_no_queries():
    assert queries(count=0).groups == 0
    assert queries(DenoisingConfig(queries=0)).groups == 0


def test_corners_move_less_than_half_a_side_and_of_those_taught_nothing_more():
    one = queries(DenoisingConfig(queries=400, box_noise=1.0))
    moved = (to_xyxy(one.boxes) - to_xyxy(BOXES[one.objects])).abs() / (BOXES[one.objects, 2:].repeat(1, 2) / 2)
    # The smaller box is far from the picture's edge, where nothing is cut off.
    small = one.objects == 1
    assert moved[small & one.found].max() <= 1 + 1e-5
    assert moved[small & ~one.found].max() > 1.5
    assert moved[small & one.found].mean() == pytest.approx(0.5, abs=0.05)
    assert (one.boxes[:, 2:] >= 0).all()
    assert (to_xyxy(one.boxes) >= -1e-6).all()
    assert (to_xyxy(one.boxes) <= 1 + 1e-6).all()


def test_without_noise_queries_start_at_their_object():
    one = queries(DenoisingConfig(queries=10, box_noise=0.0, label_noise=0.0))
    torch.testing.assert_close(one.boxes, BOXES[one.objects])
    assert torch.equal(one.labels, POSITIVE[one.objects])


def test_half_of_label_noise_is_the_share_of_labels_drawn_anew():
    one = queries(DenoisingConfig(queries=20000, label_noise=0.5))
    other = (one.labels != POSITIVE[one.objects]).any(1).float().mean().item()
    assert other == pytest.approx(0.25 * 3 / 4, abs=0.02)  # one draw in four is the label itself
    assert (one.labels.sum(1) == 1).all()


def test_the_same_seed_gives_the_same_noise():
    assert torch.equal(queries(seed=3).boxes, queries(seed=3).boxes)
    assert not torch.equal(queries(seed=3).boxes, queries(seed=4).boxes)


def test_content_is_the_projected_mean_of_the_labels_tokens():
    features = torch.randn(1, 6, 8)
    make = LabelQueries(8)
    one = queries(DenoisingConfig(queries=1, label_noise=0.0))
    found = make(features, [one])
    torch.testing.assert_close(found.content[0, 0], make.project(features[0, 1]))
    two = NoisedObjects(one.boxes, one.labels | LABELS[2], one.objects, one.group, one.found)
    torch.testing.assert_close(make(features, [two]).content[0, 0], make.project((features[0, 1] + features[0, 3]) / 2))


def test_groups_do_not_see_each_other_nor_places_without_an_object():
    few, many = queries(DenoisingConfig(queries=2), count=1), queries(DenoisingConfig(queries=4))
    found = LabelQueries(8)(torch.randn(2, 6, 8), [few, many])
    visible = found.visible
    assert visible.shape == (2, 8, 8)
    assert torch.equal(visible[1], many.group[:, None] == many.group[None])
    assert torch.equal(visible[0, :4, :4], few.group[:, None] == few.group[None])
    assert torch.equal(visible[0, 4:], torch.eye(8, dtype=torch.bool)[4:])
    assert not visible[0, :4, 4:].any()


@pytest.fixture(scope="module")
def model() -> GroundingDino:
    return random_model(SWIN)


@pytest.fixture(scope="module")
def with_and_without(model: GroundingDino) -> tuple[GroundingDinoOutput, GroundingDinoOutput, list[DenoisedOutput]]:
    """Outputs of one picture: without denoising, with it, and what becomes of two groups whose second changes."""
    make, one = LabelQueries(SWIN.d_model), queries(DenoisingConfig(queries=4))
    changed = torch.where((one.group == 1)[:, None], one.boxes.flip(0), one.boxes)
    with torch.inference_mode():
        args = arguments(model, random_inputs(1, 64, 96, 6))
        noises = [NoisedObjects(b, one.labels, one.objects, one.group, one.found) for b in (one.boxes, changed)]
        noisy = [model.denoise(*args, denoising=make(args[2], [noise])) for noise in noises]
        return model(*args), noisy[0][0], [denoised for _, denoised in noisy]


def test_learned_queries_answer_the_same_with_denoising_and_without(with_and_without):
    plain, noisy, _ = with_and_without
    for name, value in plain._asdict().items():
        torch.testing.assert_close(value, getattr(noisy, name), atol=1e-5, rtol=1e-5)


def test_a_group_answers_the_same_whatever_the_others_are(with_and_without):
    _, _, (one, changed) = with_and_without
    for first, second in zip(one, changed, strict=True):
        torch.testing.assert_close(first[:, :, :4], second[:, :, :4])
    assert not torch.allclose(one.boxes_cxcywh[:, :, 4:], changed.boxes_cxcywh[:, :, 4:])


def test_denoising_loss_by_hand():
    objects = NoisedObjects(
        boxes=torch.zeros(8, 4),
        labels=torch.zeros(8, 2, dtype=torch.bool),
        objects=torch.zeros(8, dtype=torch.long),
        group=torch.arange(8) // 2,
        found=torch.tensor([True, False] * 4),
    )
    target = Targets(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[True, False]]))
    boxes = target.boxes.repeat(8, 1)[None].clone()
    boxes[0, 0, 0] += 0.1  # one of four that are taught the object is off by half a side
    label, l1, giou = denoised(torch.zeros(1, 8, 2), boxes, [target], [objects])
    log2 = 0.6931472
    # In each of four groups: one positive token, and three negative ones, at an even chance.
    assert label.item() == pytest.approx((0.0625 + 3 * 0.1875) * log2, rel=1e-5)
    assert l1.item() == pytest.approx(0.1 / 4, rel=1e-4)
    assert giou.item() == pytest.approx((1 - 0.02 / 0.06) / 4, rel=1e-4)


def test_denoising_adds_its_weighted_part_of_every_layer_to_the_loss(model: GroundingDino):
    one, targets = queries(DenoisingConfig(queries=4)), [Targets(BOXES, POSITIVE)]
    with torch.no_grad():
        args = arguments(model, random_inputs(1, 64, 96, 6))
        output, found = model.denoise(*args, denoising=LabelQueries(SWIN.d_model)(args[2], [one]))
    part = Denoised(*found, [one])
    total, figures = detector_loss(output, targets, denoising=part)
    without, _ = detector_loss(output, targets)
    layers = [denoised(logits, boxes, targets, [one]) for logits, boxes in zip(*found, strict=True)]
    extra = sum(float(label + 5 * l1 + 2 * giou) / 2 for label, l1, giou in layers)
    assert (total - without).item() == pytest.approx(extra, rel=1e-3)
    assert figures["denoising_l1"] == pytest.approx(float(layers[-1][1]) / 2, rel=1e-4)
    halved, _ = detector_loss(output, targets, DetectorLossConfig(denoising=0.5), denoising=part)
    assert (halved - without).item() == pytest.approx(extra / 2, rel=1e-3)


def test_a_picture_teaches_the_same_beside_others(model: GroundingDino):
    inputs = random_inputs(1, 64, 96, 6)
    few, many = queries(DenoisingConfig(queries=2), count=1), queries(DenoisingConfig(queries=8))
    twice = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    make = LabelQueries(SWIN.d_model)
    with torch.inference_mode():
        alone, both = arguments(model, inputs), arguments(model, twice)
        apart = [model.denoise(*alone, denoising=make(alone[2], [one]))[1] for one in (few, many)]
        together = model.denoise(*both, denoising=make(both[2], [few, many]))[1]
    for row, (one, found) in enumerate(zip((few, many), apart, strict=True)):
        boxes = together.boxes_cxcywh[:, row, : len(one.objects)]
        torch.testing.assert_close(boxes, found.boxes_cxcywh[:, 0], atol=1e-4, rtol=1e-4)
