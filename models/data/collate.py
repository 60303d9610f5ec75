"""From records to what the families learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.data.augmentation import DetectorAugmentation, SquareAugmentation, changed, mirrorable, square
from models.data.grounding_prompts import Prompter
from models.data.images import DataError
from models.data.records import CaptionRecord, DetectionRecord, Float32, GroundingRecord, Record
from models.training.denoising import DenoisingConfig, NoisedObjects, noised
from models.training.detectors import Lesson, padded, relative
from server.contract.image import preprocess
from server.contract.manifest import Preprocessing
from server.contract.text import Prompt, PromptError, PromptTooLong, SentenceTokenizer


@dataclass(frozen=True)
class DetectionExample:
    """A picture [3, h, w] as the model reads it, its prompt, and what of it the prompt names: see `Lesson`."""

    pixels: Tensor
    prompt: Prompt
    boxes_xyxy: Tensor
    positive: Tensor
    noised: NoisedObjects | None


class DetectionExamples:
    """Makes examples for a detector of records with boxes."""

    def __init__(
        self,
        prompter: Prompter,
        preprocessing: Preprocessing,
        augmentation: DetectorAugmentation | None,
        denoising: DenoisingConfig | None,
    ) -> None:
        self._prompter, self._preprocessing = prompter, preprocessing
        self._augmentation, self._denoising = augmentation, denoising

    def __call__(self, record: Record, rng: np.random.Generator) -> DetectionExample:
        if isinstance(record, CaptionRecord):
            raise DataError(f"{record.where}: a caption without boxes teaches a detector nothing")
        rules = self._augmentation or DetectorAugmentation(flip=0, crop=0)
        sides = rules.shorter or (self._preprocessing.shorter,)
        shorter = int(rng.choice(sides))
        seen = changed(
            record.picture.open(record.size),
            all_boxes(record),
            rules,
            mirror=mirrorable(*_texts(record)),
            shorter=self._preprocessing.shorter,
            rng=rng,
        )
        question = self._prompter.ask(record, seen.boxes_xyxy, seen.rows, rng)
        pixels = torch.from_numpy(preprocess(seen.image, self._preprocessing.model_copy(update={"shorter": shorter})))
        scale = np.asarray([pixels.shape[2] / seen.image.width, pixels.shape[1] / seen.image.height] * 2, np.float32)
        boxes = torch.from_numpy(question.boxes_xyxy * scale)
        positive = torch.from_numpy(question.positive)
        queries = None
        if self._denoising is not None:
            size = (pixels.shape[1], pixels.shape[2])
            generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            queries = noised(
                relative(boxes, size), positive, torch.from_numpy(question.labels), self._denoising, generator
            )
        return DetectionExample(pixels, question.prompt, boxes, positive, queries)


@dataclass(frozen=True)
class Together:
    """Puts examples of pictures of any size into one batch, whose sides are multiples of `multiple` pixels."""

    multiple: int

    def __call__(self, examples: list[DetectionExample]) -> Lesson:
        height, width = (
            -(-max(one.pixels.shape[axis] for one in examples) // self.multiple) * self.multiple for axis in (1, 2)
        )
        pixels = torch.zeros(len(examples), 3, height, width)
        mask = torch.zeros(len(examples), height, width, dtype=torch.bool)
        for row, one in enumerate(examples):
            _, h, w = one.pixels.shape
            pixels[row, :, :h, :w], mask[row, :h, :w] = one.pixels, True
        text = padded([one.prompt for one in examples])
        tokens = text["input_ids"].shape[1]
        return Lesson(
            pixels=pixels,
            mask=mask,
            sizes=[(one.pixels.shape[1], one.pixels.shape[2]) for one in examples],
            text=text,
            boxes_xyxy=[one.boxes_xyxy for one in examples],
            positive=[torch.nn.functional.pad(one.positive, (0, tokens - one.positive.shape[1])) for one in examples],
            noised=[one.noised for one in examples if one.noised is not None],
        )


@dataclass(frozen=True)
class Pairs:
    """Pictures [B, 3, S, S] and the ids of their texts [B, T]."""

    pixels: Tensor
    input_ids: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """The same on a device."""
        return Pairs(self.pixels.to(device, non_blocking=True), self.input_ids.to(device, non_blocking=True))


class PairExamples:
    """Makes a picture and a text of a record with captions."""

    def __init__(
        self, tokenizer: SentenceTokenizer, preprocessing: Preprocessing, augmentation: SquareAugmentation | None
    ) -> None:
        self._tokenizer, self._preprocessing, self._augmentation = tokenizer, preprocessing, augmentation

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if isinstance(record, DetectionRecord):
            raise DataError(f"{record.where}: boxes without a caption teach a CLIP nothing")
        captions = (record.caption,) if isinstance(record, GroundingRecord) else record.captions
        text = captions[int(rng.integers(len(captions)))]
        image = record.picture.open()
        if self._augmentation is not None:
            image = square(image, self._augmentation, mirror=mirrorable(text), rng=rng)
        return torch.from_numpy(preprocess(image, self._preprocessing)), self._ids(text, record.where)

    def _ids(self, text: str, where: str) -> Tensor:
        """The ids of a text; of one over the model's limit, those of as many first words as fit, as CLIP trains."""
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


def paired(examples: Sequence[tuple[Tensor, Tensor]]) -> Pairs:
    """Examples as one batch; texts are filled with zeros, behind their end, which the model does not see."""
    ids = torch.nn.utils.rnn.pad_sequence([text for _, text in examples], batch_first=True)
    return Pairs(torch.stack([pixels for pixels, _ in examples]), ids)


def all_boxes(record: DetectionRecord | GroundingRecord) -> Float32:
    """The boxes [N, 4] of a record, of a caption's phrases one after the other."""
    if isinstance(record, DetectionRecord):
        return record.boxes_xyxy
    return np.concatenate([region.boxes_xyxy for region in record.regions] or [np.zeros((0, 4), np.float32)])


def _texts(record: DetectionRecord | GroundingRecord) -> tuple[str, ...]:
    return record.names if isinstance(record, DetectionRecord) else (record.caption,)
