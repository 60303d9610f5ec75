"""`openset train`: follow a recipe, and write a checkpoint that `openset export` reads."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from models import registry
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, STYLES, load_pack, read_names
from models.synthetic.synthetic_tasks import FAMILIES, Prepared
from models.training.dataset_tasks import prepare_annotated
from models.training.distributed import Processes, join, leave
from models.training.loop import CHECKPOINT, Trainer
from models.training.recipe import CONFIGS, Recipe, read_recipe
from server.contract.manifest import Buckets, DetectionRules, Preprocessing


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    bundled = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
    parser.add_argument("recipe", help=f"a TOML file, or the name of a bundled recipe: {bundled}")
    parser.add_argument(
        "--sprites", type=Path, default=SMALL_PACK, help="sprite pack, zip or folder (default: the small one)"
    )
    parser.add_argument("--styles", nargs="+", default=STYLES, help="art styles of the pack to train on (default: all)")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of objects (default: the bundled one)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: curve, last state, checkpoint")
    parser.add_argument(
        "--start",
        type=Path,
        help="checkpoint to start from (default: the recipe's, if it names one): with data sets, one of the same family"
        " in any published form; with generated scenes, a trained CLIP for a Grounding DINO, and that one for a GLIP",
    )
    parser.add_argument(
        "--words", type=Path, help="folder of a distillation, whose vocabulary and text encoder are taken"
    )
    parser.add_argument("--steps", type=int, help="train this many steps instead of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--resume", action="store_true", help="go on from the last state in --out")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The command's exit status: 2, with a sentence, for a recipe, pack, data set or checkpoint that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        train(args)
    except (ValueError, OSError) as error:
        print(f"openset train: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> None:
    """Follow the recipe to its end and write the checkpoint."""
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = read_recipe(args.recipe)
    if recipe.family not in FAMILIES:
        raise ValueError(f"the recipe's family is {recipe.family!r}; trained are {sorted(FAMILIES)}")
    if (args.out / CHECKPOINT).exists() and not args.resume:
        raise ValueError(f"{args.out} holds a run: go on with it by --resume, or name another folder")
    if recipe.loop.frozen and not recipe.annotated:
        raise ValueError("loop.frozen is for data sets: with generated scenes, data.frozen names modules that stay")
    # Pictures are generated on the processor, in one process.
    processes = join(recipe.loop.device if recipe.annotated else "cpu")
    try:
        _train(args, recipe, processes)
    finally:
        leave(processes)


def _train(args: argparse.Namespace, recipe: Recipe, processes: Processes) -> None:
    if not processes.first:
        logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(recipe.seed)
    start = recipe.folder / recipe.start if recipe.start and args.start is None else args.start
    if recipe.annotated:
        prepared = prepare_annotated(recipe, start=start, processes=processes)
    else:
        pack = load_pack(args.sprites, styles=args.styles)
        objects = read_names(args.names, pack=pack)
        prepared = FAMILIES[recipe.family](recipe, pack, objects, folder=args.out, start=start, words=args.words)
    trainer = Trainer(prepared.task, prepared.loop(args.steps), args.out, processes)
    if args.resume:
        trainer.resume()
    logging.info("%s: %s", recipe.name, _sizes(prepared))
    model = trainer.run()
    if not processes.first:
        return
    registry.save(
        args.out / "checkpoint",
        model,
        prepared.config,
        tokenizer_file=prepared.tokenizer,
        name=recipe.name,
        source=prepared.source,
        licence=prepared.licence,
        serving={**prepared.serving, **_serving(recipe)},
    )
    logging.info("wrote %s", args.out / "checkpoint")


def _serving(recipe: Recipe) -> dict[str, Any]:
    """How the model is to be served: as it was trained."""
    sections: dict[str, tuple[str, type[BaseModel]]] = {
        "preprocessing": ("preprocessing", Preprocessing),
        "buckets": ("buckets", Buckets),
        "rules": ("detection", DetectionRules),
    }
    return {
        section: kind.model_validate(recipe.data[key]).model_dump(mode="json")
        for key, (section, kind) in sections.items()
        if key in recipe.data
    }


def _sizes(prepared: Prepared) -> str:
    learning = sum(one.numel() for one in prepared.task.module.parameters() if one.requires_grad)
    count = sum(one.numel() for one in prepared.task.model.parameters())
    return f"{count / 1e6:.2f} M parameters, {learning / 1e6:.2f} M learn"
