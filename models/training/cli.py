"""`openset train`: follow a recipe, and write a checkpoint that `openset export` reads."""

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models import registry
from models.training.distributed import ProcessGroup, join_group, leave_group
from models.training.loop import CHECKPOINT, Trainer
from models.training.recipe import Recipe, read_recipe
from models.training.run_report import write_run_report
from models.training.tasks import PreparedRun, prepare
from server.memory.process_resources import available_cpus

FLAGS = ("start", "words", "backbone", "sprites", "styles", "names", "photographs")


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
    flags = {name: getattr(args, name) for name in FLAGS}
    recipe = read_recipe(args.recipe, **flags)
    threads = args.threads or default_threads(recipe.data.workers)
    if threads is not None:
        torch.set_num_threads(threads)
    if args.steps is not None:
        recipe = recipe.model_copy(update={"loop": replace(recipe.loop, steps=args.steps)})
    if (args.out / CHECKPOINT).exists() and not args.resume:
        raise ValueError(f"{args.out} holds a run: go on with it by --resume, or name another folder")
    group = join_group(recipe.loop.device)
    try:
        _train(recipe, args.out, group, resume=args.resume)
    finally:
        leave_group(group)


def default_threads(workers: int) -> int | None:
    """CPUs that this process may use, less those that others keep busy and readers will; None where OpenMP is told.

    Threads that wait for one without a CPU are slower than fewer threads.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, available_cpus() - round(busy) - workers)


def _train(recipe: Recipe, out: Path, group: ProcessGroup, *, resume: bool) -> None:
    if not group.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, folder=out, group=group)
    known: dict[str, Any] = {"steps_per_epoch": prepared.steps_per_epoch, "baseline": prepared.continued}
    trainer = Trainer(prepared.task, recipe.loop, out, group, **known)
    if resume:
        trainer.resume()
    threads = f"{torch.get_num_threads()} threads (--threads sets others)"
    logging.info("%s: %s, on %s, %s", recipe.name, _sizes(prepared), group.device, threads)
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
    about = {"started from": str(recipe.start or "scratch"), "steps": str(recipe.loop.steps), "size": _sizes(prepared)}
    if loss := write_run_report(out, recipe.name, about):
        logging.warning("%s", loss)
    logging.info("wrote %s and %s", out / "checkpoint", out / "report.html")


def _sizes(prepared: PreparedRun) -> str:
    trained = sum(one.numel() for one in prepared.task.module.parameters() if one.requires_grad)
    count = sum(one.numel() for one in prepared.task.model.parameters())
    return f"{count / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained"
