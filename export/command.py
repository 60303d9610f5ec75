"""`openset export` and `openset verify`."""

import argparse
import sys
from pathlib import Path

from export.progress import Progress, peak_memory_bytes
from export.verify import Verdict, verify
from server.contract.manifest import LOWERINGS, BundleError, Manifest, read_manifest


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Fill the parser of "export" or "verify" and set its `func`."""
    if command == "export":
        parser.add_argument("--checkpoint", type=Path, required=True, help="file or folder of the weights")
        parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; an older bundle is replaced")
        parser.add_argument("--name", help="name that requests use (default: the folder's)")
        parser.add_argument("--bundle-version", default="1", help="version that answers tell (default: 1)")
        parser.add_argument("--opset", type=int, default=17, help="ONNX opset, 16 to 18 (default: 17)")
        parser.add_argument(
            "--lowering",
            choices=LOWERINGS,
            default=LOWERINGS[0],
            help="bilinear sampling as GridSample or as gathers, for runtimes that get GridSample wrong"
            " (default: grid_sample)",
        )
        parser.set_defaults(func=run_export)
    else:
        parser.add_argument("bundle", type=Path, help="folder of the bundle")
        parser.set_defaults(func=run_verify)
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def run_export(args: argparse.Namespace) -> int:
    """Export a checkpoint; 0 where every certificate passed."""
    from export.bundle import export_bundle  # needs PyTorch, which `verify` does without

    progress = Progress(args.quiet)
    try:
        manifest = export_bundle(
            args.checkpoint,
            args.out,
            name=args.name,
            version=args.bundle_version,
            opset=args.opset,
            lowering=args.lowering,
            progress=progress,
        )
    except (ValueError, OSError) as error:
        return _failed("export", error)
    _print_certificates(manifest, progress)
    progress.say(f"peak memory: {peak_memory_bytes() / 2**30:.2f} GiB")
    failed = [a.part for a in manifest.artefacts if a.certificate is None or not a.certificate.passed]
    if failed:
        print(f"openset export: {args.out} is written, but {', '.join(failed)} FAILED its certificate", file=sys.stderr)
        return 1
    print(f"{args.out}: {manifest.name}, certified")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check a bundle; 0 where nothing is wrong."""
    progress = Progress(args.quiet)
    try:
        verdict = verify(args.bundle, progress)
        if verdict.figures:
            _print_comparison(read_manifest(args.bundle), verdict, progress)
    except (BundleError, OSError) as error:
        return _failed("verify", error)
    for fault in verdict.faults:
        print(f"openset verify: FAILED: {fault}", file=sys.stderr)
    if not verdict.faults:
        print(f"{args.bundle}: right")
    return 1 if verdict.faults else 0


def _print_certificates(manifest: Manifest, progress: Progress) -> None:
    for artefact in manifest.artefacts:
        if artefact.certificate is not None:
            limits = artefact.certificate.tolerances
            for name, value in artefact.certificate.figures.items():
                limit = f"(limit {limits[name]:g})" if name in limits else ""
                progress.say(f"  {artefact.part:14} {name:34} {value:<12.4g} {limit}")


def _print_comparison(manifest: Manifest, verdict: Verdict, progress: Progress) -> None:
    for artefact in manifest.artefacts:
        recorded = artefact.certificate.figures if artefact.certificate else {}
        for name, value in verdict.figures.get(artefact.part, {}).items():
            then = f"(certified {recorded[name]:.4g})" if name in recorded else ""
            progress.say(f"  {artefact.part:14} {name:34} {value:<12.4g} {then}")


def _failed(command: str, error: Exception) -> int:
    print(f"openset {command}: {error}", file=sys.stderr)
    return 1
