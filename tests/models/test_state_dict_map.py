import pytest
import torch
from torch import nn

from models import WeightsDoNotFit
from models.state_dict_map import fill
from models.tensor_sources import same, stacked, transposed

TABLE = {"weight": stacked("q", "k"), "bias": same("bias", "other.bias")}


def linear() -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(3, 4)


def stored() -> dict[str, torch.Tensor]:
    return {"q": torch.rand(2, 3), "k": torch.rand(2, 3), "bias": torch.rand(4)}


def test_model_on_the_meta_device_is_filled() -> None:
    model, tensors = linear(), stored()
    fill(model, tensors, TABLE)
    torch.testing.assert_close(model.weight.data, torch.cat([tensors["q"], tensors["k"]]))
    assert model.weight.requires_grad
    assert model.weight.is_contiguous()


def test_shared_tensor_is_found_under_any_of_its_names() -> None:
    tensors = stored()
    tensors["other.bias"] = tensors.pop("bias")
    model = linear()
    fill(model, tensors, TABLE)
    torch.testing.assert_close(model.bias.data, tensors["other.bias"])


def test_shared_tensor_stored_twice_with_other_values_is_refused() -> None:
    with pytest.raises(WeightsDoNotFit, match=r"bias.*other\.bias"):
        fill(linear(), stored() | {"other.bias": torch.zeros(4)}, TABLE)


def test_transposed_weights_are_turned() -> None:
    model, weight = linear(), torch.rand(3, 4)
    fill(model, {"w": weight, "b": torch.zeros(4)}, {"weight": transposed("w"), "bias": same("b")})
    torch.testing.assert_close(model.weight.data, weight.T)


def test_every_missing_and_left_over_key_is_named() -> None:
    tensors = stored() | {"extra": torch.zeros(1), "position_ids": torch.zeros(1)}
    del tensors["q"], tensors["bias"]
    with pytest.raises(WeightsDoNotFit) as caught:
        fill(linear(), tensors, TABLE, surplus=["position_ids"])
    assert caught.value.missing == ("q", "bias")
    assert caught.value.left_over == ("extra",)
    assert all(name in str(caught.value) for name in ("q", "bias", "extra"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("q", torch.zeros(3, 3)), ("q", torch.zeros(2, 2)), ("bias", torch.zeros(())), ("bias", torch.zeros(4).long())],
)
def test_wrong_shape_or_kind_is_refused(name: str, value: torch.Tensor) -> None:
    with pytest.raises(WeightsDoNotFit, match=name):
        fill(linear(), stored() | {name: value}, TABLE)


def test_model_is_untouched_when_weights_do_not_fit() -> None:
    model = nn.Linear(3, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsDoNotFit):
        fill(model, stored() | {"bias": torch.zeros(5)}, TABLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
