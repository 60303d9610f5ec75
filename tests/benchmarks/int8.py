"""Size and time of int8 graphs beside float32 ones, part by part, as a Markdown table.

    python -m tests.benchmarks.int8 [BUNDLE ...] [--rounds 7] [--unplanned]

For the bundled models, or the bundles given. One picture at the bundle's own size and four labels, or eight pictures of
a CLIP, on one thread; both take turns, and of each the least processor time counts. A bundle without int8 graphs gets
them in a copy; `--unplanned`: of all products, uncertified, for bundles of synthetic weights, which answer nothing.
"""

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from export.certificate.int8_agreement import int8_graphs
from export.int8_graphs import add_int8
from export.onnx.int8 import Int8Writer
from export.part_times import Times, part_times
from export.progress import Progress
from server.bundle import Bundle, artefact_bytes
from server.contract.manifest import Artefact, Manifest, read_manifest, sha256_of, write_manifest
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import SHIPPED


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", type=Path, default=[BUNDLED / name for name in SHIPPED])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--unplanned", action="store_true")
    args = parser.parse_args(argv)
    print("| bundle | part | MB: float32, int8 | products in int8 | time: float32, int8 | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for given in args.bundle:
        with tempfile.TemporaryDirectory() as scratch:
            folder = given if int8_graphs(read_manifest(given)) else with_int8(given, Path(scratch), args.unplanned)
            print("\n".join(rows(folder, args.rounds)), flush=True)
    return 0


def with_int8(given: Path, scratch: Path, unplanned: bool) -> Path:
    """A copy of the bundle, of links to its files, with int8 graphs."""
    folder = shutil.copytree(given, scratch / given.name)
    (folder / "manifest.json").unlink()
    manifest = read_manifest(given)
    write_manifest(folder, manifest)
    if not unplanned:
        add_int8(folder, progress=Progress(quiet=True))
        return folder
    added = [_whole(folder, artefact) for artefact in manifest.artefacts]
    write_manifest(folder, manifest.model_copy(update={"artefacts": (*added, *manifest.artefacts)}))
    return folder


def _whole(folder: Path, artefact: Artefact) -> Artefact:
    writer = Int8Writer(onnx.load(str(folder / artefact.file)))
    file = folder / f"{artefact.part}.int8.onnx"
    onnx.save(writer.rewritten(writer.groups), str(file))
    changes = {"precision": "int8", "file": file.name, "sha256": sha256_of(file), "data": (), "certificate": None}
    return artefact.model_copy(update=changes)


def rows(folder: Path, rounds: int) -> Iterator[str]:
    """A line for each part in int8, and one for all parts together."""
    manifest = read_manifest(folder)
    float32, int8 = ({a.part: a for a in manifest.artefacts if a.precision == kind} for kind in ("fp32", "int8"))
    bundles = {
        name: Bundle(folder, allow_uncertified=True, threads=1, files={graph.file for graph in graphs.values()})
        for name, graphs in (("float32", float32), ("int8", float32 | int8))
    }
    best: dict[str, Times] = {name: defaultdict(lambda: float("inf")) for name in bundles}
    for _ in range(rounds):
        for name, bundle in bundles.items():
            taken = part_times(bundle)
            for part, seconds in {**taken, "all": sum(taken.values())}.items():
                best[name][part] = min(best[name][part], seconds)
    for part, graph in int8.items():
        sizes = [artefact_bytes(folder, a) / 1e6 for a in (float32[part], graph)]
        yield _row(manifest, part, f"{sizes[0]:.1f}, {sizes[1]:.1f}", _share(folder / graph.file), best)
    yield _row(manifest, "all", "", "", best)


def _share(file: Path) -> str:
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    return f"{kinds.count('MatMulInteger')} of {sum(kinds.count(kind) for kind in ('MatMulInteger', 'MatMul', 'Gemm'))}"


def _row(manifest: Manifest, part: str, sizes: str, share: str, best: dict[str, Times]) -> str:
    float32, int8 = best["float32"][part], best["int8"][part]
    taken = f"{float32 * 1e3:.0f}, {int8 * 1e3:.0f} ms"
    return f"| {manifest.name} | {part} | {sizes} | {share} | {taken} | {float32 / int8:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
