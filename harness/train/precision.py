"""The precision of a trial: dtype of the weights, autocast, loss scaling, TF32."""

import copy
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness.plan.execution import Speed

# Dtype of weights, optimizer state, statistics and data; bf16 and fp16 compute in half precision from float32 weights.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
    "bf16": torch.float32,
    "fp16": torch.float32,
}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """One of harness.plan.trial.PRECISIONS on a device; also sets torch's TF32 switches for this process."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.dtype = DTYPES[name]
        if device.type == "cuda":
            # Set in either case: torch has TF32 on for convolutions by default, so float32 would not be float32.
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            torch.backends.cudnn.allow_tf32 = name == "tf32"

    def place(self, model: nn.Module, device: torch.device | None = None) -> nn.Module:
        """The model on `device` (None: the trial's), its floating tensors in the trial's dtype and complex ones in the
        complex dtype of the same precision; `Module.to` alone would drop imaginary parts, such as those of rotary
        embeddings."""

        where = device or self.device

        def placed(value: Tensor) -> Tensor:
            real = self.dtype if value.is_floating_point() else value.dtype
            device = value.device if value.is_meta else where  # values come later, see meta_build
            return value.to(device, self.dtype.to_complex() if value.is_complex() else real)

        is_special = any(value.is_complex() or value.is_meta for value in (*model.parameters(), *model.buffers()))
        return model._apply(placed) if is_special else model.to(where, self.dtype)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context for the forward pass; the backward pass uses the same precision on its own."""
        half = HALF.get(self.name)
        return nullcontext() if half is None else torch.autocast(self.device.type, half)

    @property
    def compute(self) -> torch.dtype:
        """The dtype of matrix products."""
        return HALF.get(self.name, self.dtype)

    def raised(self, outputs: Any) -> Any:
        """Outputs in the dtype of the weights: losses and their sums are never taken in half precision."""
        if isinstance(outputs, Tensor):
            return outputs.to(self.dtype) if outputs.is_floating_point() else outputs
        if self.name not in HALF:
            return outputs
        if isinstance(outputs, MutableMapping):  # of its own type, which may have attributes too
            raised = copy.copy(outputs)
            for name, value in outputs.items():
                raised[name] = self.raised(value)
            return raised
        return tuple(map(self.raised, outputs)) if isinstance(outputs, tuple | list) else outputs

    def new_scaler(self) -> "LossScaler | None":
        return LossScaler(self.device) if self.name == "fp16" else None


def choose_kernels(speed: Speed, device: torch.device) -> None:
    """Set how cuDNN chooses its kernels in this process; set in either case, as the last trial may have had the other.

    With `cudnn_benchmark` by speed, so that two runs of one seed may use kernels that round differently.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = speed.cudnn_benchmark


class LossScaler:
    """torch's GradScaler, which also reports when it skips an update because gradients overflowed (P11).

    The next LR depends on whether the update was made, so fp16 waits for the device at every update; bf16 has neither
    the overflow nor the wait.
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
