"""Training a detector: scenes of several objects against prompts that name present and absent ones."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.synthetic.curriculum import Curriculum
from models.synthetic.distillation import read_embeddings
from models.synthetic.image_text_task import SMALL_BATCHES, VALIDATION_SEED, Places, normalised, to_image
from models.synthetic.prompt_sampler import Asker, AskingConfig, Shown
from models.synthetic.scenes import SceneBatch, SceneGenerator
from models.synthetic.sprites import NamedObject, SpritePack
from models.training.average_precision import Found, Truth, matched, mean_average_precision
from models.training.calibration import best_threshold, quiet_threshold
from models.training.detectors import Detector, Lesson, padded
from server.contract.image import canvas_size, pad_batch, preprocess, resized_size
from server.contract.manifest import Buckets, DetectionRules, Preprocessing
from server.contract.postprocess import Thresholds, detections
from server.contract.text import Prompt, PromptTokenizer

# (height, width) of pictures as they arrive; a batch is drawn at the size the preprocessing gives one of them.
PICTURE_SIZES = ((480, 640), (480, 480), (640, 480), (400, 600), (360, 640), (600, 400))
# Calibration stops when the best threshold is this near to the rules'; a shift moves it only about where it should.
NEAR, SHIFTS = 0.01, 5
QUIET = 0.95


@dataclass(frozen=True)
class DetectionConfig:
    """Batches of scenes, and how they are asked about.

    small: until this share of the run, two of three batches are of pictures three quarters as large.
    """

    batch: int
    preprocessing: Preprocessing
    buckets: Buckets
    curriculum: Curriculum
    rules: DetectionRules
    asking: AskingConfig = field(default_factory=AskingConfig)
    small: float = 0.0
    validation_pictures: int = 72
    frozen: tuple[str, ...] = ()  # modules, by name and a dot, that stay as they came


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A picture as the server reads it, its size (height, width) before, and two prompts, one of absent things only."""

    values: npt.NDArray[np.float32]
    size: tuple[int, int]
    truths: tuple[Truth, ...]
    prompt: Prompt
    absent: Prompt


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
        words: Path | None = None,
    ) -> None:
        """`words`, the folder of a distillation, tells which names are alike."""
        self.model, self.detector = model, detector
        self.objects, self.config = objects, config
        self._scenes = SceneGenerator(pack, objects, seed=seed)
        self._held_out = SceneGenerator(pack, objects, seed=seed + VALIDATION_SEED)
        self._validation: list[HeldOut] | None = None
        self._prompts = prompts
        self._rng = random.Random(seed)
        places = None if words is None else Places(read_embeddings(words), objects).labels
        self._asker = Asker(objects, prompts, config.asking, rng=self._rng, places=places)
        self._frozen = [module for name, module in model.named_modules() if f"{name}." in config.frozen]
        for module in self._frozen:
            module.requires_grad_(False)

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The detector loss of a fresh batch."""
        config = self.config
        for module in self._frozen:
            module.eval()  # batch statistics stay as well
        size = resized_size(*self._rng.choice(PICTURE_SIZES), config.preprocessing)
        if progress < config.small and self._rng.random() < SMALL_BATCHES:
            size = (size[0] * 3 // 4, size[1] * 3 // 4)
        zoom = 2 if self._rng.random() < 0.1 else 1
        with torch.autocast("cpu", enabled=False):
            scene = self._scenes.scenes(config.batch, (size[0] * zoom, size[1] * zoom), config.curriculum.at(progress))
        pixels = normalised(functional.avg_pool2d(scene.pixels, zoom), config.preprocessing)
        canvas = canvas_size(*size, config.buckets)
        padding = (0, canvas[1] - size[1], 0, canvas[0] - size[0])
        mask = functional.pad(torch.ones(config.batch, *size, dtype=torch.bool), padding)
        pixels = functional.pad(pixels, padding).contiguous(memory_format=torch.channels_last)
        questions = [self._asker.ask(shown) for shown in shown_in(scene)]
        tokens = max(len(question.prompt) for question in questions)
        named = [question.answers(tokens) for question in questions]
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
        """AP50 and class-agnostic AP50 after NMS on full-size held-out pictures, read as the server reads them.

        `quiet_recall` is the share of objects found at the score above which `QUIET` of the pictures have nothing of
        what is absent.
        """
        truths, found, alarms = self._held_out_answers(model)
        loudest = {alarm.picture: alarm.score for alarm in sorted(alarms, key=lambda alarm: alarm.score)}
        quiet = quiet_threshold([loudest.get(n, 0.0) for n in range(self.config.validation_pictures)], QUIET)
        hits = [hit for label in {truth.label for truth in truths} for hit in _hits(label, truths, found, quiet)]
        return {
            "validation_ap50": mean_average_precision(truths, found),
            "any_label_ap50": mean_average_precision(truths, found, by_label=False),
            "quiet_threshold": quiet,
            "quiet_recall": sum(hits) / max(1, len(truths)),
        }

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Shift the token logits so that the rules' `box_threshold` is the best one on held-out pictures.

        Focal loss leaves scores low, and how low depends on the length of the run. The best threshold has the best F1
        where each picture is also asked for absent things alone.
        """
        wanted, total = self.config.rules.box_threshold, 0.0
        figures: dict[str, float] = {}
        for _ in range(SHIFTS):
            truths, found, alarms = self._held_out_answers(model)
            if not found:
                break
            threshold = best_threshold(truths, found + alarms)
            figures.setdefault("best_threshold", threshold)
            if abs(threshold - wanted) < NEAR:
                break
            total += self.detector.shift(model, threshold, wanted)
        return {**figures, "logit_shift": total}

    def _held_out_answers(self, model: nn.Module) -> tuple[list[Truth], list[Found], list[Found]]:
        """Of held-out pictures the objects asked for, what is found, and what is where absent things are asked for."""
        if self._validation is None:
            self._validation = self._held_out_pictures()
        truths: list[Truth] = []
        found: list[Found] = []
        alarms: list[Found] = []
        for number, picture in enumerate(self._validation):
            truths += picture.truths
            found += self._detections(model, number, picture, picture.prompt)
            alarms += self._detections(model, number, picture, picture.absent)
        return truths, found, alarms

    def _held_out_pictures(self) -> list[HeldOut]:
        rng, asking = random.Random(VALIDATION_SEED), self.config.asking
        asker, absent_asker = (
            Asker(self.objects, self._prompts, config, rng=rng, labels_only=True)
            for config in (replace(asking, absent=0.0), replace(asking, absent=1.0, fewest_labels=4, most_labels=10))
        )
        pictures = []
        for number in range(self.config.validation_pictures):
            size = PICTURE_SIZES[number % len(PICTURE_SIZES)]
            scene = self._held_out.scenes(1, size, self.config.curriculum.full)
            shown = shown_in(scene)[0]
            question = asker.ask(shown)
            truths = [
                Truth(number, self.objects[index].label, (box[0], box[1], box[2], box[3]))
                for index, box in zip(shown.objects, shown.boxes, strict=True)
                if index in question.named
            ]
            values = preprocess(to_image(scene.pixels[0]), self.config.preprocessing)
            pictures.append(HeldOut(values, size, tuple(truths), question.prompt, absent_asker.ask(shown).prompt))
        return pictures

    def _detections(self, model: nn.Module, number: int, picture: HeldOut, prompt: Prompt) -> list[Found]:
        values = picture.values
        batch, mask = pad_batch([values], canvas_size(values.shape[1], values.shape[2], self.config.buckets))
        scores, boxes = self.detector.answer(model, torch.from_numpy(batch), torch.from_numpy(mask), [prompt])
        rules = self.config.rules
        answers = detections(
            scores[0].numpy(),
            boxes[0].numpy(),
            prompt,
            size=picture.size,
            input_size=(values.shape[1], values.shape[2]),
            rules=rules,
            thresholds=Thresholds(0.02, 0.02, rules.nms_iou, rules.max_detections),
        )
        return [Found(number, found.label, found.box, found.score) for found in answers]

    def is_slow(self, name: str) -> bool:
        """What comes trained learns at the reduced rate."""
        return name.startswith(self.detector.slow)

    def state(self) -> dict[str, Any]:
        """Random states of the pictures and of the prompts."""
        return {"scenes": self._scenes.generator.get_state(), "rng": self._rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the pictures and prompts that would have come next."""
        self._scenes.generator.set_state(state["scenes"])
        self._rng.setstate(state["rng"])


def _hits(label: str, truths: list[Truth], found: list[Found], threshold: float) -> list[bool]:
    """Of the detections of a label above a score, whether each is right."""
    wanted = [truth for truth in truths if truth.label == label]
    answers = [detection for detection in found if detection.label == label and detection.score > threshold]
    return [hit for _, hit in matched(wanted, answers, iou=0.5)]


def shown_in(scene: SceneBatch) -> list[Shown]:
    """What each picture shows."""
    size = (scene.pixels.shape[2], scene.pixels.shape[3])
    rows = zip(scene.objects, scene.boxes_xyxy, scene.colours, strict=True)
    return [Shown(objects.tolist(), boxes.tolist(), colours.tolist(), size) for objects, boxes, colours in rows]
