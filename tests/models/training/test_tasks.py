"""Every family trains on data sets and scenes: in parts as in one, in any precision, and on from where it stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.data.images import DataError
from models.training.contrastive_task import MAX_LOGIT_SCALE
from models.training.dataset_task import DatasetTask
from models.training.loop import Trainer
from models.training.recipe import RecipeError, parse_recipe, read_recipe
from models.training.run_logger import CURVE
from models.training.tasks import prepare
from tests.models.data import annotated_sets as sets
from tests.models.training.small_recipes import FAMILIES, LOOP, RULES, SCENES, recipe, table, trainer, write_sets

BUNDLED = Path(__file__).parents[3] / "server" / "bundles"
CAPTIONS = {"format": "captions", "path": "captions"}
EACH = pytest.mark.parametrize("family", FAMILIES)
EACH_DATA = pytest.mark.parametrize("scenes", [False, True], ids=["files", "scenes"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


def begun(family: str, folder: Path, out: Path, **changes: Any) -> Trainer:
    """A run of a small model, with changes to its loop or data."""
    loop = {name: changes.pop(name) for name in list(changes) if hasattr(LOOP, name)}
    return trainer(recipe(family, folder, loop=replace(LOOP, **loop), **changes), out)


def test_a_continued_model_keeps_the_statistics_of_its_batch_norms_while_their_weights_learn(
    folder: Path, tmp_path: Path
):
    changes = {"start": str(BUNDLED / "grounding-dino-mini")}
    given = table("grounding_dino", preprocessing=sets.SIZE.model_dump(mode="json")) | changes
    run = trainer(parse_recipe(given, folder), tmp_path)
    before = weights(run)
    run._one_step()
    after = weights(run)
    statistics = [name for name in before if ".running_" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(before[name], after[name]), name
        learnt = f"{name.rpartition('.')[0]}.weight"
        assert not torch.equal(before[learnt], after[learnt]), learnt


def weights(run: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.task.module.state_dict().items()}


def rows(out: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in found]


@EACH
@EACH_DATA
def test_a_step_of_several_batches_is_that_of_the_large_batch(family: str, scenes: bool, folder: Path, tmp_path: Path):
    figures, gradients = [], []
    blocks = {"sets": [SCENES | {"single": family == "clip", "block": 4}]} if scenes else {}
    for batch, accumulate in ((4, 1), (2, 2)):
        run = begun(
            family,
            folder,
            tmp_path / str(batch),
            batch=batch,
            accumulate=accumulate,
            clip_norm=1e9,
            scenes=scenes,
            **blocks,
        )
        figures.append(run._one_step())
        gradients.append({name: value.grad for name, value in run.task.module.named_parameters()})
    assert figures[1] == pytest.approx(figures[0], rel=1e-4, abs=1e-4)
    for name, gradient in gradients[0].items():
        if gradient is not None:
            scale = gradient.abs().max().item()
            torch.testing.assert_close(gradients[1][name], gradient, atol=2e-4 * scale + 1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("family", "precision", "scenes"),
    [*((family, "fp32", scenes) for family in FAMILIES for scenes in (False, True)), ("clip", "fp16", False)],
)
def test_a_resumed_run_goes_on_exactly(family: str, precision: str, scenes: bool, folder: Path, tmp_path: Path):
    unbroken = begun(family, folder, tmp_path / "a", precision=precision, scenes=scenes)
    unbroken.run()
    cut = begun(family, folder, tmp_path / "b", precision=precision, scenes=scenes)
    for _ in range(3):
        cut._one_step()
        if cut.step == 2:
            cut.save()  # and another step that is lost
    resumed = begun(family, folder, tmp_path / "b", precision=precision, scenes=scenes)
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


@EACH_DATA
def test_workers_read_what_the_process_itself_would(scenes: bool, folder: Path, tmp_path: Path):
    found = []
    for workers in (0, 2):
        run = begun("glip", folder, tmp_path / str(workers), workers=workers, scenes=scenes)
        found.append([run._one_step()["loss"] for _ in range(3)])
        run.task.finish(run.averaged.module)
    assert found[0] == found[1]


def test_the_temperature_keeps_within_its_bound(folder: Path, tmp_path: Path):
    run = begun("clip", folder, tmp_path, learning_rate=1.0, steps=4)
    with torch.no_grad():
        run.task.model.logit_scale.fill_(MAX_LOGIT_SCALE + 3)
    assert run.run().logit_scale.item() <= MAX_LOGIT_SCALE


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


@pytest.mark.parametrize(
    ("family", "scenes"), [*((family, False) for family in FAMILIES), ("glip", True), ("grounding_dino", True)]
)
def test_every_family_gets_better_at_what_it_sees(family: str, scenes: bool, folder: Path, tmp_path: Path):
    steps = 60 if family == "clip" else 8
    run = begun(family, folder, tmp_path, batch=4, learning_rate=2e-3, steps=steps, average=0.0, scenes=scenes)
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


def test_scenes_are_mixed_with_other_sets(folder: Path, tmp_path: Path):
    coco = {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures", "weight": 1.0}
    run = begun("glip", folder, tmp_path, sets=[coco, SCENES | {"weight": 1.0}], batch=8)
    assert isinstance(run.task, DatasetTask)
    batch = run.task.batches(1)[0]
    assert {size[0] for size in batch.sizes} >= {64}
    assert run._one_step()["loss"] > 0
    captions = {"format": "captions", "path": "captions", "weight": 1.0}
    run = begun("clip", folder, tmp_path / "clip", sets=[captions, SCENES | {"single": True, "weight": 1.0}], batch=8)
    assert isinstance(run.task, DatasetTask)
    keys = run.task.batches(1)[0].picture_keys
    assert (keys < 0).any()
    assert (keys >= 0).any()
    assert run._one_step()["loss"] > 0


def test_sets_of_scenes_need_the_same_names(folder: Path, tmp_path: Path):
    (tmp_path / "names.txt").write_text("dog: dog\ncat: cat\n")
    other = SCENES | {"single": True, "weight": 1.0, "names": str(tmp_path / "names.txt")}
    with pytest.raises(RecipeError, match="need the same names"):
        begun("clip", folder, tmp_path, sets=[SCENES | {"single": True, "weight": 1.0}, other])


def test_detectors_are_validated_by_what_they_find_and_calibrated(folder: Path, tmp_path: Path):
    rules, prompts = RULES, {"absent": 0.3, "negatives": 4, "full": 0.0}
    for scenes in (True, False):
        run = begun("glip", folder, tmp_path / str(scenes), scenes=scenes, rules=rules, prompts=prompts, calibrate=True)
        figures = run.validate()
        assert {name for name in figures if not name.startswith("ap/")} == {
            "validation_loss", "validation_ap", "validation_ap50", "any_label_ap50", "quiet_threshold", "quiet_recall"
        }  # fmt: skip
        assert all(0 <= value <= 1 for name, value in figures.items() if name != "validation_loss")
        before = run.averaged.module.token_alignment.bias.clone()
        with torch.inference_mode():
            finished = run.task.finish(run.averaged.module.eval())
        shift = run.averaged.module.token_alignment.bias - before
        assert shift.item() == pytest.approx(finished["logit_shift"], rel=1e-4)
    plain = begun("glip", folder, tmp_path / "plain").validate()
    assert {"validation_loss", "validation_ap", "validation_ap50"} < plain.keys()


def test_a_clip_is_validated_by_the_names_of_all_objects_and_calibrated(folder: Path, tmp_path: Path):
    run = begun("clip", folder, tmp_path, scenes=True, validation_batches=3, calibrate=True)
    figures = run.validate()
    assert figures.keys() == {"validation_top1", "validation_top5"}
    assert 0 <= figures["validation_top1"] <= figures["validation_top5"] <= 1
    assert 1 <= run.run().logit_scale.exp().item() <= 100.001


def test_the_recipe_of_a_bundled_model_trains_on_other_data(folder: Path, tmp_path: Path):
    bundled = read_recipe("grounding-dino-drawings")
    coco = {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"}
    smaller = {"batch": 2, "sets": [coco], "validation": [coco], "validation_batches": 1}
    model = bundled.model | {"backbone": {**bundled.model["backbone"], "width": 8}}
    changed = {
        "family": bundled.family,
        "name": "coco",
        "model": model,
        "loss": {"dense": 1.0},
        "loop": {**vars(bundled.loop), "steps": 1, "frozen": [], "tensorboard": False},
        "data": {**bundled.data.model_dump(exclude={"sets", "validation"}), **smaller},
    }
    prepared = prepare(parse_recipe(changed, folder), folder=tmp_path)
    run = Trainer(prepared.task, bundled.loop, tmp_path)
    assert run._one_step()["loss"] > 0
    assert run.validate()["validation_ap50"] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": []}, r"data\.sets is \[\]: .*at least 1 item"),
        ({"sets": [{"format": "voc"}]}, r"data\.sets\.0\.format is 'voc'; accepted are 'coco'"),
        ({"sets": [{"annotations": "x"}]}, r"data\.sets\.0\.format is missing"),
        ({"sets": [{"format": "coco", "annotations": "x"}]}, r"data\.sets\.0\.pictures is missing"),
        ({"sets": [{"format": "coco", "anotations": "x"}]}, r"data\.sets\.0\.anotations is no known entry"),
        ({"sets": [CAPTIONS | {"weight": -1}]}, r"data\.sets\.0\.weight is -1: "),
        (
            {"sets": [{"format": "captions", "path": "captions"}, {"format": "shards", "shards": "shards/*.tar"}]},
            "needs a weight",
        ),
        ({"sets": [CAPTIONS | {"faulty": "maybe"}]}, r"0\.faulty is 'maybe'"),
        ({"sets": [{"format": "scenes", "full": {"smalest": 1}}]}, r"data\.sets\.0\.full\.smalest is no known entry"),
        ({"bach": 3}, r"data\.bach is no known entry"),
        ({"denoising": {}}, r"data\.denoising is no known entry"),
        ({"augmentation": {"zoom": 2}}, r"data\.augmentation\.zoom is no known entry"),
        ({"batch": 0}, r"data\.batch is 0: "),
    ],
)
def test_a_faulty_recipe_is_named(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        prepare(recipe("clip", folder, **changes), folder=tmp_path)


def test_a_start_of_another_family_or_beside_a_model_is_refused(folder: Path, tmp_path: Path):
    clip = table("clip")
    with pytest.raises(RecipeError, match="is a glip; the recipe trains a clip"):
        prepare(parse_recipe(clip, folder, start="checkpoints/glip"), folder=tmp_path)
    with pytest.raises(RecipeError, match="exclude each other"):
        prepare(parse_recipe(clip | {"model": {"type": "ClipConfig"}}, folder), folder=tmp_path)
    with pytest.raises(RecipeError, match=r"has no \[model\]"):
        prepare(parse_recipe(clip | {"start": None}, folder), folder=tmp_path)
    with pytest.raises(RecipeError, match=r"model: .*ClipConfig has no \['wdth'\]"):
        prepare(
            parse_recipe(clip | {"start": None, "model": {"type": "ClipConfig", "wdth": 3}}, folder), folder=tmp_path
        )


def test_captions_alone_train_no_detector_and_boxes_alone_no_clip(folder: Path, tmp_path: Path):
    captions = [{"format": "captions", "path": "captions"}]
    with pytest.raises(DataError, match=r"png: a record without boxes cannot train a detector"):
        begun("glip", folder, tmp_path / "a", sets=captions)._one_step()
    coco = [{"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"}]
    with pytest.raises(DataError, match=r"image id 10\d: boxes without a caption cannot train a CLIP"):
        begun("clip", folder, tmp_path / "b", sets=coco)._one_step()


def test_yolo_set_is_trained_on_and_validated_with(folder: Path, tmp_path: Path):
    pictures = tmp_path / "yolo" / "images"
    found = sets.write_pictures(pictures, 4)
    (tmp_path / "yolo" / "labels").mkdir()
    for number, things in enumerate(found):
        lines = [
            f"{sets.NAMES.index(name)} {(x + w / 2) / 80} {(y + h / 2) / 60} {w / 80} {h / 60}"
            for name, (x, y, w, h) in things
        ]
        (tmp_path / "yolo" / "labels" / f"{number}.txt").write_text("\n".join(lines))
    (tmp_path / "yolo" / "data.yaml").write_text(f"train: images\nval: images\nnames: {list(sets.NAMES)}\n")
    table = {"format": "yolo", "data": str(tmp_path / "yolo" / "data.yaml")}
    run = begun("glip", folder, tmp_path / "run", sets=[table], validation=[table])
    assert run._one_step()["loss"] > 0
    assert {f"ap/{name}" for name in sets.NAMES} & run.validate().keys()


def class_folders(folder: Path, *names: str) -> dict[str, Any]:
    for name in names:
        sets.write_pictures(folder / name, 3)
    return {"format": "classes", "path": str(folder)}


def test_clip_learns_from_folders_of_classes_and_is_validated_by_its_names(folder: Path, tmp_path: Path):
    data = {
        "sets": [class_folders(tmp_path / "train", "red_square", "blue", "green")],
        "validation": [class_folders(tmp_path / "val", "Green", "blue")],
    }
    run = begun("clip", folder, tmp_path / "run", **data)
    assert isinstance(run.task, DatasetTask)
    (batch,) = run.task.batches(1)
    assert set(batch.picture_keys.tolist()) <= {0, 1, 2}
    (held_out,) = run.task.held_out()
    assert set(held_out.picture_keys.tolist()) <= {0, 1}  # blue and green, in the order of those to train on
    run.run()
    (figures,) = [row for row in rows(tmp_path / "run") if "validation_top1" in row]
    assert 0 <= figures["validation_top1"] <= 1


def test_class_that_is_only_validated_is_refused_before_the_run(folder: Path, tmp_path: Path):
    data = {
        "sets": [class_folders(tmp_path / "train", "red", "blue")],
        "validation": [class_folders(tmp_path / "val", "pink")],
    }
    with pytest.raises(RecipeError, match="has the class 'pink'; classes to train on are blue, red"):
        begun("clip", folder, tmp_path / "run", **data)
