"""Mixed precision: weights and losses in float32, the computation between them in a lower precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_OVERFLOWS = 50  # steps in a row whose gradients may overflow, however small the scale has become


class Precision:
    """Automatic mixed precision by name; "fp16" scales the loss, so that small gradients do not vanish."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype, self._device = PRECISIONS[name], device.type
        self.scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")
        self.overflows = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Run the operations that allow it in the lower precision."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device, self._dtype)

    def step(self, optimiser: torch.optim.Optimizer) -> bool:
        """Step the optimiser; returns False if the gradients had overflowed and nothing was changed."""
        before = self.scaler.get_scale()
        self.scaler.step(optimiser)
        self.scaler.update()
        stepped = not self.scaler.is_enabled() or self.scaler.get_scale() >= before
        self.overflows = 0 if stepped else self.overflows + 1
        if self.overflows > MAX_OVERFLOWS:
            raise ValueError(f"gradients overflow in float16 at every scale down to {before:g}: train in bf16 or fp32")
        return stepped

    def state(self) -> dict[str, Any]:
        """The state of the loss scale."""
        return self.scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the loss scale."""
        if self.scaler.is_enabled() and state:
            self.scaler.load_state_dict(state)
