"""Pseudo-labels: a student trained on a teacher's boxes for captions, against one trained on the boxed scenes alone.

    python -m tests.benchmarks.pseudo_labels OUT

Generated scenes: a few with boxes, many with captions only, others for measuring. The teacher is trained on the boxes
and grounds the captions (`openset pseudo-label`); the student is the same model with the same initialisation and number
of steps, trained on the boxes and the grounded captions. A third model gets the captions' true boxes, as an upper
bound. Every step is an `openset` command. Existing files in OUT are reused, and an interrupted training is resumed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.data.coco_evaluator import CocoEvaluation
from models.evaluation.dataset_queries import open_evaluation_set
from models.synthetic.scenes import SceneConfig, SceneGenerator, to_image
from models.synthetic.sprites import SMALL_PACK, NamedObject, load_pack, read_names
from models.tokenizers import small_wordpiece
from server.contract.postprocess import iou_matrix

ROOT = Path(__file__).parents[2]
SIZE = (96, 96)
SCENES = SceneConfig(smallest=0.3, largest=0.6, most_objects=3, turn=0.15, busy=0.5, degrade=0.3, colour=0.1)
NAMES = ("frog", "banana", "bus", "penguin", "apple", "elephant")
LINKS = ("and", "next to", "near", "beside", "with")
# Number of scenes of each kind, and their seed.
KINDS = {"boxed": (30, 1), "captioned": (1200, 2), "measured": (200, 3)}
RECIPE = """\
family = "glip"
name = "{name}"
seed = {seed}

[loop]
steps = {steps}
learning_rate = 2e-3
weight_decay = 0.02
warmup_steps = 50
average = 0.99
clip_norm = 1.0
log_every = 50
validate_every = 100000
save_every = 100
tensorboard = false

[data]
batch = 8
workers = 0
tokenizer = "tokenizer.json"

[data.preprocessing]
resize = "shorter_longer"
shorter = 64
longer = 64
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[data.augmentation]
colour = 0.2

[model]
type = "GlipConfig"
stages = [1, 2]
channels = 48
extra_levels = 0
anchor_sizes = [20, 40]
tower_layers = 1
fusion_heads = 4
fusion_hidden = 48
log_scale_init = -2.5
candidate_score = 0.01
backbone = {{ type = "ResNetConfig", blocks = [1, 1, 1, 1], width = 12 }}
text = {{ type = "BertConfig", width = 48, layers = 1, heads = 4, hidden = 96, max_positions = 64, token_types = 1 }}

[[data.sets]]
format = "coco"
annotations = "boxed.json"
pictures = "boxed"
weight = 1
"""
MORE = """
[[data.sets]]
format = "odvg"
annotations = "{file}"
pictures = "captioned"
weight = 2
"""
# Data of each student besides the boxes.
STUDENTS = {"boxes": "", "pseudo": "pseudo-{seed}.jsonl", "true": "true.jsonl"}


def write_scenes(out: Path, kind: str, objects: Sequence[NamedObject], generator: SceneGenerator, count: int) -> None:
    """Write pictures, a COCO file of their boxes, a list of their captions, and an ODVG file of both."""
    folder = out / kind
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(count)
    data: dict[str, Any] = {"images": [], "annotations": []}
    data["categories"] = [{"id": place, "name": item.label} for place, item in enumerate(objects)]
    captions, grounded = [], []
    for number in range(count):
        scene = generator.scenes(1, SIZE, SCENES)
        name = f"{number:04d}.png"
        to_image(scene.pixels[0]).save(folder / name)
        data["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        present, boxes = scene.objects[0].tolist(), scene.boxes_xyxy[0].tolist()
        for place, (x0, y0, x1, y1) in zip(present, boxes, strict=True):
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": number,
                    "category_id": place,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
        caption, regions = _caption([objects[place].label for place in present], boxes, rng)
        captions.append({"file_name": name, "caption": caption})
        if regions:
            grounding = {"caption": caption, "regions": regions}
            grounded.append({"filename": name, "height": SIZE[0], "width": SIZE[1], "grounding": grounding})
    (out / f"{kind}.json").write_text(json.dumps(data))
    (out / f"{kind}-captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    (out / f"{kind}-grounded.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grounded))


def _caption(names: Sequence[str], boxes: Sequence[Any], rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """A caption that names each kind of object once, in random order ("a pig next to a frog"), and its regions."""
    order = list(dict.fromkeys(names))
    rng.shuffle(order)
    text, regions = "", []
    for name in order:
        text += f" {rng.choice(LINKS)} " if text else ""
        text += "an " if name[0] in "aeiou" else "a "
        these = [box for box, other in zip(boxes, names, strict=True) if other == name]
        regions.append({"phrase": name, "bbox": these, "tokens_positive": [[len(text), len(text) + len(name)]]})
        text += name
    return text or "nothing at all", regions


def prepare(out: Path, sprites: Path, names: Sequence[str]) -> None:
    """Write the data sets and the tokenizer."""
    pack = load_pack(sprites)
    objects = [item for item in read_names(pack=pack) if item.label in names]
    if missing := set(names) - {item.label for item in objects}:
        raise ValueError(f"{sprites} has no {sorted(missing)}")
    for kind, (count, seed) in KINDS.items():
        write_scenes(out, kind, objects, SceneGenerator(pack, tuple(objects), seed=seed), count)
    words = {word for name in names for word in name.split()} | {word for link in LINKS for word in link.split()}
    small_wordpiece(sorted(words | {"a", "an", "nothing", "at", "all"})).save(str(out / "tokenizer.json"))
    (out / "captioned-grounded.jsonl").replace(out / "true.jsonl")


def openset(*arguments: str | Path) -> None:
    """Run one `openset` command on one thread."""
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    print("openset", *map(str, arguments), flush=True)
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def train(out: Path, student: str, *, seed: int, steps: int) -> Path:
    """Train a student and export it; the bundle's folder."""
    name = f"{student}-{seed}"
    bundle = out / f"{name}-bundle"
    if not bundle.is_dir():
        more = MORE.format(file=STUDENTS[student].format(seed=seed)) if STUDENTS[student] else ""
        recipe = out / f"{name}.toml"
        recipe.write_text(RECIPE.format(name=name, seed=seed, steps=steps) + more)
        openset("train", recipe, "--out", out / name, "--threads", "1", "--resume")
        openset("export", "--checkpoint", out / name / "checkpoint", "--out", bundle, "--quiet")
    return bundle


def quality(pseudo: Path, true: Path) -> str:
    """Precision of a teacher's boxes (IoU 0.5 with a true box of the phrase), and the number of true boxes."""
    regions = {
        line["filename"]: {region["phrase"]: region["bbox"] for region in line["grounding"]["regions"]}
        for line in map(json.loads, true.read_text().splitlines())
    }
    boxes = right = 0
    for line in map(json.loads, pseudo.read_text().splitlines()):
        for region in line["grounding"]["regions"]:
            found = np.asarray(region["bbox"], np.float32)
            real = np.asarray(regions[line["filename"]].get(region["phrase"], []), np.float32).reshape(-1, 4)
            boxes += len(found)
            right += int((iou_matrix(found, real).max(1, initial=0) >= 0.5).sum())
    there = sum(len(some) for one in regions.values() for some in one.values())
    return f"{pseudo.name}: {right} of {boxes} boxes are right; there are {there}"


def measure(out: Path, bundle: Path) -> dict[str, float]:
    """Detection figures of a student on held-out scenes."""
    report = bundle.with_name(bundle.name.replace("-bundle", "-report"))
    if not (report / "report.json").is_file():
        openset("evaluate", out / "measured.json", "--pictures", out / "measured", "--bundle", bundle, "--out", report)
    figures: dict[str, float] = json.loads((report / "report.json").read_text())["figures"]["detection"]
    return figures


def interval(out: Path, first: str, second: str, *, rounds: int = 100) -> tuple[float, float]:
    """Bootstrap 90 % interval of the difference in AP50, second minus first."""
    found = open_evaluation_set(out / "measured.json", "coco", images=out / "measured")
    truth = [query.target[1] for query in found.queries["detection"].draw()]
    answers = []
    for name in (first, second):
        lines = (out / f"{name}-report" / "answers-detection.jsonl").read_text().splitlines()[1:]
        answers.append([np.asarray(json.loads(line), np.float64).reshape(-1, 6) for line in lines])
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(rounds):
        drawn = rng.integers(0, len(truth), len(truth)).tolist()
        boxes = [replace(box, image=row) for row, image in enumerate(drawn) for box in truth[image]]
        values = [
            CocoEvaluation(boxes, [rows[image] for image in drawn], labels=len(found.labels), ious=(0.5,))
            for rows in answers
        ]
        differences.append(values[1].average_precision() - values[0].average_precision())
    low, high = np.percentile(differences, [5, 95])
    return float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps of the experiment that have not been run; the exit status."""
    parser = argparse.ArgumentParser(description="Train on a teacher's boxes for captions.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sprites", type=Path, default=SMALL_PACK)
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threshold", type=float, default=0.4, help="minimum score of a teacher's box")
    chosen = parser.parse_args(arguments)
    if not (chosen.out / "tokenizer.json").is_file():
        prepare(chosen.out, chosen.sprites, chosen.names)
    print("| seed | student | AP50 | AP |\n| --- | --- | --- | --- |")
    for seed in chosen.seeds:
        for student in STUDENTS:
            pseudo = chosen.out / f"pseudo-{seed}.jsonl"
            if student == "pseudo" and not pseudo.is_file():
                captions = [chosen.out / "captioned-captions.jsonl", "--pictures", chosen.out / "captioned"]
                teacher = ["--bundle", chosen.out / f"boxes-{seed}-bundle", "--threshold", str(chosen.threshold)]
                openset("pseudo-label", *captions, *teacher, "--complete", "--out", pseudo, "--resume")
            if student == "pseudo":
                print(quality(pseudo, chosen.out / "true.jsonl"))
            figures = measure(chosen.out, train(chosen.out, student, seed=seed, steps=chosen.steps))
            print(f"| {seed} | {student} | {figures['AP50']:.3f} | {figures['AP']:.3f} |", flush=True)
        low, high = interval(chosen.out, f"boxes-{seed}", f"pseudo-{seed}")
        print(f"AP50, pseudo minus boxes: 90 % bootstrap interval {low:+.3f} to {high:+.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
