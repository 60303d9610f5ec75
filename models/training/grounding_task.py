"""Training a detector on data sets: detection and grounding records together (GLIP's unified training)."""

from collections.abc import Sequence

import torch
from torch import nn

from models.training.dataset_task import Data, SetTask, added
from models.training.detectors import Detector, Lesson, TrainableDetector
from models.training.distributed import Processes
from models.training.loop import StepContext


class GroundingTask(SetTask[Lesson]):
    """A family's loss on lessons; `queries` is what makes denoising queries, if there are any."""

    def __init__(
        self,
        model: nn.Module,
        detector: Detector,
        queries: nn.Module | None,
        data: Data[Lesson],
        processes: Processes,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(model, TrainableDetector(detector, model, queries), data, processes, frozen)
        self._detector = detector

    def learn(self, turn: StepContext) -> dict[str, float]:
        """The sums of the loss are divided by the counts of all batches of all processes, as if they were one."""
        lessons = self.batches(turn.accumulate)
        counts = torch.stack([self._detector.counts(self.model, lesson) for lesson in lessons]).sum(0)
        counts = turn.processes.total(counts)
        figures: dict[str, float] = {}
        for number, lesson in enumerate(lessons, 1):
            with self.alone(last=number == len(lessons)):
                with turn.autocast():
                    output = self._shared(lesson)
                loss, parts = self._detector.loss(output, lesson, counts)
                turn.backward(loss * turn.processes.count)  # processes' gradients are averaged
            figures = added(figures, {"loss": float(loss.detach()), **parts})
        return figures

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on held-out pictures, without denoising."""
        losses = []
        for lesson in self.held_out():
            output = self._detector.run(model, None, lesson)
            losses.append(float(self._detector.loss(output, lesson, self._detector.counts(model, lesson))[0]))
        return {"validation_loss": sum(losses) / len(losses)} if losses else {}
