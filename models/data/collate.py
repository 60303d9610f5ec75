"""Transforms of records into examples, and collators of examples into batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from models.data.augmentation import DetectorAugmentation, SquareAugmentation, augment, mirrorable, random_square
from models.data.categories import CategoryNames
from models.data.entries import check_in_picture
from models.data.grounding_prompts import GroundedPrompt, PromptSampler
from models.data.images import DataError
from models.data.records import CaptionRecord, ClassificationRecord, DetectionRecord, Float32, GroundingRecord, Record
from models.losses.box_losses import to_cxcywh
from server.contract.image import preprocess
from server.contract.manifest import Preprocessing
from server.contract.text import Prompt, PromptError, PromptTooLong, SentenceTokenizer, pad_prompts

# Makes denoising queries of boxes [M, 4] cxcywh in 0..1, positive tokens [M, T] bool and labels' tokens [K, T] bool.
Denoising = Callable[[Tensor, Tensor, Tensor, torch.Generator], Any]
BOXED = DetectionRecord | GroundingRecord


@dataclass(frozen=True)
class DetectionExample:
    """A picture [3, h, w] as the model reads it, boxes [M, 4] in its pixels, and the tokens [M, T] that name each.

    `absent`: a prompt of things that are not in the picture, where one is asked for and there are any.
    """

    pixels: Tensor
    grounded: GroundedPrompt
    boxes_xyxy: Tensor
    positive: Tensor
    denoising: Any = None
    absent: Prompt | None = None


@dataclass(frozen=True)
class DetectionBatch:
    """A batch: pixels [B, 3, H, W], padded; mask [B, H, W] bool, True = picture; sizes (height, width) of each picture.

    text: the prompts as `server.contract.text.pad_prompts` returns them. For each picture the boxes x0, y0, x1, y1
    [M, 4] in pixels of the objects that the prompt names, the tokens that name each [M, T] bool, and, for a detector
    that uses them, its denoising queries. `examples`: what the batch is made of, in a held-out batch.
    """

    pixels: Tensor
    mask: Tensor
    sizes: Sequence[tuple[int, int]]
    text: dict[str, Tensor]
    boxes_xyxy: Sequence[Tensor]
    positive: Sequence[Tensor]
    denoising: Sequence[Any] = ()
    examples: Sequence[DetectionExample] = field(default=(), repr=False)

    def to(self, device: torch.device) -> "DetectionBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            text={name: value.to(device, non_blocking=True) for name, value in self.text.items()},
            boxes_xyxy=[boxes.to(device) for boxes in self.boxes_xyxy],
            positive=[tokens.to(device) for tokens in self.positive],
            denoising=[one.to(device) for one in self.denoising],
        )


class DetectionTransform:
    """Makes a detector's examples of records with boxes; without `augmentation` pictures are resized only."""

    def __init__(
        self,
        prompts: PromptSampler,
        preprocessing: Preprocessing,
        augmentation: DetectorAugmentation | None = None,
        denoising: Denoising | None = None,
        *,
        absent_prompts: PromptSampler | None = None,
    ) -> None:
        self._prompts, self._absent_prompts = prompts, absent_prompts
        self._preprocessing, self._augmentation, self._denoising = preprocessing, augmentation, denoising

    def __call__(self, record: Record, rng: np.random.Generator) -> DetectionExample:
        if not isinstance(record, BOXED):
            raise DataError(f"{record.where}: a record without boxes cannot train a detector")
        rules = self._augmentation if self._augmentation and not record.finished else None
        shorter = int(rng.choice((rules and rules.shorter) or (self._preprocessing.shorter,)))
        rules = rules or DetectorAugmentation(flip=0, crop=0)
        image = record.picture.open(record.size)
        if record.size is None:
            check_in_picture(all_boxes(record), (image.height, image.width), record.where)
        mirror, usual = mirrorable(*_texts(record)), self._preprocessing.shorter
        seen = augment(image, all_boxes(record), rules, mirror=mirror, shorter=usual, rng=rng)
        grounded = self._prompts.sample(record, seen.boxes_xyxy, seen.rows, rng)
        if record.finished:
            shorter = min(image.size)
        pixels = torch.from_numpy(preprocess(seen.image, self._preprocessing.model_copy(update={"shorter": shorter})))
        scale = np.asarray([pixels.shape[2] / seen.image.width, pixels.shape[1] / seen.image.height] * 2, np.float32)
        boxes, positive = torch.from_numpy(grounded.boxes_xyxy * scale), torch.from_numpy(grounded.positive)
        queries = None
        if self._denoising is not None:
            generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            inside = relative_boxes(boxes, (pixels.shape[1], pixels.shape[2]))
            queries = self._denoising(inside, positive, torch.from_numpy(grounded.labels), generator)
        absent = None
        if self._absent_prompts is not None and isinstance(record, DetectionRecord):
            asked = self._absent_prompts.sample(record, seen.boxes_xyxy, seen.rows, rng)
            absent = None if len(asked.boxes_xyxy) else asked.prompt
        return DetectionExample(pixels, grounded, boxes, positive, queries, absent)


@dataclass(frozen=True)
class DetectionCollator:
    """Pads examples to one batch, whose sides are multiples of `multiple` pixels; `keep`s them for validation."""

    multiple: int
    keep: bool = False

    def __call__(self, examples: list[DetectionExample]) -> DetectionBatch:
        height, width = (
            -(-max(one.pixels.shape[axis] for one in examples) // self.multiple) * self.multiple for axis in (1, 2)
        )
        pixels = torch.zeros(len(examples), 3, height, width)
        mask = torch.zeros(len(examples), height, width, dtype=torch.bool)
        for row, one in enumerate(examples):
            _, h, w = one.pixels.shape
            pixels[row, :, :h, :w], mask[row, :h, :w] = one.pixels, True
        text = pad_text([one.grounded.prompt for one in examples])
        tokens = text["input_ids"].shape[1]
        return DetectionBatch(
            pixels=pixels,
            mask=mask,
            sizes=[(one.pixels.shape[1], one.pixels.shape[2]) for one in examples],
            text=text,
            boxes_xyxy=[one.boxes_xyxy for one in examples],
            positive=[functional.pad(one.positive, (0, tokens - one.positive.shape[1])) for one in examples],
            denoising=[one.denoising for one in examples if one.denoising is not None],
            examples=examples if self.keep else (),
        )


@dataclass(frozen=True)
class ImageTextBatch:
    """Pictures [B, 3, S, S] and the ids of texts [N, T].

    text_keys [N] int64 tells texts apart: captions have negative keys, the name of a class its number. picture_keys [B]
    holds the key of each picture's own text, which for a class is in no batch: the task adds names of all classes.
    """

    pixels: Tensor
    input_ids: Tensor
    text_keys: Tensor
    picture_keys: Tensor

    def to(self, device: torch.device) -> "ImageTextBatch":
        """Copy the tensors to a device."""
        parts = (self.pixels, self.input_ids, self.text_keys, self.picture_keys)
        return ImageTextBatch(*(part.to(device, non_blocking=True) for part in parts))


class ImageTextTransform:
    """Makes CLIP's examples: a picture, and the ids of one of its captions or the number of its class.

    classes: the names of all sets, whose order may differ from a set's own; None where that is the same.
    """

    def __init__(
        self,
        tokenizer: SentenceTokenizer,
        preprocessing: Preprocessing,
        augmentation: SquareAugmentation | None = None,
        *,
        classes: CategoryNames | None = None,
    ) -> None:
        self._tokenizer, self._preprocessing, self._augmentation = tokenizer, preprocessing, augmentation
        self._classes = classes

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[Tensor, Tensor | int]:
        if isinstance(record, DetectionRecord):
            raise DataError(f"{record.where}: boxes without a caption cannot train a CLIP")
        if isinstance(record, ClassificationRecord):
            text = record.names[record.label]
        else:
            captions = record.captions if isinstance(record, CaptionRecord) else (record.caption,)
            text = captions[int(rng.integers(len(captions)))]
        image, rules = record.picture.open(), self._preprocessing
        if record.finished:
            rules = rules.model_copy(update={"shorter": min(image.size)})
        elif self._augmentation is not None:
            image = random_square(image, self._augmentation, mirror=mirrorable(text), rng=rng)
        pixels = torch.from_numpy(preprocess(image, rules))
        return pixels, self._class(record) if isinstance(record, ClassificationRecord) else self._ids(
            text, record.where
        )

    def _class(self, record: ClassificationRecord) -> int:
        if self._classes is None:
            return record.label
        place = self._classes.place(record.names[record.label])
        assert place is not None, "names are checked before the run"
        return place

    def _ids(self, text: str, where: str) -> Tensor:
        """Tokenise a text; one over the model's limit is cut after as many words as fit, as CLIP was trained."""
        try:
            return torch.from_numpy(self._tokenizer.encode([text])[0])
        except PromptTooLong:
            words = text.split()
            fitting = next((n for n in range(len(words) - 1, 0, -1) if self._fits(" ".join(words[:n]))), 0)
            if not fitting:
                raise DataError(f"{where}: not even the caption's first word fits the model") from None
            return torch.from_numpy(self._tokenizer.encode([" ".join(words[:fitting])])[0])
        except PromptError as error:
            raise DataError(f"{where}: {error}") from error

    def _fits(self, text: str) -> bool:
        try:
            self._tokenizer.encode([text])
        except PromptError:
            return False
        return True


def collate_image_text(examples: Sequence[tuple[Tensor, Tensor | int]]) -> ImageTextBatch:
    """Collate examples; smaller pictures are scaled up to the largest.

    Texts are padded with zeros behind their end, which the model does not see.
    """
    captions = [text for _, text in examples if isinstance(text, Tensor)]
    keys = iter(range(-1, -1 - len(captions), -1))
    own = torch.tensor([next(keys) if isinstance(text, Tensor) else text for _, text in examples])
    ids = pad_sequence(captions, batch_first=True) if captions else torch.zeros(0, 1, dtype=torch.long)
    side = max(pixels.shape[1] for pixels, _ in examples)
    pictures = [
        pixels if pixels.shape[1] == side else functional.interpolate(pixels[None], (side, side), mode="bilinear")[0]
        for pixels, _ in examples
    ]
    return ImageTextBatch(torch.stack(pictures), ids, own[own < 0], own)


def all_boxes(record: BOXED) -> Float32:
    """The boxes [N, 4] of a record; of a caption, those of its phrases one after the other."""
    if isinstance(record, DetectionRecord):
        return record.boxes_xyxy
    return np.concatenate([region.boxes_xyxy for region in record.regions] or [np.zeros((0, 4), np.float32)])


def relative_boxes(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert boxes [M, 4] in pixels of a picture of (height, width) `size` to cx, cy, w, h in 0..1."""
    height, width = size
    return to_cxcywh(boxes_xyxy / torch.tensor([width, height, width, height], device=boxes_xyxy.device))


def pad_text(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Pad prompts to one batch of tensors, by the names of `server.contract.text.pad_prompts`."""
    arrays: dict[str, Any] = dict(pad_prompts(prompts, max(map(len, prompts))))
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _texts(record: BOXED) -> tuple[str, ...]:
    return record.names if isinstance(record, DetectionRecord) else (record.caption,)
