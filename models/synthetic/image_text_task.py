"""Training a CLIP: pictures of one object against the names of all objects."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from models.clip.model import Clip, unit_length
from models.losses.contrastive import info_nce, top1
from models.synthetic.curriculum import Curriculum
from models.synthetic.distillation import CLIP_TEXT, CONTEXT_LENGTH, load_student, read_embeddings
from models.synthetic.label_phrases import SENTENCE_TEMPLATES, PhraseSampler
from models.synthetic.scenes import SceneGenerator
from models.synthetic.sprites import NamedObject, SpritePack
from models.tokenizers import text_rules
from models.training.calibration import best_logit_scale
from server.contract.image import preprocess
from server.contract.manifest import Preprocessing
from server.contract.text import SentenceTokenizer

SMALL_BATCHES = 2 / 3
SYNONYMS = 0.3  # how often an object is called by another word than its label, where it has one
LARGEST_SCALE = float(np.log(100.0))  # Radford et al. 2021, section 2.5
VALIDATION_SEED = 1_000_003
VALIDATION_SIZES = ((240, 320), (300, 300), (320, 240))


@dataclass(frozen=True)
class ImageTextConfig:
    """Batches of pictures; the image side and colours are the preprocessing's.

    small: until this share of the run, two of three batches are of pictures three quarters as large, which cost half as
    much; a tower that has seen those only names one in ten of what it knows at full size.
    """

    batch: int
    preprocessing: Preprocessing
    curriculum: Curriculum
    validation_pictures: int = 300
    smoothing: float = 0.05
    small: float = 0.0


class Places:
    """Where every way to call each object lies: unit-length vectors of the shared space."""

    def __init__(self, words: Mapping[str, Tensor], objects: Sequence[NamedObject]) -> None:
        if missing := [item.label for item in objects if item.label not in words]:
            raise ValueError(f"the word knowledge has no place for {missing[:5]}: distil it with the same names")
        self._options = [
            torch.stack([words[text] for text in (item.label, *item.synonyms) if text in words]) for item in objects
        ]
        self.labels = torch.stack([options[0] for options in self._options])  # [N, D]

    def draw(self, rng: random.Random) -> Tensor:
        """[N, D]: of each object mostly its label, else a synonym."""
        rows = [int(rng.random() < SYNONYMS) * rng.randrange(len(options)) for options in self._options]
        return torch.stack([options[row] for options, row in zip(self._options, rows, strict=True)])


class ImageTextTask:
    """Symmetric contrast of each picture with a name of every object; names are drawn anew at every step.

    With `words`, the folder of a distillation, pictures learn to lie where its teacher puts the names, and the text
    tower is its student, which is put in at the end: both can be trained at the same time.
    """

    def __init__(
        self,
        model: Clip,
        pack: SpritePack,
        objects: tuple[NamedObject, ...],
        tokenizer: Path,
        config: ImageTextConfig,
        *,
        seed: int,
        words: Path | None = None,
    ) -> None:
        self.model: nn.Module = model
        self.objects, self.config = objects, config
        self._scenes = SceneGenerator(pack, objects, seed=seed)
        self._held_out = SceneGenerator(pack, objects, seed=seed + VALIDATION_SEED)
        self._rng = random.Random(seed)
        self._phrases = PhraseSampler(SENTENCE_TEMPLATES, rng=self._rng)
        self._tokenizer = SentenceTokenizer(tokenizer, text_rules(tokenizer, "sentence", max_tokens=CONTEXT_LENGTH))
        self._validation: tuple[Tensor, Tensor] | None = None
        self._words = words
        self._places = None if words is None else Places(read_embeddings(words), objects)
        if words is not None:
            model.text_tower.requires_grad_(False)

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Symmetric InfoNCE of a fresh batch."""
        assert isinstance(self.model, Clip)
        with torch.autocast("cpu", enabled=False):
            pixels, wanted = self._pictures(progress)
        images, texts = self.model.encode_image(pixels), self._texts(self.model)
        with torch.autocast("cpu", enabled=False):  # names lie too near each other for eight bits
            logits = self.model.logit_scale.exp() * unit_length(images.float()) @ texts.T
            loss = info_nce(logits, wanted, smoothing=self.config.smoothing)
        # The published bound on the temperature also keeps a long run from overflowing.
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=LARGEST_SCALE)
        return loss, {
            "top1": top1(logits.detach(), wanted),
            "scale": float(self.model.logit_scale.detach().exp()),
        }

    def _pictures(self, progress: float) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, S, S], and which object each shows [B]."""
        side = self.config.preprocessing.shorter
        if progress < self.config.small and self._rng.random() < SMALL_BATCHES:
            side = side * 3 // 4
        # Now and then drawn larger and averaged down, which is how a resized photograph looks.
        zoom = 2 if torch.rand((), generator=self._scenes.generator) < 0.05 else 1
        batch = self._scenes.single(self.config.batch, (side * zoom, side * zoom), self.config.curriculum.at(progress))
        pixels = normalised(functional.avg_pool2d(batch.pixels, zoom), self.config.preprocessing)
        return pixels.contiguous(memory_format=torch.channels_last), batch.objects

    def _texts(self, model: Clip) -> Tensor:
        """A name of every object [N, D], unit length."""
        if self._places is not None:
            return self._places.draw(self._rng)
        texts = [self._phrases.text(item) for item in self.objects]
        return unit_length(model.encode_text(torch.from_numpy(self._tokenizer.encode(texts))).float())

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Top-1 over all labels on pictures of a held-out seed, resized as the server does."""
        cosines, wanted = self._held_out_cosines(model)
        fifth = float((cosines.topk(min(5, cosines.shape[1])).indices == wanted[:, None]).any(1).float().mean())
        return {"validation_top1": top1(cosines, wanted), "validation_top5": fifth}

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Set `logit_scale` to what fits held-out pictures best; label smoothing leaves scores too timid."""
        assert isinstance(model, Clip)
        if self._words is not None:
            load_student(self._words, CLIP_TEXT, model.text_tower)
            self._places = None
        scale = best_logit_scale(*self._held_out_cosines(model))
        model.logit_scale.fill_(float(np.log(scale)))
        return {"logit_scale": scale}

    def _held_out_cosines(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Of every held-out picture with every label [B, N], and the right labels [B]."""
        assert isinstance(model, Clip)
        if self._validation is None:
            self._validation = self._validation_set()
        pixels, wanted = self._validation
        if self._places is not None:
            texts = self._places.labels
        else:
            labels = torch.from_numpy(self._tokenizer.encode([item.label for item in self.objects]))
            texts = unit_length(model.encode_text(labels))
        images = torch.cat([unit_length(model.encode_image(part)) for part in pixels.split(100)])
        return images @ texts.T, wanted

    def _validation_set(self) -> tuple[Tensor, Tensor]:
        pixels: list[Tensor] = []
        wanted: list[Tensor] = []
        for size in VALIDATION_SIZES:
            batch = self._held_out.single(
                self.config.validation_pictures // len(VALIDATION_SIZES), size, self.config.curriculum.full
            )
            pixels += [
                torch.from_numpy(preprocess(to_image(picture), self.config.preprocessing)) for picture in batch.pixels
            ]
            wanted.append(batch.objects)
        return torch.stack(pixels), torch.cat(wanted)

    def is_slow(self, name: str) -> bool:
        """Everything learns at the full rate."""
        return False

    def state(self) -> dict[str, Any]:
        """Random states of the pictures and of the names."""
        return {"scenes": self._scenes.generator.get_state(), "rng": self._rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the pictures and names that would have come next."""
        self._scenes.generator.set_state(state["scenes"])
        self._rng.setstate(state["rng"])


def normalised(pixels: Tensor, rules: Preprocessing) -> Tensor:
    """[B, 3, H, W] in 0..1 as the model reads it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (rules.mean, rules.std))
    return (pixels - mean) / std


def to_image(pixels: Tensor) -> Image.Image:
    """[3, H, W] in 0..1 as an 8-bit picture."""
    return Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
