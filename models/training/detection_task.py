"""Training a detector on detection and grounding records together (GLIP's unified training)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from models.data.collate import DetectionBatch, pad_text
from models.training.dataset_task import DatasetTask, TaskData
from models.training.detection_metrics import (
    LabelledBox,
    average_precisions,
    best_f1_threshold,
    evaluation,
    quiet_threshold,
    recall_above,
)
from models.training.detectors import DetectorAdapter, TrainableDetector
from models.training.distributed import ALONE, ProcessGroup
from models.training.loop import StepContext
from server.contract.manifest import DetectionRules
from server.contract.postprocess import Thresholds, detections
from server.contract.text import Prompt

LOWEST_SCORE = 0.02  # of a detection that counts in average precision
# Calibration stops when the best threshold is this near to the rules'; a shift moves it only about where it should.
NEAR, MAX_SHIFTS = 0.01, 5
QUIET = 0.95  # share of the pictures without a false alarm at the quiet threshold


@dataclass
class HeldOutResults:
    """Objects that prompts of categories name, detections for them, and false alarms where absent things are named."""

    losses: list[float] = field(default_factory=list)
    truths: list[LabelledBox] = field(default_factory=list)
    found: list[LabelledBox] = field(default_factory=list)
    alarms: list[LabelledBox] = field(default_factory=list)
    asked_absent: set[int] = field(default_factory=set)


class DetectionTask(DatasetTask[DetectionBatch]):
    """A family's loss, and with `rules`, how it is served, average precision on held-out pictures.

    `queries` embeds denoising queries, if there are any. `calibrate`: at the end, fit the scores to held-out pictures.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: DetectorAdapter,
        queries: nn.Module | None,
        data: TaskData[DetectionBatch],
        group: ProcessGroup = ALONE,
        frozen: Sequence[nn.Module] = (),
        *,
        rules: DetectionRules | None = None,
        calibrate: bool = False,
    ) -> None:
        super().__init__(model, TrainableDetector(adapter, model, queries), data, group, frozen)
        self._adapter, self._rules, self._calibrate = adapter, rules, calibrate

    def learn(self, step: StepContext) -> dict[str, float]:
        """The sums of the loss are divided by the counts of all batches of all processes, as if they were one."""
        batches = self.batches(step.accumulate)
        counts = torch.stack([self._adapter.counts(self.model, batch) for batch in batches]).sum(0)
        counts = step.group.sum(counts)
        figures: Counter[str] = Counter()
        for number, batch in enumerate(batches, 1):
            with self.synchronised(last=number == len(batches)):
                with step.autocast():
                    output = self._parallel(batch)
                loss, parts = self._adapter.loss(output, batch, counts)
                step.backward(loss * step.group.size)  # gradients of processes are averaged
            figures.update({"loss": float(loss.detach()), **parts})  # adds them up
        return dict(figures)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss without denoising, AP and AP50, of each label too, and recall at the quiet threshold.

        At the quiet threshold, `QUIET` of the pictures have no detection when only absent things are named.
        """
        results = self._results(model, self.held_out())
        figures = {}
        if results.losses:
            figures["validation_loss"] = sum(results.losses) / len(results.losses)
        if results.truths:
            figures |= average_precisions(results.truths, results.found)
            figures["any_label_ap50"] = evaluation(results.truths, results.found, by_label=False).average_precision()
        if results.truths and results.asked_absent:
            highest = dict.fromkeys(results.asked_absent, 0.0)
            for alarm in results.alarms:
                highest[alarm.picture] = max(highest[alarm.picture], alarm.score)
            figures["quiet_threshold"] = quiet_threshold(list(highest.values()), QUIET)
            figures["quiet_recall"] = recall_above(results.truths, results.found, figures["quiet_threshold"])
        return figures

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Calibrate: shift the token logits so that the rules' `box_threshold` is the best one on held-out pictures.

        Focal loss leaves scores low, and how low depends on the length of the run. The best threshold has the best F1
        where each picture is also asked for absent things alone.
        """
        figures = super().finish(model)
        if not self._calibrate or self._rules is None:
            return figures
        batches, wanted, total = list(self.held_out()), self._rules.box_threshold, 0.0
        for _ in range(MAX_SHIFTS):
            results = self._results(model, batches)
            if not results.found:
                break
            threshold = best_f1_threshold(results.truths, results.found + results.alarms)
            figures.setdefault("best_threshold", threshold)
            if abs(threshold - wanted) < NEAR:
                break
            total += self._adapter.shift(model, threshold, wanted)
        return {**figures, "logit_shift": total}

    def _results(self, model: nn.Module, batches: Iterable[DetectionBatch]) -> HeldOutResults:
        results, adapter, first = HeldOutResults(), self._adapter, 0
        for batch in batches:
            output = adapter.run(model, None, batch)
            results.losses.append(float(adapter.loss(output, batch, adapter.counts(model, batch))[0]))
            if self._rules is not None:
                self._add_detections(results, model, output, batch, first)
            first += len(batch.sizes)
        return results

    def _add_detections(
        self, results: HeldOutResults, model: nn.Module, output: object, batch: DetectionBatch, first: int
    ) -> None:
        """Add the detections of a batch, whose pictures are numbered from `first`."""
        prompts = [example.grounded.prompt for example in batch.examples]
        found = self._detections(model, output, batch, prompts, first)
        for row, example in enumerate(batch.examples):
            labels = example.grounded.box_labels
            if labels is None:
                continue
            for label, box in zip(labels, example.boxes_xyxy.tolist(), strict=True):
                results.truths.append(LabelledBox(first + row, label, (box[0], box[1], box[2], box[3])))
            results.found += [one for one in found if one.picture == first + row]
        rows = [row for row, example in enumerate(batch.examples) if example.absent is not None]
        if rows:
            absent = [batch.examples[row].absent or prompts[row] for row in range(len(prompts))]
            asked = replace(batch, text={k: v.to(batch.pixels.device) for k, v in pad_text(absent).items()})
            alarms = self._detections(model, self._adapter.run(model, None, asked), asked, absent, first)
            results.asked_absent |= {first + row for row in rows}
            results.alarms += [one for one in alarms if one.picture - first in rows]

    def _detections(
        self, model: nn.Module, output: object, batch: DetectionBatch, prompts: Sequence[Prompt], first: int
    ) -> list[LabelledBox]:
        """Post-process an output as the server does, in pixels of the model's input."""
        rules = self._rules
        assert rules is not None
        scores, boxes = (values.float().cpu().numpy() for values in self._adapter.predict(model, output, batch))
        thresholds = Thresholds(LOWEST_SCORE, LOWEST_SCORE, rules.nms_iou, rules.max_detections)
        found = []
        for row, (prompt, size) in enumerate(zip(prompts, batch.sizes, strict=True)):
            own = scores[row, :, : len(prompt)]
            kept = detections(own, boxes[row], prompt, size=size, input_size=size, rules=rules, thresholds=thresholds)
            found += [LabelledBox(first + row, one.label, one.box, one.score) for one in kept]
        return found
