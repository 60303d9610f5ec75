import pytest
import torch
from torch import nn

from models.training.mixed_precision import MAX_OVERFLOWS, Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_matrix_products_run_in_the_precision_of_the_run(name: str, dtype: torch.dtype):
    with Precision(name, CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def overflowing() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.ones(1))
    return parameter, torch.optim.SGD([parameter], lr=1.0)


def test_a_step_whose_gradients_overflow_changes_nothing_but_the_scale():
    parameter, optimiser = overflowing()
    precision = Precision("fp16", CPU)
    precision.scaler.scale(parameter.sum() * torch.inf).backward()
    before = precision.scaler.get_scale()
    assert not precision.step(optimiser)
    assert parameter.item() == 1.0
    assert precision.scaler.get_scale() < before
    resumed = Precision("fp16", CPU)
    resumed.restore(precision.state())
    assert resumed.scaler.get_scale() == precision.scaler.get_scale()


def test_too_many_overflows_in_a_row_stop_the_run():
    parameter, optimiser = overflowing()
    precision = Precision("fp16", CPU)
    precision.overflows = MAX_OVERFLOWS
    precision.scaler.scale(parameter.sum() * torch.inf).backward()
    with pytest.raises(ValueError, match="gradients overflow in float16 at every scale"):
        precision.step(optimiser)


def test_full_precision_always_steps():
    parameter, optimiser = overflowing()
    precision = Precision("fp32", CPU)
    parameter.sum().backward()
    assert precision.step(optimiser)
    assert parameter.item() == 0.0
    precision.restore({})
