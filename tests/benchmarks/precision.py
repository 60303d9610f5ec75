"""Accuracy of fp16, bf16 and mixed precision: certificate figures as a Markdown table.

    python -m tests.benchmarks.precision [BUNDLE ...]

For the bundled models, or the bundles given. Copies are rewritten in each precision and run by ONNX Runtime on the CPU,
as float32 twins that round where the graph does, and compared with the stored PyTorch float32 outputs.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from export.onnx.precision import REDUCED
from export.progress import Progress
from export.reduced_graphs import add_precision
from server.contract.manifest import Manifest, Precision, read_manifest
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import SHIPPED

QUIET = Progress(quiet=True)
# Figures of a certificate that are shown, if the bundle has them; each belongs to one part.
SHOWN = {
    "image_embeds.cosine": "image cosine",
    "text_embeds.cosine": "text cosine",
    "class_scores.drift": "score drift",
    "class_scores.label_agreement": "same label",
    "text_features.cosine": "text features' cosine",
    "image_features.cosine": "image features' cosine",
    "boxes.mean_abs_error": "mean box error",
    "detections.matched": "boxes matched",
    "detections.mean_iou": "their IoU",
    "detections.label_agreement": "same label",
    "detections.score_drift": "score drift",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", type=Path, default=[BUNDLED / name for name in SHIPPED])
    for folder in parser.parse_args(argv).bundle:
        with tempfile.TemporaryDirectory() as scratch:
            manifest = with_all(Path(shutil.copytree(folder, Path(scratch) / folder.name)))
        print("\n".join(table(manifest)), end="\n\n", flush=True)
    return 0


def with_all(folder: Path) -> Manifest:
    """Add every precision to the bundle; its manifest."""
    manifest = read_manifest(folder)
    for precision in REDUCED:
        manifest = add_precision(folder, precision, progress=QUIET)
    return manifest


def table(manifest: Manifest) -> Iterator[str]:
    """Lines of a bundle's table, one row per precision."""
    precisions: tuple[Precision, ...] = ("fp32", *REDUCED)
    rows = {precision: figures_of(manifest, precision) for precision in precisions}
    names = [name for name in SHOWN if name in rows["fp32"]]
    yield f"| {manifest.name} | {' | '.join(SHOWN[name] for name in names)} | certificate |"
    yield f"| --- |{' --- |' * (len(names) + 1)}"
    for precision, figures in rows.items():
        cells = [shown(figures[name]) for name in names]
        yield f"| {precision} | {' | '.join(cells)} | {verdict(manifest, precision)} |"


def shown(value: float) -> str:
    """A share or a cosine to six digits, an error to two."""
    return f"{value:.6g}" if value > 0.1 else f"{value:.2g}"


def figures_of(manifest: Manifest, precision: Precision) -> Mapping[str, float]:
    """All figures of a precision's graphs."""
    graphs = [a for a in manifest.artefacts if a.engine is None and a.precision == precision]
    return {name: value for a in graphs if a.certificate for name, value in a.certificate.figures.items()}


def verdict(manifest: Manifest, precision: Precision) -> str:
    """Whether the certificates of a precision passed, else the parts that fall short."""
    graphs = [a for a in manifest.artefacts if a.engine is None and a.precision == precision]
    failed = [a.part for a in graphs if a.uncertified]
    return f"short: {', '.join(failed)}" if failed else "passes"


if __name__ == "__main__":
    sys.exit(main())
