"""Every family trains on data sets: in parts as in one, in any precision, and on from where it stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.data.images import DataError
from models.training.contrastive_task import LARGEST_SCALE
from models.training.dataset_tasks import prepare_annotated
from models.training.distributed import Processes
from models.training.loop import CURVE, Trainer
from models.training.recipe import RecipeError
from tests.models.training.small_recipes import FAMILIES, LOOP, checkpoint, recipe, trainer, write_sets

EACH = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    for family in FAMILIES:
        checkpoint(family, folder / "checkpoints")
    return folder


def begun(family: str, folder: Path, out: Path, **changes: Any) -> Trainer:
    """A run of a small model, with changes to its loop or data."""
    loop = {name: changes.pop(name) for name in list(changes) if hasattr(LOOP, name)}
    one = recipe(family, folder, loop=replace(LOOP, **loop), **changes)
    return trainer(one, folder / "checkpoints" / family, out)


def weights(run: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.task.module.state_dict().items()}


def rows(out: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in found]


@EACH
def test_a_step_of_several_batches_is_that_of_the_large_batch(family: str, folder: Path, tmp_path: Path):
    figures, gradients = [], []
    for batch, accumulate in ((4, 1), (2, 2)):
        run = begun(family, folder, tmp_path / str(batch), batch=batch, accumulate=accumulate, clip_norm=1e9)
        figures.append(run._one_step())
        gradients.append({name: value.grad for name, value in run.task.module.named_parameters()})
    assert figures[1] == pytest.approx(figures[0], rel=1e-4, abs=1e-4)
    for name, gradient in gradients[0].items():
        if gradient is not None:
            scale = gradient.abs().max().item()
            torch.testing.assert_close(gradients[1][name], gradient, atol=2e-4 * scale + 1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("family", "precision"), [(family, "fp32") for family in FAMILIES] + [("clip", "fp16")])
def test_a_resumed_run_goes_on_exactly(family: str, precision: str, folder: Path, tmp_path: Path):
    unbroken = begun(family, folder, tmp_path / "a", precision=precision)
    unbroken.run()
    cut = begun(family, folder, tmp_path / "b", precision=precision)
    for _ in range(3):
        cut._one_step()
        if cut.step == 2:
            cut.save()  # and another step that is lost
    resumed = begun(family, folder, tmp_path / "b", precision=precision)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(resumed)[name], value), name
    last = rows(tmp_path / "a")
    assert rows(tmp_path / "b") == [row for row in last if row["step"] > 2]


@EACH
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_about_the_same(family: str, precision: str, folder: Path, tmp_path: Path):
    full, half = (begun(family, folder, tmp_path / one, precision=one) for one in ("fp32", precision))
    whole, reduced = full._one_step(), half._one_step()
    assert reduced["loss"] == pytest.approx(whole["loss"], rel=0.05)
    assert reduced["loss"] != whole["loss"]
    assert all(value.dtype == torch.float32 for value in half.task.module.parameters())


def test_a_run_of_another_shape_is_not_resumed(folder: Path, tmp_path: Path):
    run = begun("clip", folder, tmp_path)
    run._one_step()
    run.save()
    with pytest.raises(ValueError, match=r"learning_rate = 0\.001, now it is 0\.5"):
        begun("clip", folder, tmp_path, learning_rate=0.5).resume()
    with pytest.raises(ValueError, match="batch = 2, now it is 3"):
        begun("clip", folder, tmp_path, batch=3).resume()
    assert begun("clip", folder, tmp_path, steps=9).resume()


def test_workers_read_what_the_process_itself_would(folder: Path, tmp_path: Path):
    found = []
    for workers in (0, 1):
        run = begun("glip", folder, tmp_path / str(workers), workers=workers)
        found.append([run._one_step()["loss"] for _ in range(3)])
        run.task.finish(run.averaged.module)
    assert found[0] == found[1]


def test_the_temperature_keeps_within_its_bound(folder: Path, tmp_path: Path):
    run = begun("clip", folder, tmp_path, learning_rate=1.0, steps=4)
    with torch.no_grad():
        run.task.model.logit_scale.fill_(LARGEST_SCALE + 3)
    assert run.run().logit_scale.item() <= LARGEST_SCALE


@EACH
def test_frozen_parts_stay_and_the_rest_learns(family: str, folder: Path, tmp_path: Path):
    frozen = {"clip": ["text_tower."], "glip": ["backbone."], "grounding_dino": ["text_backbone.", "backbone."]}[family]
    run = begun(family, folder, tmp_path, frozen=frozen)
    before = weights(run)
    for _ in range(2):
        run._one_step()
    for name, value in weights(run).items():
        stays = name.removeprefix("model.").startswith(tuple(frozen))
        assert not stays or torch.equal(value, before[name]), name
    assert any(not torch.equal(value, before[name]) for name, value in weights(run).items())


@EACH
def test_every_family_gets_better_at_what_it_sees(family: str, folder: Path, tmp_path: Path):
    steps = 60 if family == "clip" else 8
    run = begun(family, folder, tmp_path, batch=4, learning_rate=2e-3, steps=steps, average=0.0)
    first = run.validate()["validation_loss"]
    for _ in range(steps):
        run._one_step()
    assert run.validate()["validation_loss"] < first


def broken(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A COCO set, one picture of which is damaged."""
    data = json.loads((folder / "coco" / "coco.json").read_text())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    data["images"][3]["file_name"] = str(tmp_path / "broken.png")
    (tmp_path / "coco.json").write_text(json.dumps(data))
    return {"format": "coco", "annotations": str(tmp_path / "coco.json"), "pictures": str(folder / "coco/pictures")}


def test_a_damaged_picture_stops_the_run_or_is_counted(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = broken(folder, tmp_path)
    run = begun("glip", folder, tmp_path / "refuse", sets=[table])
    with pytest.raises(DataError, match=r"broken\.png: the picture cannot be read"):
        [run._one_step() for _ in range(3)]
    run = begun("glip", folder, tmp_path / "skip", sets=[table | {"faulty": "skip"}])
    for _ in range(3):
        run._one_step()
    assert run.task.finish(run.averaged.module)["pictures_left_out"] == 1
    assert "broken.png" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": []}, "lists no set"),
        ({"sets": [{"format": "voc"}]}, r"format is 'voc'; accepted are \['captions', 'coco'"),
        ({"sets": [{"format": "coco", "annotations": "x"}]}, r"a coco set needs \['pictures'\]"),
        ({"sets": [{"format": "coco", "annotation": "x"}]}, r"a coco set has no \['annotation'\]"),
        ({"sets": [{"format": "captions", "path": "captions", "weight": -1}]}, "the weight is -1"),
        ({"sets": [{"format": "shards", "shards": "shards/*.tar"}]}, "needs a weight"),
        ({"sets": [{"format": "captions", "path": "captions", "faulty": "maybe"}]}, "faulty is 'maybe'"),
        ({"bach": 3}, r"data has no \['bach'\]"),
        ({"denoising": {}}, r"a CLIP has no \['denoising'\] to set"),
        ({"augmentation": {"zoom": 2}}, r"SquareAugmentation has no \['zoom'\]"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_a_faulty_recipe_is_named(folder: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        prepare_annotated(recipe("clip", folder, **changes), start=folder / "checkpoints/clip", processes=Processes())


def test_a_start_of_another_family_or_beside_a_model_is_refused(folder: Path):
    with pytest.raises(RecipeError, match="is a glip; the recipe trains a clip"):
        prepare_annotated(recipe("clip", folder), start=folder / "checkpoints/glip", processes=Processes())
    with_model = replace(recipe("clip", folder), model={"type": "ClipConfig"})
    with pytest.raises(RecipeError, match="exclude each other"):
        prepare_annotated(with_model, start=folder / "checkpoints/clip", processes=Processes())
    with pytest.raises(RecipeError, match=r"has no \[model\]"):
        prepare_annotated(recipe("clip", folder), start=None, processes=Processes())


def test_captions_alone_teach_no_detector_and_boxes_alone_no_clip(folder: Path, tmp_path: Path):
    captions = [{"format": "captions", "path": "captions"}]
    with pytest.raises(DataError, match=r"png: a caption without boxes teaches a detector nothing"):
        begun("glip", folder, tmp_path / "a", sets=captions)._one_step()
    coco = [{"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"}]
    with pytest.raises(DataError, match=r"image id 10\d: boxes without a caption teach a CLIP nothing"):
        begun("clip", folder, tmp_path / "b", sets=coco)._one_step()
