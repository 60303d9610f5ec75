"""Agreement of int8 graphs with the float32 graphs of the same bundle, which are certified against PyTorch.

So it needs no PyTorch, and a bundle that was filled from a template is measured with its own weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export import ExportError
from export.certificate.drawings import drawn_cases
from export.certificate.parity import Figures, measure
from export.certificate.parity_cases import ParityCase, sampled
from server.bundle import Bundle
from server.contract.manifest import Artefact, Manifest, read_manifest

Outputs = dict[str, npt.NDArray[Any]]


def float32_outputs(folder: Path) -> tuple[tuple[ParityCase, ...], Outputs]:
    """The drawings for a bundle, and the outputs of its float32 graphs, named as in `export.certificate.reference`."""
    files = {graph.file for graph in float32_graphs(folder, read_manifest(folder)).values()}
    bundle = Bundle(folder, files=files)
    tokenizer = bundle.prompts if bundle.manifest.detection is not None else bundle.sentences
    cases = drawn_cases(bundle.manifest.preprocessing, tokenizer)
    outputs: Outputs = {}
    for case in cases:
        outputs |= {f"{case.name}/{name}": value for name, value in _run(bundle, case).items()}
    return cases, outputs


def int8_figures(folder: Path) -> dict[str, Figures]:
    """Figures of the int8 graphs of a bundle, by part, which run with the float32 graphs of the other parts.

    BundleError where they do not reproduce their canary.
    """
    manifest = read_manifest(folder)
    serving = float32_graphs(folder, manifest) | int8_graphs(manifest)
    bundle = Bundle(folder, allow_uncertified=True, files={graph.file for graph in serving.values()})
    bundle.check_canary()
    return agreement(bundle, *float32_outputs(folder))


def agreement(bundle: Bundle, cases: Sequence[ParityCase], wanted: Outputs) -> dict[str, Figures]:
    """Figures of the int8 graphs that a bundle runs, by part; those of an encoder have the detections made with it."""
    figures = measure(bundle, cases, wanted)
    detector = figures.get("detector", {})
    together = {name: value for name, value in detector.items() if name.startswith("detections.")}
    return {part: table | together for part, table in figures.items() if bundle.artefacts[part].precision == "int8"}


def int8_graphs(manifest: Manifest) -> dict[str, Artefact]:
    """The int8 graphs, by part."""
    return {artefact.part: artefact for artefact in manifest.artefacts if artefact.precision == "int8"}


def float32_graphs(folder: Path, manifest: Manifest) -> dict[str, Artefact]:
    """The certified float32 graph of each part; ExportError where one is lacking."""
    graphs: dict[str, Artefact] = {
        artefact.part: artefact
        for artefact in manifest.artefacts
        if artefact.engine is None and artefact.precision == "fp32" and not artefact.uncertified
    }
    if lacking := {artefact.part for artefact in manifest.artefacts} - graphs.keys():
        raise ExportError(f"{folder} has no certified fp32 graph of {', '.join(sorted(lacking))}")
    return graphs


def _run(bundle: Bundle, case: ParityCase) -> Outputs:
    pixels = case.pixels(bundle.manifest.preprocessing)
    if bundle.manifest.detection is None:
        texts = bundle.embed_texts([str(text) for text in case.texts])
        return {"image_embeds": bundle.embed_images(pixels), "text_embeds": texts}
    prompts = case.prompts(bundle.prompts)
    features = bundle.encode_prompts(prompts)
    outputs: Outputs = {}
    with bundle.encoded(pixels) as encoded:
        answers = bundle.detect(encoded, prompts, features)
        for index, (scores, boxes) in enumerate(answers):
            own = {
                "image_features": sampled([level[index] for level in encoded.levels.values()]),
                "text_features": features[index],
                "token_scores": scores,
                "boxes": boxes,
                "decided": np.ones(len(boxes), np.bool_),
            }
            outputs |= {f"{index}/{name}": value for name, value in own.items()}
    return outputs
