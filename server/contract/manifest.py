"""Manifest of a bundle: everything that differs between two models, as data.

A bundle is a folder: `manifest.json`, `tokenizer.json`, the artefacts, and their reference outputs.
All boxes are x0, y0, x1, y1 in pixels or cx, cy, w, h in 0..1; all sizes are (height, width).
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from server.contract.regular_files import open_regular

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST = 16 * 2**20
# Certificates measure graphs at sizes down to less than a quarter of the model's own.
MOST_REDUCTION = 4
MOST_SHORTER, MOST_LONGER = 4096, 8192  # pixels of an input
SCHEMA_VERSION: Literal[2] = 2

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A file of the bundle, by its plain name: a manifest from elsewhere cannot point outside its folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
BundleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
# Any family: everything that serving must know of it is in the other fields.
FamilyName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Task = Literal["similarity", "classify", "detect"]
# In the order in which they run: outputs of one are inputs of the next by the same name.
PartName = Literal["image_encoder", "text_encoder", "detector"]
PARTS: tuple[PartName, ...] = ("image_encoder", "text_encoder", "detector")
# Operators that bilinear sampling is lowered to in a graph.
Lowering = Literal["deform_conv", "grid_sample", "gather"]
LOWERINGS: tuple[Lowering, ...] = ("deform_conv", "grid_sample", "gather")
Runtime = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
# Precision of a graph, which holds the casts; "mixed" is fp16 with fp32 where needed (`export/onnx/precision.py`),
# "int8" is fp32 with products in int8, for CPUs (`export/onnx/int8.py`).
Precision = Literal["fp32", "fp16", "bf16", "mixed", "int8"]
Certified = Literal["full", "template", "none"]
_Positive = Annotated[float, Field(gt=0)]
ComputeCapability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]


class BundleError(ValueError):
    """A bundle that cannot be used; the message says what is wrong and what to do."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class FileHash(_Data):
    """A file of the bundle and the SHA-256 of its bytes."""

    file: FileName
    sha256: Sha256


class Preprocessing(_Data):
    """Rules from a decoded image to `pixel_values`.

    `resize` "shorter_crop": shorter side to `shorter`, then the centre square (CLIP). "shorter_longer": shorter side
    to `shorter` unless the longer side would exceed `longer` (Grounding DINO, GLIP). "square": both sides to `shorter`,
    whatever the shape. `crop`: side of the centre square that is kept of the resized image, where it is not `shorter`.
    `rgb_after_resize` converts to RGB only after resizing, as CLIP does (openai/CLIP clip/clip.py `_transform`).
    `reducing_gap`: as of Pillow's `thumbnail`, larger images are first decoded (JPEG) or averaged at a whole fraction
    of their size, no less than so many times the input; None: pixels are exactly those of the official code. mean and
    std apply to pixel * `scale`, in `channels` order.
    """

    resize: Literal["shorter_crop", "shorter_longer", "square"]
    shorter: int = Field(ge=1, le=MOST_SHORTER)
    longer: int | None = Field(default=None, ge=1, le=MOST_LONGER)
    crop: int | None = Field(default=None, ge=1, le=4096)
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    rgb_after_resize: bool = False
    reducing_gap: float | None = Field(default=None, ge=1)
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: _Positive = 1 / 255
    mean: tuple[float, float, float]
    std: tuple[_Positive, _Positive, _Positive]

    @property
    def shorter_range(self) -> tuple[int, int]:
        """Least and largest `shorter` that a request may ask for: one size, but for a model of any size."""
        return (self.shorter if self.longer is None else -(-self.shorter // MOST_REDUCTION)), self.shorter

    @property
    def longer_range(self) -> tuple[int, int] | None:
        """Least and largest `longer` that a request may ask for; None where there is no such bound."""
        return None if self.longer is None else (-(-self.longer // MOST_REDUCTION), self.longer)

    def reduced(self, shorter: int | None, longer: int | None = None) -> "Preprocessing":
        """These rules for other sides; the bound of the longer is in proportion to `shorter` where it is not given."""
        if longer is None and shorter is not None and self.longer is not None:
            longer = round(self.longer * shorter / self.shorter)
        return self.model_copy(update={"shorter": shorter or self.shorter, "longer": longer or self.longer})

    @model_validator(mode="after")
    def _longer_goes_with_its_rule(self) -> "Preprocessing":
        if (self.resize == "shorter_longer") != (self.longer is not None):
            raise ValueError(
                f"resize={self.resize!r} with longer={self.longer!r}: 'shorter_longer' needs 'longer', the other takes"
                " none"
            )
        if self.crop is not None and (self.resize == "shorter_longer" or self.crop > self.shorter):
            raise ValueError(
                f"crop={self.crop} with resize={self.resize!r} to {self.shorter}: it is no part of a square"
            )
        return self


class TextRules(_Data):
    """Rules from text to token ids.

    `style` "sentence": one row per text (CLIP). "phrases": labels joined into one prompt. `attention` "label": each
    label has its own attention block, and positions restart with it (Grounding DINO). "prompt": all tokens of a prompt
    attend to each other, positions run on, and the tokens of a label end with the first of its last character (GLIP).
    Ids are those of `tokenizer.json`, which also normalises case and accents of a phrase; `separator_ids` are "." and,
    where it ends a phrase too, "?". `max_tokens` bounds a sentence or a whole prompt; `max_label_tokens` one label with
    its separator, where the model has fewer positions than a prompt may have tokens.
    """

    style: Literal["sentence", "phrases"]
    attention: Literal["label", "prompt"] = "label"
    max_tokens: int = Field(ge=3, le=4096)
    max_label_tokens: int | None = Field(default=None, ge=1)
    start_id: int = Field(ge=0)
    end_id: int = Field(ge=0)
    pad_id: int = Field(ge=0)
    separator_ids: tuple[int, ...] = Field(default=(), max_length=2)
    lower_case: bool = True

    @model_validator(mode="after")
    def _phrases_have_a_separator(self) -> "TextRules":
        if (self.style == "phrases") != bool(self.separator_ids):
            raise ValueError(
                f"style={self.style!r} with separator_ids={self.separator_ids!r}: phrases need them, sentences do not"
            )
        return self

    @model_validator(mode="after")
    def _a_shared_prompt_has_no_label_limit(self) -> "TextRules":
        if self.attention == "prompt" and self.style != "phrases":
            raise ValueError(f"attention='prompt' with style={self.style!r}: accepted is style='phrases'")
        if self.attention == "prompt" and self.max_label_tokens is not None:
            raise ValueError(
                f"attention='prompt' with max_label_tokens={self.max_label_tokens}: positions run through the whole"
                " prompt, which max_tokens bounds"
            )
        return self


class ClassificationRules(_Data):
    """Rules from image and text embeddings to class scores: `logit_scale` times the cosine; default `templates`."""

    logit_scale: float = Field(gt=0, le=1e6)
    logit_bias: float = 0.0
    templates: tuple[str, ...] = ("{}",)


class DetectionRules(_Data):
    """Rules from token scores to detections, and the default thresholds of a request.

    `token_reduction` reduces the scores of a label's tokens to its own. `labels_per_box` "best": a box has its best
    label only; "all": every label above the threshold is a detection of its own (GLIP). `box_edges` "continuous": a box
    is x1 - x0 wide. "inclusive": both edges are pixels of the box, which is x1 - x0 + 1 wide in the input of the model
    and ends at its last pixel at most (GLIP, as all of maskrcnn_benchmark).
    """

    token_reduction: Literal["max", "mean"] = "max"
    labels_per_box: Literal["best", "all"] = "best"
    box_edges: Literal["continuous", "inclusive"] = "continuous"
    box_threshold: float = Field(ge=0, le=1)
    text_threshold: float = Field(ge=0, le=1)
    nms_iou: float | None = Field(default=None, gt=0, le=1)
    max_detections: int = Field(default=100, ge=1)


class Buckets(_Data):
    """Shapes of a bundle's runs: sides are rounded up to `pixel_multiple`, tokens to the next of `tokens`."""

    pixel_multiple: int = Field(default=1, ge=1)
    tokens: tuple[int, ...] = ()
    max_batch: int = Field(default=8, ge=1)


class Certificate(_Data):
    """Measured agreement of one artefact with PyTorch fp32, and the tolerances it had to meet.

    `figures` are the worst over all `cases`; `artefact_sha256` ties the certificate to one file, `data_sha256` to the
    file of its weights, where it has one. `of_template`: the graph was measured with synthetic weights, before those of
    a checkpoint were filled in, so it is tied to no weights.
    """

    passed: bool
    artefact_sha256: Sha256
    data_sha256: Sha256 | None = None
    of_template: bool = False
    figures: dict[str, float]
    tolerances: dict[str, float]
    cases: tuple[str, ...]
    versions: dict[str, str]


class Engine(_Data):
    """Build record of a TensorRT engine, which runs under the same `version` only.

    `compute_capabilities`: of the GPUs it was built for, such as "8.9". `source_sha256`: of its source graph.
    `profiles`: the shapes it accepts, each as the least, usual and largest size of every axis (batch, height, ...).
    `status` "not run": the machine that built it has no GPU that runs it, so nothing is known of its answers.
    `activation_bytes`: the most memory it computes in, known where it ran.
    """

    version: str
    compute_capabilities: tuple[ComputeCapability, ...] = Field(min_length=1)
    source_sha256: Sha256
    profiles: tuple[dict[str, tuple[int, int, int]], ...] = Field(min_length=1)
    status: Literal["run", "not run"] = "not run"
    activation_bytes: int | None = Field(default=None, ge=0)


class Artefact(_Data):
    """One compiled part of the model: an ONNX graph, or a TensorRT engine with its `engine` record.

    `precision` is that of its arithmetic, `weights` that of its stored weights. `opset` and `lowering` (where it
    samples bilinearly) are those of the graph, or of the graph it was built from. `data`: files that the graph reads
    weights from besides its own.
    """

    part: PartName
    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    opset: int = Field(ge=16)
    lowering: Lowering | None = None
    file: FileName
    sha256: Sha256
    data: tuple[FileHash, ...] = ()
    engine: Engine | None = None
    certificate: Certificate | None = None

    @property
    def content_sha256(self) -> str:
        """SHA-256 of its file; with weights in other files, of the lines of all hashes."""
        if not self.data:
            return self.sha256
        lines = "".join(f"{digest}\n" for digest in (self.sha256, self.data_sha256))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def data_sha256(self) -> str | None:
        """SHA-256 of the file of its weights, or of the lines of hashes of several; None without one."""
        if len(self.data) == 1:
            return self.data[0].sha256
        lines = "".join(f"{entry.sha256}\n" for entry in self.data)
        return hashlib.sha256(lines.encode()).hexdigest() if self.data else None

    @property
    def uncertified(self) -> str | None:
        """Reason why it counts as uncertified, or None."""
        if self.certificate is None:
            not_run = self.engine is not None and self.engine.status == "not run"
            return "it was not run where it was built: it has no certificate" if not_run else "it has no certificate"
        if self.certificate.artefact_sha256 != self.sha256:
            return "its certificate is for another file"
        if not self.certificate.of_template and self.certificate.data_sha256 != self.data_sha256:
            return "its certificate is for other weights"
        return None if self.certificate.passed else "its certificate says it failed"

    @model_validator(mode="after")
    def _an_engine_has_its_record(self) -> "Artefact":
        if (self.runtime == "onnxruntime") != (self.engine is None):
            raise ValueError(f"runtime={self.runtime!r}: TensorRT engines have an 'engine' record, graphs have none")
        if self.engine is not None and self.data:
            raise ValueError(f"data={self.data[0].file!r}: the weights of an engine are in its own file")
        return self


class TemplateRecord(_Data):
    """Origin of a bundle that was filled: the template's name, the SHA-256 of its description, and the `container`.

    The latter names the layout of the checkpoint that filled it, such as "huggingface".
    """

    name: BundleName
    sha256: Sha256
    container: str


class Manifest(_Data):
    """Root of `manifest.json`.

    A bundle that was filled from a `template` may have no `reference` outputs: PyTorch never ran its weights.
    config: sizes of the model, from which training builds it; bundles of earlier versions have none.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    name: BundleName
    version: str = "1"
    family: FamilyName
    variant: str
    licence: str
    source: str
    weights_sha256: Sha256
    tokenizer: FileHash
    preprocessing: Preprocessing
    text: TextRules
    classification: ClassificationRules | None = None
    detection: DetectionRules | None = None
    buckets: Buckets = Buckets()
    template: TemplateRecord | None = None
    config: dict[str, Any] | None = None
    reference: FileHash | None = None
    canary: FileHash
    artefacts: tuple[Artefact, ...] = Field(min_length=1)

    @property
    def tasks(self) -> frozenset[Task]:
        """Tasks that this bundle can do."""
        return frozenset({"detect"} if self.detection else {"similarity", "classify"})

    @property
    def certified(self) -> Certified:
        """Least that vouches for its graphs: a certificate with these weights ("full"), the template's, or "none"."""
        graphs = [artefact for artefact in self.artefacts if artefact.engine is None]
        if not graphs or any(graph.uncertified for graph in graphs):
            return "none"
        return "template" if any(graph.certificate and graph.certificate.of_template for graph in graphs) else "full"

    @property
    def int8_parts(self) -> tuple[str, ...]:
        """Parts that have a graph in int8, which serves on CPUs."""
        return tuple(artefact.part for artefact in self.artefacts if artefact.precision == "int8")

    @model_validator(mode="after")
    def _reference_outputs_unless_filled(self) -> "Manifest":
        if self.reference is None and self.template is None:
            raise ValueError("'reference' is missing: only a bundle that was filled from a template may lack it")
        return self

    @model_validator(mode="after")
    def _parts_fit_the_task(self) -> "Manifest":
        parts = {artefact.part for artefact in self.artefacts}
        wanted = {*PARTS} if self.detection else {"image_encoder", "text_encoder"}
        if (self.detection is None) == (self.classification is None):
            raise ValueError("exactly one of 'classification' and 'detection' must be given")
        if parts != wanted:
            raise ValueError(f"artefacts for parts {sorted(parts)}, but this bundle needs exactly {sorted(wanted)}")
        files = [artefact.file for artefact in self.artefacts]
        files += [entry.file for artefact in self.artefacts for entry in artefact.data]
        if twins := sorted({file for file in files if files.count(file) > 1}):
            raise ValueError(f"several artefacts are in {', '.join(twins)}: each needs a file of its own")
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the bundle in `folder`; BundleError names the file and the fault."""
    path = folder / MANIFEST_FILE
    try:
        with open_regular(path) as file:
            content = file.read(MAX_MANIFEST + 1)
        if len(content) > MAX_MANIFEST:
            raise ValueError(f"it has more than {MAX_MANIFEST} bytes")
        data: Any = json.loads(content.decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {data.get('schema_version')!r}, this server reads {SCHEMA_VERSION}: export the"
            " bundle again with: openset export --checkpoint CHECKPOINT --out BUNDLE"
        )
    try:
        return Manifest.model_validate_json(json.dumps(data))
    except RecursionError as error:
        raise BundleError(f"{path} does not fit the schema: it is nested too deep") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{path} does not fit the schema: {faults}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, in place of any before, which stays whole until then."""
    new = folder / f".{MANIFEST_FILE}"
    try:
        new.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        new.replace(folder / MANIFEST_FILE)
    finally:
        new.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
