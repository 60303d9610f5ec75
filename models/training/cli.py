"""`openset train`: follow a recipe, and write a checkpoint that `openset export` reads."""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from models import registry
from models.training.distributed import ProcessGroup, join_group, leave_group
from models.training.loop import CHECKPOINT, Trainer
from models.training.recipe import CONFIGS, Recipe, read_recipe
from models.training.tasks import PreparedRun, prepare

FLAGS = ("start", "words", "backbone", "sprites", "styles", "names", "photographs")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    bundled = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
    parser.add_argument("recipe", help=f"a TOML file, or the name of a bundled recipe: {bundled}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: curve, last state, checkpoint")
    parser.add_argument(
        "--start",
        type=_absolute,
        help="checkpoint to start from (default: the recipe's, if it names one): of the same family in any published"
        " form, or where the recipe has a [model], one whose backbones are taken over",
    )
    parser.add_argument(
        "--words", type=_absolute, help="folder of a distillation, whose vocabulary and text encoder are taken"
    )
    parser.add_argument(
        "--backbone",
        type=_absolute,
        help="published weights of an EfficientNet-Lite, for the image tower of a fresh CLIP",
    )
    scenes = "of generated scenes (default: the recipe's, else the bundled"
    parser.add_argument("--sprites", type=_absolute, help=f"sprite pack {scenes} small one), zip or folder")
    parser.add_argument("--styles", nargs="+", help="art styles of the pack to train on (default: all)")
    parser.add_argument("--names", type=_absolute, help=f"list of objects {scenes} one)")
    parser.add_argument("--photographs", type=_absolute, help="photo pack of generated scenes on photographs")
    parser.add_argument("--steps", type=int, help="train this many steps instead of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--resume", action="store_true", help="go on from the last state in --out")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; exit status 2, with a message, for files that cannot be used."""
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
    flags = {name: getattr(args, name) for name in FLAGS}
    recipe = read_recipe(args.recipe, **flags)
    if args.steps is not None:
        recipe = recipe.model_copy(update={"loop": replace(recipe.loop, steps=args.steps)})
    if (args.out / CHECKPOINT).exists() and not args.resume:
        raise ValueError(f"{args.out} holds a run: go on with it by --resume, or name another folder")
    group = join_group(recipe.loop.device)
    try:
        _train(recipe, args.out, group, resume=args.resume)
    finally:
        leave_group(group)


def _train(recipe: Recipe, out: Path, group: ProcessGroup, *, resume: bool) -> None:
    if not group.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, folder=out, group=group)
    trainer = Trainer(prepared.task, recipe.loop, out, group)
    if resume:
        trainer.resume()
    logging.info("%s: %s", recipe.name, _sizes(prepared))
    model = trainer.run()
    if not group.is_main:
        return
    registry.save(
        out / "checkpoint",
        model,
        model.config,
        tokenizer_file=prepared.tokenizer,
        name=recipe.name,
        source=prepared.source,
        licence=prepared.licence,
        serving=prepared.serving,
    )
    logging.info("wrote %s", out / "checkpoint")


def _sizes(prepared: PreparedRun) -> str:
    trained = sum(one.numel() for one in prepared.task.module.parameters() if one.requires_grad)
    count = sum(one.numel() for one in prepared.task.model.parameters())
    return f"{count / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained"


def _absolute(path: str) -> Path:
    return Path(path).absolute()
