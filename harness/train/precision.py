"""The arithmetic of a trial: dtype of the weights, autocast, loss scaling, TF32."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Weights, optimizer state, statistics and data; bf16 and fp16 compute in half precision from float32 weights.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
    "bf16": torch.float32,
    "fp16": torch.float32,
}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What one of harness.plan.trial.PRECISIONS means on a device, which it sets up for this process."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.dtype = DTYPES[name]
        if device.type == "cuda":
            # Said both ways: torch leaves TF32 on for convolutions, so that plain float32 would not be float32.
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            torch.backends.cudnn.allow_tf32 = name == "tf32"

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the forward pass; the backward pass follows it by itself."""
        half = HALF.get(self.name)
        return nullcontext() if half is None else torch.autocast(self.device.type, half)

    def forward(self, model: Callable[..., Any], inputs: Tensor) -> Tensor:
        """The model's output, in the dtype of the weights: losses and their sums are never taken in half precision."""
        with self.autocast():
            outputs = model(inputs)
        outputs = getattr(outputs, "logits", outputs)  # the models of transformers answer with more than logits
        return outputs.to(self.dtype) if outputs.is_floating_point() else outputs

    def new_scaler(self) -> "LossScaler | None":
        return LossScaler(self.device) if self.name == "fp16" else None


class LossScaler:
    """torch's GradScaler, told apart what it skips: an update whose gradients overflowed is not made (P11).

    Whether one was made must be known before the next LR is, so fp16 waits for the device at every update; bf16 has
    neither the overflow nor the wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type)  # pyright: ignore[reportPrivateImportUsage]

    def scale(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss)  # pyright: ignore[reportReturnType]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the gradients into those of the unscaled loss."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Make the update unless a gradient is not finite; returns whether it was made."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before  # it only shrinks after an overflow

    def state(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
