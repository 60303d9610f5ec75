"""Ablations of a small CLIP: generalisation to an unseen art style and to unseen names, in short training runs.

    python -m tests.benchmarks.generalisation OUT --sprites sprites.zip --names models/synthetic/names.txt \\
        --words runs/words --steps 600

One style and every tenth name are held out. Pictures get harder over the whole run; those measured are half as hard as
the last. A row of the table is printed as soon as its run is over; rows in OUT are reused, and an interrupted run is
resumed.
"""

import argparse
import json
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.clip.model import Clip, unit_length
from models.synthetic.label_phrases import NameEmbeddings
from models.synthetic.scenes import EASY, HARD, SceneGenerator
from models.synthetic.sprites import STYLES, NamedObject, SpritePack, load_pack, read_names
from models.training.distillation import DistilledWords
from models.training.loop import Trainer, evaluating
from models.training.recipe import CONFIGS, Recipe, parse_recipe
from models.training.tasks import prepare
from server.contract.manifest import Preprocessing

KEPT_STYLE, KEPT_NAMES = "fluent", 10
SEED = 20261126
MEASURED = EASY.toward(replace(HARD, smallest=0.35, largest=1.0), 0.5)
COLUMNS = (
    "names and styles trained on",
    "unseen style",
    "unseen names, among themselves",
    "unseen names, among all",
    "unseen names, among all, top-5",
)


@dataclass(frozen=True)
class Variant:
    """One ablation: changed scene settings, or random text embeddings instead of distilled ones."""

    name: str
    scenes: dict[str, float]
    knows: bool = True


VARIANTS = (
    Variant("everything", {}),
    Variant("no style augmentation (no restyling, no bending)", {"restyle": 0.0, "warp": 0.0}),
    Variant("no colour augmentation", {"colour": 0.05, "painted": 0.0}),
    Variant("no corruptions (blur, noise, compression)", {"degrade": 0.0}),
    Variant("flat backgrounds, no occlusion, no distractors", {"busy": -1.0, "overlap": 0.0, "shapes": 0}),
    Variant("random text embeddings", {}, knows=False),
)


def measure(
    model: Clip, rules: Preprocessing, pack: SpritePack, objects: Sequence[NamedObject], among: Tensor, *, pictures: int
) -> tuple[Tensor, Tensor]:
    """Cosines [pictures, N] of fresh pictures of `objects` with text embeddings `among` [N, D]; targets [pictures]."""
    scenes = SceneGenerator(pack, tuple(objects), seed=SEED)
    batches = [scenes.single(100, (rules.shorter, rules.shorter), MEASURED) for _ in range(max(1, pictures // 100))]
    images = torch.cat([unit_length(model.encode_image(_normalise(batch.pixels, rules))) for batch in batches])
    return images @ among.T, torch.cat([batch.objects for batch in batches])


def share(cosines: Tensor, wanted: Tensor, best: int = 1) -> float:
    """Top-`best` accuracy: share of rows [B, N] whose target column [B] is among the best ones."""
    return float((cosines.topk(min(best, cosines.shape[1])).indices == wanted[:, None]).any(1).float().mean())


def run(variant: Variant, chosen: argparse.Namespace) -> list[float]:
    """Train and measure a variant; figures in the order of `COLUMNS`."""
    torch.manual_seed(0)
    folder = chosen.out / variant.name.split(" (")[0].replace(" ", "-").replace(",", "")
    words = chosen.words if variant.knows else _random_words(chosen.words, folder / "words")
    seen_styles = [style for style in STYLES if style != KEPT_STYLE]
    seen_pack = load_pack(chosen.sprites, styles=seen_styles)
    objects = read_names(chosen.names, pack=seen_pack)
    trained = tuple(item for place, item in enumerate(objects) if place % KEPT_NAMES)
    unseen = tuple(item for place, item in enumerate(objects) if not place % KEPT_NAMES)
    names = _write_names(folder / "names.txt", trained)
    recipe = _recipe(variant, chosen, words=words.absolute(), names=names.absolute(), styles=seen_styles)
    trainer = Trainer(prepare(recipe, folder=folder).task, recipe.loop, folder)
    trainer.resume()
    model = trainer.run()
    assert isinstance(model, Clip)
    embeddings, rules = DistilledWords(words).embeddings, recipe.data.preprocessing
    assert rules is not None
    here, there, everything = (
        NameEmbeddings(embeddings, group).labels for group in (trained, unseen, (*trained, *unseen))
    )
    unseen_pack = load_pack(chosen.sprites, styles=(KEPT_STYLE,))
    with evaluating(model):
        seen = measure(model, rules, seen_pack, trained, here, pictures=chosen.pictures)
        style = measure(model, rules, unseen_pack, trained, here, pictures=chosen.pictures)
        unseen_names = measure(model, rules, seen_pack, unseen, there, pictures=chosen.pictures)
        among_all, wanted = measure(model, rules, seen_pack, unseen, everything, pictures=chosen.pictures)
    wanted = wanted + len(trained)
    return [share(*seen), share(*style), share(*unseen_names), share(among_all, wanted), share(among_all, wanted, 5)]


def _recipe(variant: Variant, chosen: argparse.Namespace, **flags: Any) -> Recipe:
    """The bundled recipe at three quarters of its size, with the variant's scenes."""
    table = tomllib.loads((CONFIGS / "clip-drawings.toml").read_text())
    (scenes,) = table["data"]["sets"]
    full, easy = {**scenes["full"], **variant.scenes}, {**vars(EASY), **variant.scenes}
    scenes |= {"full": full, "easy": easy, "until": 1.0, "small": 1.0, "block": chosen.batch}
    table["data"] |= {"batch": chosen.batch, "validation_batches": 1}
    table["loop"] |= {"steps": chosen.steps, "warmup_steps": 100, "average": 0.99, "save_every": 100}
    return parse_recipe(table, CONFIGS, sprites=chosen.sprites.absolute(), **flags)


def _write_names(file: Path, objects: Sequence[NamedObject]) -> Path:
    """Write a list of names of these objects."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{item.label}: {', '.join(item.slugs)} | {', '.join(item.synonyms)}\n" for item in objects]
    file.write_text("".join(lines))
    return file


def _normalise(pixels: Tensor, rules: Preprocessing) -> Tensor:
    """Normalise [B, 3, H, W] in 0..1 as the model reads it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (rules.mean, rules.std))
    return (pixels - mean) / std


def _random_words(words: Path, folder: Path) -> Path:
    """Write the same names with random embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = torch.load(words / "corpus.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    targets = functional.normalize(torch.randn(corpus["targets"].shape, generator=generator), dim=1)
    torch.save({**corpus, "targets": targets}, folder / "corpus.pt")
    for name in ("tokenizer.json", "clip_text.safetensors"):
        if (words / name).is_file():
            (folder / name).write_bytes((words / name).read_bytes())
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Ablations: generalisation to unseen styles and names.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--names", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="folder of a distillation")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=1000, help="fresh pictures for each column")
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="run only the first ones")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    random.seed(0)
    print("\n".join(["| run | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]), flush=True)
    file = chosen.out / "figures.json"
    figures: dict[str, list[float]] = json.loads(file.read_text()) if file.is_file() else {}
    for variant in VARIANTS[: chosen.variants]:
        if variant.name not in figures:
            figures[variant.name] = run(variant, chosen)
            file.write_text(json.dumps(figures, indent=1))
        row = " | ".join(f"{value:.3f}" for value in figures[variant.name])
        print(f"| {variant.name} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
