"""Training a detector: scenes of several objects against prompts that name present and absent ones."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.average_precision import Found, Truth, mean_average_precision
from models.training.calibration import best_threshold
from models.training.curriculum import Curriculum
from models.training.detectors import Detector, Lesson, padded
from models.training.image_text import VALIDATION_SEED, normalised, to_image
from models.training.phrases import PHRASES, PhraseSampler
from models.training.scenes import SceneGenerator
from models.training.sprites import NamedObject, SpritePack
from server.contract.image import canvas_size, pad_batch, preprocess, resized_size
from server.contract.manifest import Buckets, DetectionRules, Preprocessing
from server.contract.postprocess import Thresholds, detections
from server.contract.text import Prompt, PromptTokenizer

# (height, width) of pictures as they arrive; a batch is drawn at the size the preprocessing gives one of them.
PICTURE_SIZES = ((480, 640), (480, 480), (640, 480), (400, 600), (360, 640), (600, 400))
# Calibration stops when the best threshold is this near to the rules'; a shift moves it only about where it should.
NEAR, SHIFTS = 0.01, 5


@dataclass(frozen=True)
class DetectionConfig:
    """Batches of scenes, and prompts of `fewest_labels` to `most_labels` labels.

    A share `absent` of the prompts names nothing that is there: a detector that always saw something it was asked for
    gives a house to whoever asks for a banana alone.
    """

    batch: int
    preprocessing: Preprocessing
    buckets: Buckets
    curriculum: Curriculum
    rules: DetectionRules
    fewest_labels: int = 1
    most_labels: int = 14
    absent: float = 0.4
    asked: float = 0.85  # chance that a present object is named in any other prompt
    validation_pictures: int = 72
    frozen: tuple[str, ...] = ()  # modules, by name and a dot, that stay as they came


@dataclass(frozen=True)
class Question:
    """Which objects a prompt names, in order, and the prompt."""

    named: tuple[int, ...]
    prompt: Prompt


class DetectionTask:
    """A family's loss on fresh scenes, and AP50 on held-out ones."""

    def __init__(
        self,
        model: nn.Module,
        detector: Detector,
        pack: SpritePack,
        objects: tuple[NamedObject, ...],
        prompts: PromptTokenizer,
        config: DetectionConfig,
        *,
        seed: int,
    ) -> None:
        self.model, self.detector = model, detector
        self.objects, self.config = objects, config
        self._scenes = SceneGenerator(pack, objects, seed=seed)
        self._held_out = SceneGenerator(pack, objects, seed=seed + VALIDATION_SEED)
        self._prompts = prompts
        self._dice = random.Random(seed)
        self._asker = Asker(objects, prompts, config, dice=self._dice)
        self._frozen = [module for name, module in model.named_modules() if f"{name}." in config.frozen]
        for module in self._frozen:
            module.requires_grad_(False)

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The detector loss of a fresh batch."""
        config = self.config
        for module in self._frozen:
            module.eval()  # batch statistics stay as well
        size = resized_size(*self._dice.choice(PICTURE_SIZES), config.preprocessing)
        zoom = 2 if self._dice.random() < 0.1 else 1
        scene = self._scenes.scenes(config.batch, (size[0] * zoom, size[1] * zoom), config.curriculum.at(progress))
        pixels = normalised(functional.avg_pool2d(scene.pixels, zoom), config.preprocessing)
        canvas = canvas_size(*size, config.buckets)
        padding = (0, canvas[1] - size[1], 0, canvas[0] - size[0])
        mask = functional.pad(torch.ones(config.batch, *size, dtype=torch.bool), padding)
        pixels = functional.pad(pixels, padding).contiguous(memory_format=torch.channels_last)
        questions = [self._asker.ask(present.tolist()) for present in scene.objects]
        tokens = max(len(question.prompt) for question in questions)
        named = [named_objects(*row, tokens) for row in zip(questions, scene.objects, strict=True)]
        lesson = Lesson(
            pixels=pixels,
            mask=mask,
            sizes=[size] * config.batch,
            text=padded([question.prompt for question in questions]),
            boxes_xyxy=[boxes[rows] / zoom for boxes, (rows, _) in zip(scene.boxes_xyxy, named, strict=True)],
            positive=[positive for _, positive in named],
        )
        counts = self.detector.counts(self.model, lesson)
        return self.detector.loss(self.detector.run(self.model, None, lesson), lesson, counts)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """AP50 and class-agnostic AP50 after NMS on full-size held-out pictures, read as the server reads them."""
        truths, found = self._held_out_answers(model)
        return {
            "validation_ap50": mean_average_precision(truths, found),
            "any_label_ap50": mean_average_precision(truths, found, by_label=False),
        }

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Shift the token logits so that the rules' `box_threshold` is the best one on held-out pictures.

        Focal loss leaves scores low, and how low depends on the length of the run.
        """
        wanted, total = self.config.rules.box_threshold, 0.0
        figures: dict[str, float] = {}
        for _ in range(SHIFTS):
            truths, found = self._held_out_answers(model)
            if not found:
                break
            threshold = best_threshold(truths, found)
            figures.setdefault("best_threshold", threshold)
            if abs(threshold - wanted) < NEAR:
                break
            total += self.detector.shift(model, threshold, wanted)
        return {**figures, "logit_shift": total}

    def _held_out_answers(self, model: nn.Module) -> tuple[list[Truth], list[Found]]:
        self._held_out.generator.manual_seed(VALIDATION_SEED)
        asker = Asker(self.objects, self._prompts, self.config, dice=random.Random(VALIDATION_SEED), labels_only=True)
        truths: list[Truth] = []
        found: list[Found] = []
        for picture in range(self.config.validation_pictures):
            size = PICTURE_SIZES[picture % len(PICTURE_SIZES)]
            scene = self._held_out.scenes(1, size, self.config.curriculum.full)
            question = asker.ask(scene.objects[0].tolist())
            for index, box in zip(scene.objects[0].tolist(), scene.boxes_xyxy[0].tolist(), strict=True):
                if index in question.named:
                    truths.append(Truth(picture, self.objects[index].label, tuple(box)))
            found += self._detections(model, picture, scene.pixels[0], question.prompt)
        return truths, found

    def _detections(self, model: nn.Module, picture: int, pixels: Tensor, prompt: Prompt) -> list[Found]:
        values = preprocess(to_image(pixels), self.config.preprocessing)
        batch, mask = pad_batch([values], canvas_size(values.shape[1], values.shape[2], self.config.buckets))
        scores, boxes = self.detector.answer(model, torch.from_numpy(batch), torch.from_numpy(mask), [prompt])
        rules = self.config.rules
        answers = detections(
            scores[0].numpy(),
            boxes[0].numpy(),
            prompt,
            size=(pixels.shape[1], pixels.shape[2]),
            input_size=(values.shape[1], values.shape[2]),
            rules=rules,
            thresholds=Thresholds(0.02, 0.02, rules.nms_iou, rules.max_detections),
        )
        return [Found(picture, found.label, found.box, found.score) for found in answers]

    def is_slow(self, name: str) -> bool:
        """What comes trained learns at the reduced rate."""
        return name.startswith(self.detector.slow)

    def state(self) -> dict[str, Any]:
        """Random states of the pictures and of the prompts."""
        return {"scenes": self._scenes.generator.get_state(), "dice": self._dice.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the pictures and prompts that would have come next."""
        self._scenes.generator.set_state(state["scenes"])
        self._dice.setstate(state["dice"])


class Asker:
    """Makes prompts: present objects, absent ones, in random order and in other words (or their labels only)."""

    def __init__(
        self,
        objects: tuple[NamedObject, ...],
        prompts: PromptTokenizer,
        config: DetectionConfig,
        *,
        dice: random.Random,
        labels_only: bool = False,
    ) -> None:
        self._objects, self._prompts, self._config = objects, prompts, config
        self._dice = dice
        self._phrases = None if labels_only else PhraseSampler(PHRASES, dice=dice)

    def ask(self, present: list[int]) -> Question:
        """A prompt about a picture that shows the objects `present`."""
        config, dice = self._config, self._dice
        count = dice.randint(config.fewest_labels, config.most_labels)
        asked = 0.0 if dice.random() < config.absent else config.asked
        named = [index for index in dict.fromkeys(present) if dice.random() < asked]
        dice.shuffle(named)
        others = [index for index in range(len(self._objects)) if index not in present]
        order = named[:count]
        order += dice.sample(others, min(len(others), count - len(order)))
        dice.shuffle(order)
        texts = [self._phrases.text(self._objects[i]) if self._phrases else self._objects[i].label for i in order]
        return Question(tuple(order), self._prompts.from_labels(texts))


def named_objects(question: Question, present: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Of the objects in a picture [n] those rows [M] that the prompt names, and the tokens of each [M, tokens] bool."""
    place = {index: label for label, index in enumerate(question.named)}
    rows = torch.tensor([row for row, index in enumerate(present.tolist()) if index in place], dtype=torch.long)
    owner = torch.full((tokens,), -1)
    owner[: len(question.prompt)] = torch.from_numpy(question.prompt.token_label)
    labels = torch.tensor([place[int(present[row])] for row in rows], dtype=torch.long)
    return rows, owner[None] == labels[:, None]
