"""`openset export` and `openset verify`."""

import argparse
import sys
from pathlib import Path

from export.bundle_folder import additions, bundle_name, put, remove_int8
from export.certificate.parity import Figures
from export.certificate.verify import VerifyReport, name_of, verify
from export.progress import Progress, in_int8, peak_memory_bytes
from export.tensorrt.engines import EngineTarget, add_engines
from server.contract.manifest import Artefact, Manifest, read_manifest

# Options of what is exported from a checkpoint, and their names in `export_bundle`, whose defaults hold.
_OF_A_CHECKPOINT = {
    "bundle_version": "version",
    "opset": "opset",
    "weights": "weights",
    "lowering": "lowering",
    "shorter": "shorter",
    "longer": "longer",
}


def run_export(args: argparse.Namespace) -> int:
    """Run `openset export`: 0 if every certificate passed, 1 if one failed, 2 for what cannot be exported."""
    progress = Progress(args.quiet)
    try:
        if args.runtime != "onnxruntime" and args.precision == "int8":
            raise ValueError("int8 is for CPUs: engines are built from fp32, fp16, bf16 or mixed")
        given = [name for name in _OF_A_CHECKPOINT if getattr(args, name) is not None]
        if args.checkpoint is not None:
            from export.bundle import export_bundle  # needs PyTorch, unlike the rest

            options = {_OF_A_CHECKPOINT[name]: getattr(args, name) for name in given}
            export_bundle(args.checkpoint, args.out, name=args.name, progress=progress, **options)
        elif given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"{names}: only with a --checkpoint, as a bundle's graphs and certificates are made for them"
            )
        elif args.name:
            _rename(args.out, args.name)
        elif args.runtime == "onnxruntime" and args.precision is None:
            raise ValueError("nothing to do: name a --checkpoint, or a --precision or --runtime to add to the bundle")
        if args.precision is not None:
            _set_precision(args, progress)
        if args.runtime != "onnxruntime":
            _add_engines(args, progress)
        manifest = read_manifest(args.out)
    except (ValueError, OSError) as error:
        return _failed("export", error)
    _print_certificates(manifest, progress)
    progress.say(f"peak memory: {peak_memory_bytes() / 2**30:.2f} GiB")
    failed = [name_of(a) for a in manifest.artefacts if a.engine is None and a.uncertified]
    if failed:
        print(f"openset export: {args.out} is written, but {', '.join(failed)} FAILED its certificate", file=sys.stderr)
        return 1
    print(f"{args.out}: {manifest.name}, certified{in_int8(manifest)}")
    return 0


def _rename(folder: Path, name: str) -> None:
    with additions(folder) as added:
        put(added, folder, read_manifest(folder).model_copy(update={"name": bundle_name(name)}))


def _certify_filled(bundle: Path, checkpoint: Path, progress: Progress) -> None:
    if read_manifest(bundle).template is None:
        raise ValueError(f"{bundle} was exported from its checkpoint, with a certificate: leave --checkpoint out")
    from export.bundle import certify_filled  # needs PyTorch

    certify_filled(bundle, checkpoint, progress)


def _set_precision(args: argparse.Namespace, progress: Progress) -> None:
    if args.precision == "fp32":
        if args.runtime == "onnxruntime":  # engines are built beside what there is
            remove_int8(args.out)
    elif args.precision == "int8":
        from export.int8_graphs import add_int8  # needs the package onnx, unlike `verify`

        add_int8(args.out, progress=progress)
    else:
        from export.reduced_graphs import add_precision

        add_precision(args.out, args.precision, progress=progress)


def _add_engines(args: argparse.Namespace, progress: Progress) -> None:
    capabilities = tuple(args.compute_capability) if args.compute_capability else None
    target = EngineTarget(args.runtime, capabilities, args.timing_cache, args.profiles)
    add_engines(args.out, target, precision=args.precision or "fp32", progress=progress)


def run_verify(args: argparse.Namespace) -> int:
    """Run `openset verify`: 0 if the bundle has no fault, 1 if it has, 2 for what is no bundle."""
    progress = Progress(args.quiet)
    try:
        if args.checkpoint is not None:
            _certify_filled(args.bundle, args.checkpoint, progress)
        report = verify(args.bundle, progress)
        if report.figures:
            _print_comparison(read_manifest(args.bundle), report, progress)
    except (ValueError, OSError) as error:
        return _failed("verify", error)
    for file in report.certified:
        print(f"{args.bundle}: {file} is certified on this machine")
    for note in report.notes:
        print(f"openset verify: not measured here: {note}", file=sys.stderr)
    for fault in report.faults:
        print(f"openset verify: FAILED: {fault}", file=sys.stderr)
    if not report.faults:
        manifest = read_manifest(args.bundle)
        print(f"{args.bundle}: verified; certified: {manifest.certified}{in_int8(manifest)}")
    return 1 if report.faults else 0


def _print_certificates(manifest: Manifest, progress: Progress) -> None:
    for artefact in manifest.artefacts:
        if artefact.certificate is not None:
            limits = artefact.certificate.tolerances
            _print_figures(artefact, artefact.certificate.figures, "limit", limits, progress)


def _print_comparison(manifest: Manifest, report: VerifyReport, progress: Progress) -> None:
    for artefact in manifest.artefacts:
        certified = artefact.certificate.figures if artefact.certificate else {}
        _print_figures(artefact, report.figures.get(name_of(artefact), {}), "certified", certified, progress)


def _print_figures(artefact: Artefact, figures: Figures, label: str, others: Figures, progress: Progress) -> None:
    for name, value in figures.items():
        other = f"({label} {others[name]:g})" if name in others else ""
        progress.say(f"  {name_of(artefact):26} {name:34} {value:<12.4g} {other}")


def _failed(command: str, error: Exception) -> int:
    print(f"openset {command}: {error}", file=sys.stderr)
    return 2
