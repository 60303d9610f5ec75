"""Fake bundles: the real `Bundle` and contract around a model that answers by simple arithmetic."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from server.bundle import Bundle, Encoded, Float32
from server.contract import image as images
from server.contract.manifest import Manifest
from server.contract.text import Prompt, PromptTokenizer, SentenceTokenizer
from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool

HASH = "0" * 64
LETTERS = [chr(code) for code in range(33, 127)]


def tokenizer_file(folder: Path) -> Path:
    """A tokenizer of one token a character, ids from 10; anything but printable ASCII is [UNK], id 3."""
    ids = {"[PAD]": 0, "[START]": 1, "[END]": 2, "[UNK]": 3, ".": 4, "?": 5}
    ids |= {letter: 10 + place for place, letter in enumerate(LETTERS) if letter not in ".?"}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def manifest(**changes) -> Manifest:
    data = {
        "variant": "fake",
        "licence": "Apache-2.0",
        "source": "arithmetic",
        "weights_sha256": HASH,
        "tokenizer": {"file": "tokenizer.json", "sha256": HASH},
        "reference": {"file": "reference.npz", "sha256": HASH},
        "canary": {"file": "canary.npz", "sha256": HASH},
    }
    return Manifest.model_validate(data | changes)


def artefacts(*parts):
    return [{"part": part, "opset": 17, "file": f"{part}.onnx", "sha256": HASH} for part in parts]


class FakeBundle(Bundle):
    """A bundle without files: everything but the runs of its artefacts is the real one's.

    `runs` records the size of each model run; `before_run` may block or fail it; `file_bytes` is the size it claims.
    """

    file_bytes = 1000

    def __init__(self, described: Manifest) -> None:
        self.folder = Path(described.name)
        self.manifest = described
        self.artefacts = {artefact.part: artefact for artefact in described.artefacts}
        self.uncertified, self.refused, self.fallbacks = {}, {}, {}
        self.providers = {part: "arithmetic" for part in self.artefacts}
        self.activation_bytes, self.on_gpu, self.gpu = {}, {}, None
        self.pool = BufferPool(HostAllocator(), soft_limit=0)
        self.runs: list[int] = []
        self.text_runs: list[int] = []
        self.before_run: Callable[[], object] = lambda: None

    @property
    def weights_bytes(self) -> int:
        return self.file_bytes

    def check_canary(self) -> None:
        pass


class FakeDetector(FakeBundle):
    """Scores a label by its place in the prompt; boxes depend on the brightness of the image alone.

    `passes` records how many images each pass had.
    """

    def __init__(self, folder: Path, *, name="fake-detector", family="grounding_dino") -> None:
        super().__init__(
            manifest(
                name=name,
                family=family,
                preprocessing={
                    "resize": "shorter_longer", "shorter": 32, "longer": 64, "mean": [0, 0, 0], "std": [1, 1, 1],
                },
                text={
                    "style": "phrases", "max_tokens": 64, "start_id": 1, "end_id": 2, "pad_id": 0,
                    "separator_ids": [4, 5],
                },
                detection={"box_threshold": 0.3, "text_threshold": 0.25},
                buckets={"pixel_multiple": 16, "tokens": [16, 32, 64]},
                artefacts=artefacts("detector", "image_encoder", "text_encoder"),
            )
        )  # fmt: skip
        self.passes: list[int] = []
        self.prompts = PromptTokenizer(tokenizer_file(folder), self.manifest.text)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Float32]:
        self.text_runs.append(len(prompts))
        return [np.repeat(prompt.input_ids[:, None], 4, axis=1).astype(np.float32) for prompt in prompts]

    @contextmanager
    def encoded(self, pixels: Sequence[Float32]) -> Iterator[Encoded]:
        self.before_run()
        assert len({self.canvas(image) for image in pixels}) == 1, "a batch holds one canvas"
        canvas = self.canvas(pixels[0])
        with (
            self.pool.lease((len(pixels), 3, *canvas), np.float32, owner=self.manifest.name) as values,
            self.pool.lease((len(pixels), *canvas), np.bool_, owner=self.manifest.name) as mask,
        ):
            images.pad_batch(pixels, canvas, out=(values, mask))
            self.runs.append(len(pixels))
            yield Encoded({"pixel_values": values}, mask)

    def detect(
        self, encoded: Encoded, prompts: Sequence[Prompt], text_features: Sequence[Float32]
    ) -> list[tuple[Float32, Float32]]:
        assert all(len(p) == len(f) for p, f in zip(prompts, text_features, strict=True)), "each has its own features"
        self.passes.append(len(prompts))
        inputs = zip(encoded.levels["pixel_values"], encoded.mask, prompts, strict=True)
        return [self._one(values[:, mask], prompt) for values, mask, prompt in inputs]

    @staticmethod
    def _one(image, prompt):
        count = len(prompt.labels)
        scores = np.zeros((count, len(prompt)), np.float32)  # query k finds label k
        for label in range(count):
            scores[label, prompt.token_label == label] = 0.9 - 0.1 * label
        size = 0.25 + 0.5 * float(image.mean())
        return scores, np.tile(np.asarray([0.5, 0.5, size, size], np.float32), (count, 1))


class FakeEncoder(FakeBundle):
    """Embeds images by the shares of red, green and blue; texts by how often r, g and b occur."""

    def __init__(self, folder: Path, *, name="fake-encoder") -> None:
        super().__init__(
            manifest(
                name=name,
                family="clip",
                preprocessing={
                    "resize": "shorter_crop", "shorter": 16, "resample": "bicubic", "rgb_after_resize": True,
                    "mean": [0, 0, 0], "std": [1, 1, 1],
                },
                text={"style": "sentence", "max_tokens": 40, "start_id": 1, "end_id": 2, "pad_id": 0},
                classification={"logit_scale": 10},
                artefacts=artefacts("image_encoder", "text_encoder"),
            )
        )  # fmt: skip
        self.sentences = SentenceTokenizer(tokenizer_file(folder), self.manifest.text)

    def embed_images(self, pixels: Sequence[Float32]) -> Float32:
        self.before_run()
        with self.pool.lease((len(pixels), *pixels[0].shape), np.float32, owner=self.manifest.name) as values:
            np.stack(pixels, out=values)
            self.runs.append(len(pixels))
            return _unit(values.mean((2, 3)))

    def embed_texts(self, texts: Sequence[str]) -> Float32:
        self.sentences.encode(texts)
        self.text_runs.append(len(texts))
        return _unit(np.asarray([[text.count(letter) for letter in "rgb"] for text in texts], np.float32))


def _unit(rows: Float32) -> Float32:
    rows = rows.astype(np.float32) + np.float32(1e-3)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def picture(colour="red", size=(40, 30), *, form="PNG", mode="RGB", **options) -> bytes:
    """An encoded picture of one colour, `size` (width, height)."""
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(encoded, form, **options)
    return encoded.getvalue()
