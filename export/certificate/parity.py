"""Parity with PyTorch float32: the figures of a certificate, and the tolerances they are held to.

Every artefact is run in batches by `server.bundle.Bundle`, and compared with outputs that PyTorch gave one by one
(`export.certificate.reference`). Those are stored in the bundle, so this module needs no PyTorch. Figures are named
"OUTPUT.measure" and are the worst over all cases.

Two proposals of equal score may swap ranks in a correct graph, and a query's content belongs to its rank: queries whose
rank depends on float32 noise are left out of the comparison. In lower precisions no rank is safe; there the detections
of all queries are matched by their boxes. int8 is compared with float32 graphs, on more pictures; its shares of labels
and detections, and their drift, are means over all (`export.certificate.int8_agreement`).
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple, TypeVar

import numpy as np

from export.certificate.average_precision import Answers, average_precision
from export.certificate.matching import SCORE_TIE, compare_detections, detections_above
from export.certificate.parity_cases import NamedArrays, ParityCase, sampled
from server.bundle import Bundle
from server.contract.image import Float32
from server.contract.manifest import Artefact, Certificate, ClassificationRules, Precision
from server.contract.postprocess import class_scores
from server.contract.text import Prompt

# Figures that are shares of few detections, or drift with them.
MEAN_IN_INT8 = ("class_scores.", "detections.")

T = TypeVar("T")
Figures = dict[str, float]

# Tolerances. Measured at the published sizes, with random weights: embeddings 2e-7 (RN50: 5e-5), text features 5e-6
# relative, token scores 2e-4 at most and 7e-6 on average, boxes 9e-5 and 5e-6. The margin is for processors on which
# queries of near-equal rank swap, which moves the others a little.
CEILINGS: dict[str, float] = {
    "image_embeds.max_abs_error": 3e-4,
    "text_embeds.max_abs_error": 1e-4,
    "class_scores.drift": 1e-3,
    "image_features.max_relative_error": 1e-3,
    "text_features.max_relative_error": 1e-3,
    "token_scores.max_abs_error": 1e-2,
    "token_scores.mean_abs_error": 3e-4,
    "boxes.max_abs_error": 3e-3,
    "boxes.mean_abs_error": 1e-4,
    "detections.score_drift": 1e-3,
}
FLOORS: dict[str, float] = {
    "image_embeds.cosine": 0.99999,
    "text_embeds.cosine": 0.99999,
    "class_scores.label_agreement": 1.0,
    "image_features.cosine": 0.99999,
    "text_features.cosine": 0.99999,
    "queries.decided": 0.5,
    "detections.matched": 0.95,
    "detections.mean_iou": 0.99,
    "detections.label_agreement": 0.95,
}
AVERAGE_PRECISION = "detections.average_precision"
# Figures of which more is better.
HIGHER_IS_BETTER = frozenset(FLOORS) | {AVERAGE_PRECISION}
# In fp16 or bf16 a product is off by 1e-3 or 1e-2 of its terms, and queries whose proposals are nearer than that swap
# ranks by the hundred: the detections are held to tolerances, errors of single queries are informative only.
REDUCED_LIMITS: dict[str, float | None] = {
    "image_embeds.max_abs_error": 3e-3,
    "text_embeds.max_abs_error": 3e-3,
    "image_embeds.cosine": 0.9999,
    "text_embeds.cosine": 0.9999,
    "class_scores.drift": 1e-2,
    "image_features.max_relative_error": 1e-2,
    "image_features.cosine": 0.9999,
    "text_features.max_relative_error": 1e-2,
    "text_features.cosine": 0.9999,
    "token_scores.max_abs_error": None,
    "token_scores.mean_abs_error": None,
    "boxes.max_abs_error": None,
    "boxes.mean_abs_error": None,
    "detections.score_drift": 3e-3,
}
# int8 rounds to 1/255 of a tensor's range: what is asked is the answer that a user sees, not the tensors on the way.
INT8_LIMITS: dict[str, float] = {
    "image_embeds.cosine": 0.995,
    "text_embeds.cosine": 0.995,
    "class_scores.drift": 3e-2,
    "class_scores.label_agreement": 0.98,
    "detections.matched": 0.97,
    "detections.mean_iou": 0.97,
    "detections.label_agreement": 0.98,
    "detections.score_drift": 3e-2,
    AVERAGE_PRECISION: 0.98,
}


class ParityError(ValueError):
    """An artefact that cannot be run on a case, or reference outputs that do not belong to it."""


def measure(bundle: Bundle, cases: Sequence[ParityCase], reference: NamedArrays) -> dict[str, Figures]:
    """Figures of each part: the worst over all images of all cases.

    Of int8 graphs the means of `MEAN_IN_INT8`, and the average precision over all images.
    """
    measure_case = _detection_figures if bundle.manifest.detection is not None else _similarity_figures
    int8 = any(artefact.precision == "int8" for artefact in bundle.artefacts.values())
    try:
        measured = [image for case in cases for image in measure_case(bundle, case, reference)]
    except KeyError as error:
        raise ParityError(f"the reference outputs lack {error}") from None
    figures = _combined([image.figures for image in measured], means=int8)
    if int8 and bundle.manifest.detection is not None:
        answers = [image.answers for image in measured if image.answers is not None]
        precision = average_precision(answers, box_threshold=bundle.manifest.detection.box_threshold)
        figures["detector"][AVERAGE_PRECISION] = precision
    return figures


class _Measured(NamedTuple):
    """Figures of an image by part, or of a batch; the detections in it."""

    figures: dict[str, Figures]
    answers: Answers | None = None


def limits_of(precision: Precision) -> Figures:
    """Tolerances of an artefact of this precision, by figure."""
    if precision == "int8":
        return dict(INT8_LIMITS)
    limits: dict[str, float | None] = {**CEILINGS, **FLOORS, **({} if precision == "fp32" else REDUCED_LIMITS)}
    return {name: limit for name, limit in limits.items() if limit is not None}


def tolerances_of(figures: Figures, precision: Precision = "fp32") -> Figures:
    """Tolerances of these figures; a figure without one is informative only."""
    limits = limits_of(precision)
    return {name: limits[name] for name in figures if name in limits}


def shortfalls(figures: Figures, precision: Precision = "fp32") -> list[str]:
    """Figures out of tolerance, one sentence each."""
    return [
        f"{name} is {figures[name]:.3g}, {'at least' if name in HIGHER_IS_BETTER else 'at most'} {limit:g} is right"
        for name, limit in tolerances_of(figures, precision).items()
        if not (figures[name] >= limit if name in HIGHER_IS_BETTER else figures[name] <= limit)
    ]


def certificate(
    artefact: Artefact, figures: Figures, cases: Sequence[str], *, versions: dict[str, str], of_template: bool = False
) -> Certificate:
    """Certificate of an artefact with these figures; `of_template`: its weights are synthetic."""
    return Certificate(
        passed=not shortfalls(figures, artefact.precision),
        artefact_sha256=artefact.sha256,
        data_sha256=None if of_template else artefact.data_sha256,
        of_template=of_template,
        figures={name: float(f"{value:.6g}") for name, value in figures.items()},
        tolerances=tolerances_of(figures, artefact.precision),
        cases=tuple(cases),
        versions=versions,
    )


def describe(bundle: Bundle, case: ParityCase) -> str:
    """Name of a case in a certificate, such as "upright: 2 at 384x213 px, 9 + 31 tokens"."""
    sizes = {f"{pixels.shape[1]}x{pixels.shape[2]}" for pixels in case.pixels(bundle.manifest.preprocessing)}
    if bundle.manifest.detection is not None:
        tokens = [len(prompt) for prompt in case.prompts(bundle.prompts)]
    else:
        tokens = [bundle.sentences.encode([str(text)]).shape[1] for text in case.texts]
    return f"{case.name}: {len(case.images)} at {', '.join(sorted(sizes))} px, {' + '.join(map(str, tokens))} tokens"


def versions(**more: str) -> dict[str, str]:
    """Versions that a certificate was measured with."""
    packages = {name: _version(name) for name in ("numpy", "onnxruntime", "openset")}
    return {"python": platform.python_version(), **packages, **more}


def _similarity_figures(bundle: Bundle, case: ParityCase, reference: NamedArrays) -> list[_Measured]:
    want_images, want_texts = reference[f"{case.name}/image_embeds"], reference[f"{case.name}/text_embeds"]
    images = _run(case, "image_encoder", lambda: bundle.embed_images(case.pixels(bundle.manifest.preprocessing)))
    texts = _run(case, "text_encoder", lambda: bundle.embed_texts([str(text) for text in case.texts]))
    rules = bundle.manifest.classification
    assert rules is not None
    scores, wanted = _scores(images, texts, rules), _scores(want_images, want_texts, rules)
    agree = wanted.max(1) - wanted[np.arange(len(wanted)), scores.argmax(1)] <= SCORE_TIE
    together = {
        "class_scores.drift": float(np.abs(scores - wanted).max()),
        "class_scores.label_agreement": float(agree.mean()),
    }
    table = {
        "image_encoder": _errors("image_embeds", images, want_images) | together,
        "text_encoder": _errors("text_embeds", texts, want_texts) | together,
    }
    return [_Measured(table)]


def _scores(images: Float32, texts: Float32, rules: ClassificationRules) -> Float32:
    return class_scores(images @ texts.T, logit_scale=rules.logit_scale, logit_bias=rules.logit_bias, multi_label=False)


def _detection_figures(bundle: Bundle, case: ParityCase, reference: NamedArrays) -> list[_Measured]:
    prompts, pixels = case.prompts(bundle.prompts), case.pixels(bundle.manifest.preprocessing)
    rules = bundle.manifest.detection
    assert rules is not None
    levels = _run(case, "image_encoder", lambda: _levels(bundle, pixels))
    features = _run(case, "text_encoder", lambda: bundle.encode_prompts(prompts))
    answers = _run(case, "detector", lambda: bundle.run_detector(pixels, prompts, features))
    images = []
    for index, (prompt, feature, answer) in enumerate(zip(prompts, features, answers, strict=True)):
        wanted = {
            name: reference[f"{case.name}/{index}/{name}"]
            for name in ("image_features", "text_features", "token_scores", "boxes", "decided")
        }
        image = sampled([level[index] for level in levels.values()])
        table = {
            "image_encoder": _feature_figures("image_features", image, wanted["image_features"]),
            "text_encoder": _feature_figures("text_features", feature, wanted["text_features"]),
            "detector": _query_figures(bundle, prompt, answer, wanted),
        }
        ours, theirs = answer, (wanted["token_scores"], wanted["boxes"])
        found = [detections_above(0.0, outputs, prompt, rules) for outputs in (ours, theirs)]
        images.append(_Measured(table, Answers(*found)))
    return images


def _combined(tables: Sequence[dict[str, Figures]], *, means: bool) -> dict[str, Figures]:
    """Each part's figures, the worst over several images; `means`: the means of those in `MEAN_IN_INT8`."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for table in tables:
        for part, figures in table.items():
            for name, value in figures.items():
                found[part][name].append(value)
    return {
        part: {
            name: float(np.mean(values)) if means and name.startswith(MEAN_IN_INT8) else _worst(name, values)
            for name, values in table.items()
        }
        for part, table in found.items()
    }


def _levels(bundle: Bundle, pixels: Sequence[Float32]) -> dict[str, Float32]:
    with bundle.encoded(pixels) as encoded:
        return encoded.levels


def _feature_figures(name: str, features: Float32, wanted: Float32) -> Figures:
    figures = _errors(name, features, wanted)
    return figures | {f"{name}.max_relative_error": figures[f"{name}.max_abs_error"] / float(wanted.std())}


def _query_figures(bundle: Bundle, prompt: Prompt, got: tuple[Float32, Float32], wanted: NamedArrays) -> Figures:
    scores, boxes = got
    _same_shape("token_scores", scores, wanted["token_scores"])
    _same_shape("boxes", boxes, wanted["boxes"])
    decided = wanted["decided"]
    score_errors = np.abs(scores - wanted["token_scores"])[decided]
    box_errors = np.abs(boxes - wanted["boxes"])[decided]
    rules, fp32 = bundle.manifest.detection, bundle.artefacts["detector"].precision == "fp32"
    assert rules is not None
    compared = decided if fp32 else np.ones_like(decided)
    ours, theirs = (scores[compared], boxes[compared]), (wanted["token_scores"][compared], wanted["boxes"][compared])
    return {
        "token_scores.max_abs_error": _max(score_errors),
        "token_scores.mean_abs_error": _mean(score_errors),
        "boxes.max_abs_error": _max(box_errors),
        "boxes.mean_abs_error": _mean(box_errors),
        "queries.decided": float(decided.mean()),
        **compare_detections(ours, theirs, prompt, rules),
    }


def _errors(name: str, got: Float32, wanted: Float32) -> Figures:
    """Maximum and mean absolute error, and lowest cosine, of rows of vectors."""
    _same_shape(name, got, wanted)
    error = np.abs(got - wanted)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = (got * wanted).sum(1) / np.maximum(norms, 1e-12)
    return {
        f"{name}.max_abs_error": _max(error),
        f"{name}.mean_abs_error": _mean(error),
        f"{name}.cosine": float(cosine.min()),
    }


def _run(case: ParityCase, part: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # runtimes raise classes of their own; with any of them the graph cannot serve
        raise ParityError(f"{part} cannot run the case {case.name!r}: {str(error).splitlines()[0]}") from error


def _same_shape(name: str, got: Float32, wanted: Float32) -> None:
    if got.shape != wanted.shape:
        raise ParityError(f"{name} has shape {got.shape}, the reference {wanted.shape}")


def _worst(name: str, values: Sequence[float]) -> float:
    """Lowest value of a figure with a floor, else the highest; NaN and infinity count as beyond every limit."""
    floor = name in HIGHER_IS_BETTER
    finite = [value if np.isfinite(value) else (-1e9 if floor else 1e9) for value in values]
    return min(finite) if floor else max(finite)


def _max(errors: Float32) -> float:
    return float(errors.max()) if errors.size else 0.0


def _mean(errors: Float32) -> float:
    return float(errors.mean()) if errors.size else 0.0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
