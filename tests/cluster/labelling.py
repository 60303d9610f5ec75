"""Promises of `openset label --ray`: a job of 2,000 pictures whose driver and actors are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.benchmarks.live_server import ROOT
from tests.cluster.nodes import TestCluster, await_true

PICTURES, BROKEN, ROWS_BEFORE_KILL = 2000, 20, 700
FEW, POISONED = 40, 2
# Ends the process that opens such a picture, as a decoder's fault would; imported by each Python process of a node.
POISON = b"POISON"
SITE = f"""
import PIL.Image, os, signal
opened = PIL.Image.open
def open(file, *given, **named):
    if hasattr(file, "getvalue") and {POISON!r} in file.getvalue():
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(file, *given, **named)
PIL.Image.open = open
"""


def make_pictures(folder: Path, count: int, *, broken: int = 0, poisoned: int = 0, seed: int = 0) -> None:
    """Write so many small pictures, of which some cannot be read, and some end the process that reads them."""
    chance, every = random.Random(seed), count // max(1, broken + poisoned)
    scenes = [Image.open(path).convert("RGB") for path in sorted((ROOT / "server/examples").glob("*.jpg"))]
    folder.mkdir()
    for number in range(count):
        scene, width = chance.choice(scenes), chance.randint(96, 200)
        path = folder / f"{number:05d}.jpg"
        scene.resize((width, 3 * width // 4)).save(path)
        turn, of_turn = divmod(number, every)
        if of_turn == 1 and turn < poisoned:
            path.unlink()
            path = path.with_suffix(".bmp")  # JPEG is opened by its own class
            scene.resize((width, 3 * width // 4)).save(path)
            path.write_bytes(path.read_bytes() + POISON)
        elif of_turn == 1 and turn < poisoned + broken:
            path.write_bytes(path.read_bytes()[:200] if turn % 2 else b"a note\n")


def command(pictures: Path, out: Path, *words: str) -> list[str]:
    label = ["label", str(pictures), "--labels", "dog, bicycle, cow", "--out", str(out), "--quiet"]
    return [sys.executable, "-W", "ignore", "-m", "server", *label, *words]


def rows(out: Path) -> list[dict[str, Any]]:
    """The results so far, without a line that is being written."""
    try:
        text = (out / "results.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def rounded(found: Iterable[dict[str, Any]]) -> list[Any]:
    """Results by name, but for the last digits of scores, which depend on the pictures of a batch."""
    return sorted(
        (row["image"], row.get("error"), [(each["label"], round(each["score"], 2)) for each in row["detections"]])
        for row in found
    )


def actors() -> list[int]:
    """Process ids of the actors, with their own children left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::LabelActor"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def lost_actors(cluster: TestCluster, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """A job whose driver, actors and node are lost: name, figures, kept."""
    pictures, out, count = folder / "pictures", folder / "out", len(cluster.nodes)
    make_pictures(pictures, PICTURES, broken=BROKEN)
    job = command(pictures, out, "--ray", cluster.address, "--actors", str(count))
    began = time.monotonic()
    with subprocess.Popen(job, cwd=ROOT) as driver:
        _await_rows(out, ROWS_BEFORE_KILL, driver)
        driver.kill()
    before = len(rows(out))
    with subprocess.Popen(job, cwd=ROOT) as driver:
        for more, act in ((200, _kill_actor), (400, cluster.replace_node), (600, _kill_actor)):
            _await_rows(out, before + more, driver)
            act()
        status = driver.wait()
    found = rows(out)
    images = {row["image"] for row in found}
    broken = sum("error" in row for row in found)
    took = f"{time.monotonic() - began:.0f} s"
    yield (
        f"{PICTURES} pictures with as many actors as CPUs ({count}); the driver, two actors and a node are lost",
        f"{len(found)} rows, {len(images)} distinct, {broken} broken, {before} before the driver's end, {took}",
        len(found) == len(images) == PICTURES and broken == BROKEN and status == 1,
    )


def deadly_pictures(cluster: TestCluster, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """A job with pictures that end their process."""
    pictures, site = folder / "poisoned", folder / "site"
    make_pictures(pictures, FEW, poisoned=POISONED)
    subprocess.run(command(pictures, folder / "here"), cwd=ROOT)
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = os.pathsep.join((path, str(site)))
    for _ in list(cluster.nodes):
        cluster.replace_node()
    os.environ["PYTHONPATH"] = path
    done = subprocess.run(command(pictures, folder / "there", "--ray", cluster.address), cwd=ROOT, timeout=900)
    found = rows(folder / "there")
    poisoned = [row for row in found if "it ended the process" in row.get("error", "")]
    yield (
        "pictures that end their process are rows after two tries",
        f"{len(poisoned)} of {POISONED}: {poisoned[0]['error'][:90] if poisoned else ''}",
        len(poisoned) == POISONED and done.returncode == 1,
    )
    # In this process nothing ends it.
    names = {row["image"] for row in poisoned}
    here, there = (rounded(row for row in each if row["image"] not in names) for each in (rows(folder / "here"), found))
    yield "the same rows as in one process", f"{len(there)} compared", here == there and len(there) == FEW - POISONED


def _await_rows(out: Path, count: int, driver: "subprocess.Popen[bytes]") -> None:
    def held() -> bool:
        if driver.poll() is not None:
            raise RuntimeError(f"the job ended with {driver.returncode} at {len(rows(out))} rows")
        return len(rows(out)) >= count

    await_true(held, f"{count} rows", within_s=900)


def _kill_actor() -> None:
    """End an actor's process at once, while it works."""
    os.kill(actors()[0], signal.SIGKILL)
