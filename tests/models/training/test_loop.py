import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.training.loop import LoopConfig, StepContext, Trainer, moving_average, rate_at
from models.training.run_logger import CURVE


class Line:
    """A task with random batches: fit y = 2x."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.module = self.model
        self.generator = torch.Generator().manual_seed(1)
        self.broken = False

    def learn(self, step: StepContext) -> dict[str, float]:
        x = torch.rand(8, 1, generator=self.generator)
        loss = (self.model(x) - 2 * x).square().mean() * (torch.nan if self.broken else 1.0)
        step.backward(loss)
        return {"loss": float(loss.detach()), "number": step.number}

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"error": float((model(torch.ones(1, 1)) - 2).abs())}

    def finish(self, model: nn.Module) -> dict[str, float]:
        return {"finished": 1.0}

    def state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


CONFIG = LoopConfig(
    steps=20, learning_rate=1e-2, warmup_steps=5, log_every=5, validate_every=10, save_every=5, rates={"0.": 0.1}
)


def weights(trainer: Trainer) -> list[Tensor]:
    return [*trainer.task.model.state_dict().values(), *trainer.averaged.state_dict().values()]


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path):
    unbroken = Trainer(Line(), CONFIG, tmp_path / "a")
    unbroken.run()
    cut = Trainer(Line(), CONFIG, tmp_path / "b")
    for _ in range(7):
        cut._one_step()
    cut.save()
    resumed = Trainer(Line(), CONFIG, tmp_path / "b")
    assert resumed.resume()
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(weights(unbroken), weights(resumed), strict=True))


def test_a_fresh_folder_has_nothing_to_resume(tmp_path: Path):
    assert not Trainer(Line(), CONFIG, tmp_path).resume()


def test_the_curve_holds_losses_and_validation(tmp_path: Path):
    Trainer(Line(), CONFIG, tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
    assert [row["step"] for row in rows if "error" in row] == [10, 20]
    assert rows[-1]["finished"] == 1.0


def test_a_baseline_is_measured_once_before_the_first_step(tmp_path: Path):
    run = Trainer(Line(), CONFIG, tmp_path, baseline=True)
    untrained = run.validate()["error"]
    run.run()
    resumed = Trainer(Line(), replace(CONFIG, steps=30), tmp_path, baseline=True)
    assert resumed.resume()
    resumed.run()
    rows = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    assert [row["step"] for row in rows if "error" in row] == [0, 10, 20, 30]
    assert rows[0]["error"] == pytest.approx(untrained, abs=1e-6)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    task = Line()
    task.broken = True
    with pytest.raises(ValueError, match="nan at step 0"):
        Trainer(task, CONFIG, tmp_path).run()


def test_parameters_learn_at_the_rate_of_their_part_and_vectors_do_not_decay(tmp_path: Path):
    groups = Trainer(Line(), CONFIG, tmp_path).optimiser.param_groups
    rates = {round(group["initial_lr"], 6) for group in groups}
    assert rates == {1e-2, 1e-3}
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])


def test_the_rate_warms_up_and_falls_to_its_end():
    rates = [rate_at(step, CONFIG) for step in range(21)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1.0
    assert rates[20] == pytest.approx(CONFIG.final_rate)


def test_the_average_forgets_the_first_weights_soon():
    update = moving_average(0.999)
    kept, new = [torch.zeros(1), torch.tensor(0)], [torch.ones(1), torch.tensor(7)]
    for count in range(1, 60):
        update(kept, new, count)
    assert kept[0].item() > 0.99
    assert kept[1].item() == 7


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("accumulate", 0), ("save_every", -1), ("precision", "fp8"), ("final_rate", 2)]
)
def test_a_value_that_cannot_be_used_is_refused(name: str, value: object):
    with pytest.raises(ValueError, match=name):
        replace(CONFIG, **{name: value})


def test_gradients_that_overflow_at_every_scale_stop_the_run(tmp_path: Path):
    task = Line()
    task.broken = True
    with pytest.raises(ValueError, match="gradients overflow in float16 at every scale"):
        Trainer(task, replace(CONFIG, precision="fp16", steps=200), tmp_path).run()
