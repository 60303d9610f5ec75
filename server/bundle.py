"""A bundle ready to run: text and pixels in, embeddings or token scores and boxes out, to serve and to certify."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.contract import image as images
from server.contract.arrays import read_arrays
from server.contract.manifest import PARTS, Artefact, BundleError, FileHash, Manifest, Task, read_manifest, sha256_of
from server.contract.text import Prompt, PromptTokenizer, SentenceTokenizer, pad_prompts, shown, token_bucket
from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool
from server.runtimes.base import Tensors
from server.runtimes.device import CPU, Device
from server.runtimes.external_data import external_files
from server.runtimes.loader import load_parts

Float32 = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

CARD_FILE, MAX_CARD_BYTES = "MODEL_CARD.md", 2**20
# Texts in one run of a sentence encoder, which bounds its memory.
TEXT_BATCH = 64
# Smallest host buffer that is leased: up to 32 MiB the C heap reuses memory itself and a lease takes longer, above that
# each new array is mapped and faulted in again, which takes 1.6 times as long as a lease (tests/benchmarks/pool.py).
LEASED_BYTES = 32 * 2**20
# A canary passes when nearly all rows agree: two queries of near-equal score may swap places on another CPU.
CANARY_TOLERANCE, CANARY_SHARE = 1e-2, 0.95
# That of int8 graphs, whose outputs are stored under this prefix: where the last bit of float32 decides a rounding, the
# queries change their order, so that each row is looked for among all.
INT8_CANARY, INT8_CANARY_TOLERANCE, INT8_CANARY_SHARE = "int8/", 0.1, 0.9


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded images for the detector: feature `levels` by name, [B, C, h, w] each, and the pixel `mask` [B, H, W]."""

    levels: dict[str, Float32]
    mask: npt.NDArray[np.bool_]


class Bundle:
    """A bundle ready to run; all methods are synchronous and may be called from several threads.

    Runs the first artefact of each part that this machine can run, of `files` only where they are given. Uncertified
    artefacts are used only with `allow_uncertified`. BundleError for a missing or changed file, or a part without a
    usable artefact. Large batches are assembled in leases of `pool`, which a server replaces by the pool that its
    bundles share; PoolExhausted for a batch that does not fit.

    Attributes by part: `artefacts` in use; `uncertified`, the fault; `providers`, the runtime on the `device`;
    `fallbacks`, the reason to run on the CPU instead; `on_gpu`, the GPU; `activation_bytes`, the scratch memory in the
    block that engines share there. By file: `refused`, the reason why an earlier artefact is not used. `gpu` is the GPU
    that any part runs on, or None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow_uncertified: bool = False,
        threads: int = 0,
        files: Collection[str] | None = None,
        device: Device = CPU,
    ) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        for entry in (self.manifest.tokenizer, self.manifest.canary):
            check_file(folder, entry)
        loaded = load_parts(
            folder,
            self.manifest.artefacts,
            device=device,
            threads=threads,
            allow_uncertified=allow_uncertified,
            files=files,
            check=lambda artefact: check_artefact(folder, artefact),
        )
        self.artefacts, self.refused, self._sessions = loaded.artefacts, loaded.refused, loaded.sessions
        if lacking := {artefact.part for artefact in self.manifest.artefacts} - self.artefacts.keys():
            faults = "; ".join(f"{file}: {fault}" for file, fault in self.refused.items())
            raise BundleError(
                f"{folder} has no usable {' and '.join(sorted(lacking))} ({faults}); export it again, or, where an"
                " artefact is not certified, serve it with --allow-uncertified"
            )
        self.uncertified = {part: fault for part, artefact in self.artefacts.items() if (fault := artefact.uncertified)}
        self.providers = {part: session.provider for part, session in self._sessions.items()}
        self.fallbacks = {part: why for part, session in self._sessions.items() if (why := session.fallback)}
        self.activation_bytes = {part: session.activation_bytes for part, session in self._sessions.items()}
        self.on_gpu = {part: session.gpu for part, session in self._sessions.items() if session.gpu}
        self.gpu = next(iter(self.on_gpu.values()), None)
        self.pool = BufferPool(HostAllocator(), soft_limit=0)
        tokenizer = folder / self.manifest.tokenizer.file
        if self.manifest.text.style == "phrases":
            self.prompts = PromptTokenizer(tokenizer, self.manifest.text)
        else:
            self.sentences = SentenceTokenizer(tokenizer, self.manifest.text)

    @property
    def tasks(self) -> frozenset[Task]:
        return self.manifest.tasks

    @property
    def has_card(self) -> bool:
        """True where a model card is beside the manifest."""
        return (self.folder / CARD_FILE).is_file()

    def card(self) -> bytes:
        """The model card, in Markdown, of which the first `MAX_CARD_BYTES` are read."""
        with (self.folder / CARD_FILE).open("rb") as file:
            return file.read(MAX_CARD_BYTES)

    @property
    def weights_bytes(self) -> int:
        """File sizes of the artefacts that it runs."""
        return sum(artefact_bytes(self.folder, artefact) for artefact in self.artefacts.values())

    def preprocess(self, image: Image.Image) -> Float32:
        """An upright image as model input, float32 [3, h, w]."""
        return images.preprocess(image, self.manifest.preprocessing)

    def canvas(self, pixels: Float32) -> tuple[int, int]:
        """The (height, width) that `pixels` [3, h, w] is padded to; only inputs of one canvas share a batch."""
        _, height, width = pixels.shape
        return images.canvas_size(height, width, self.manifest.buckets)

    def embed_images(self, pixels: Sequence[Float32]) -> Float32:
        """Unit-length embeddings [B, D] of inputs of one size."""
        with self._buffer((len(pixels), *pixels[0].shape), np.float32) as values:
            np.stack(pixels, out=values)
            return self._run("image_encoder", {"pixel_values": values}, leased=[values])["image_embeds"]

    def embed_texts(self, texts: Sequence[str]) -> Float32:
        """Unit-length embeddings [B, D]; PromptTooLong names a text that is too long."""
        return self._sessions["text_encoder"].run({"input_ids": self.sentences.encode(texts)})["text_embeds"]

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Float32]:
        """The text features of each prompt, [T, C] for its T tokens."""
        batch = pad_prompts(prompts, self.token_bucket(prompts))
        features = self._sessions["text_encoder"].run(batch)["text_features"]
        return [row[: len(prompt)].copy() for row, prompt in zip(features, prompts, strict=True)]

    def token_bucket(self, prompts: Sequence[Prompt]) -> int:
        """Number of tokens that a batch of these prompts is padded to."""
        return token_bucket(max(len(prompt) for prompt in prompts), self.manifest.buckets.tokens)

    def run_detector(
        self, pixels: Sequence[Float32], prompts: Sequence[Prompt], text_features: Sequence[Float32]
    ) -> list[tuple[Float32, Float32]]:
        """Token scores [N, T] in 0..1 and boxes cx, cy, w, h [N, 4] in 0..1 of each image, for its own prompt.

        The images must share a canvas; prompts may differ in text and length.
        """
        with self.encoded(pixels) as encoded:
            return self.detect(encoded, prompts, text_features)

    def detect(
        self, encoded: Encoded, prompts: Sequence[Prompt], text_features: Sequence[Float32]
    ) -> list[tuple[Float32, Float32]]:
        """As `run_detector`, for encoded images, which may be reused for other prompts."""
        batch, length, width = len(prompts), self.token_bucket(prompts), text_features[0].shape[1]
        with self._buffer((batch, length, width), np.float32) as features:
            pad_features(text_features, out=features)
            tensors = {**encoded.levels, **pad_prompts(prompts, length), "text_features": features}
            result = self._run("detector", tensors | {"pixel_mask": encoded.mask}, leased=[encoded.mask, features])
        return [
            (scores[:, : len(prompt)], boxes)
            for scores, boxes, prompt in zip(result["token_scores"], result["boxes"], prompts, strict=True)
        ]

    @contextmanager
    def encoded(self, pixels: Sequence[Float32]) -> Iterator[Encoded]:
        """Encode images of one canvas for the detector; the mask is leased until the context ends."""
        canvas, batch = self.canvas(pixels[0]), len(pixels)
        assert all(self.canvas(image) == canvas for image in pixels), "a batch holds one canvas"
        with self._buffer((batch, *canvas), np.bool_) as mask:
            with self._buffer((batch, 3, *canvas), np.float32) as values:
                images.pad_batch(pixels, canvas, out=(values, mask))
                tensors = {"pixel_values": values, "pixel_mask": mask}
                levels = self._run("image_encoder", tensors, leased=[values, mask])
            yield Encoded(levels, mask)

    def check_canary(self) -> None:
        """Run the stored small case of every part; BundleError where this machine does not reproduce its outputs.

        The file holds arrays `PART/in/NAME` and `PART/out/NAME`, the graphs' inputs and outputs, the latter also as
        `int8/PART/out/NAME` where any part is in int8. It lacks tensors that one part passes to the next: they show in
        the outputs of the next.
        """
        int8 = any(artefact.precision == "int8" for artefact in self.artefacts.values())
        canary = read_arrays(self.folder / self.manifest.canary.file)
        for name, result in self.run_canary(canary).items():
            expected = canary.get(f"{INT8_CANARY if int8 else ''}{name}")
            if expected is not None and not (_alike if int8 else _agrees)(result, expected):
                part, _, output = name.split("/")
                raise BundleError(
                    f"{self.folder}: the canary of {part} differs in {output}: this machine does not run the"
                    " artefact as it was certified; run `openset verify` on it"
                )

    def run_canary(self, canary: Mapping[str, npt.NDArray[Any]]) -> dict[str, Float32]:
        """Outputs `PART/out/NAME` of all parts, for the inputs in `canary`; BundleError where one is lacking."""
        passed_on: dict[str, npt.NDArray[np.generic]] = {}
        outputs: dict[str, Float32] = {}
        for part in (part for part in PARTS if part in self._sessions):
            session = self._sessions[part]
            stored = {name: f"{part}/in/{name}" for name in session.inputs}
            if lacking := [key for name, key in stored.items() if key not in canary and name not in passed_on]:
                raise BundleError(f"{self.folder / self.manifest.canary.file} lacks {', '.join(lacking)}")
            feeds = {name: canary[key] if key in canary else passed_on[name] for name, key in stored.items()}
            results = session.run(feeds)
            passed_on |= results
            outputs |= {f"{part}/out/{name}": result for name, result in results.items()}
        return outputs

    def _buffer(self, shape: tuple[int, ...], dtype: type[Scalar]) -> AbstractContextManager[npt.NDArray[Scalar]]:
        """An uninitialised array for one run: leased where it is large, or copied to a GPU; else a new one."""
        if self.gpu is None and prod(shape) * np.dtype(dtype).itemsize < LEASED_BYTES:
            return nullcontext(np.empty(shape, dtype))
        return self.pool.lease(shape, dtype, owner=self.manifest.name)

    def _run(self, part: str, tensors: Tensors, *, leased: Sequence[npt.NDArray[np.generic]]) -> dict[str, Float32]:
        """Outputs of a part; an output that aliases a leased input is copied, since the leases end here."""
        outputs = self._sessions[part].run(tensors)
        return {
            name: output.copy() if any(np.may_share_memory(output, buffer) for buffer in leased) else output
            for name, output in outputs.items()
        }


def pad_features(text_features: Sequence[Float32], *, out: Float32) -> None:
    """Write the features [T, C] of each prompt to its row of `out` [B, T, C], padded with zeros."""
    for row, features in zip(out, text_features, strict=True):
        row[: len(features)] = features
        row[len(features) :] = 0


def weights_bytes(folder: Path, manifest: Manifest) -> int:
    """File sizes of the largest artefact of each part; a missing file counts as none until the bundle is loaded."""
    sizes: dict[str, int] = {}
    for artefact in manifest.artefacts:
        sizes[artefact.part] = max(artefact_bytes(folder, artefact), sizes.get(artefact.part, 0))
    return sum(sizes.values())


def artefact_bytes(folder: Path, artefact: Artefact) -> int:
    """Sizes of the files that hold an artefact; a missing one counts as none."""
    names = [artefact.file, *(entry.file for entry in artefact.data)]
    return sum(file.stat().st_size for name in names if (file := folder / name).is_file())


def check_artefact(folder: Path, artefact: Artefact) -> None:
    """BundleError unless its files, and all that its graph reads weights from, have the hashes of the manifest."""
    check_file(folder, artefact)
    for entry in artefact.data:
        check_file(folder, entry)
    if artefact.runtime != "onnxruntime":
        return
    named = {entry.file for entry in artefact.data}
    if foreign := sorted(external_files(folder / artefact.file) - named):
        listed = ", ".join(shown(name) for name in foreign[:5])
        raise BundleError(
            f"{folder / artefact.file} reads weights from {listed}, for which its manifest has no hash: export the"
            " bundle again, with all weights in the graph or under `data`"
        )


def check_file(folder: Path, entry: FileHash | Artefact) -> None:
    """BundleError unless the file exists and has the SHA-256 of the manifest."""
    path = folder / entry.file
    if not path.is_file():
        raise BundleError(f"{folder} lacks {entry.file}, which its manifest names")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if digest != entry.sha256:
        raise BundleError(
            f"{path} is not the file its manifest names (its SHA-256 differs): copy or export the bundle again"
        )


def _agrees(result: Float32, expected: npt.NDArray[Any]) -> bool:
    if result.shape != expected.shape or expected.dtype.kind not in "fiub":
        return False
    rows = np.abs(result - expected).reshape(-1, result.shape[-1]).max(axis=1)
    return bool((rows <= CANARY_TOLERANCE).mean() >= CANARY_SHARE)


def _alike(result: Float32, expected: npt.NDArray[Any]) -> bool:
    """True where nearly each row of `expected` is near one of the result."""
    if result.shape != expected.shape or expected.dtype.kind not in "fiub":
        return False
    rows = result.reshape(-1, result.shape[-1])
    distances = [np.abs(rows - row).max(axis=1).min() for row in expected.reshape(-1, result.shape[-1])]
    return bool((np.asarray(distances) <= INT8_CANARY_TOLERANCE).mean() >= INT8_CANARY_SHARE)
