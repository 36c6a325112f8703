"""Optimizer steps whose hyper-parameters are numbers on the device, so that one recorded graph makes every update.

torch's own steps take the LR, momentum and weight decay as arguments of their kernels, which a graph would repeat for
ever. The state has the names that the optimizers themselves use, so that a checkpoint is read with and without graphs.
"""

# Torch's own optimizers use the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.optimizers.lamb import LAMB
from harness.optimizers.step_formulas import ADAM, STEPS, Group, Step, Tensors, nadam_momentum
from harness.plan.errors import UserError

REFUSED = ("maximize", "dampening", "differentiable", "capturable", "fused")  # options without a step here
COUNTED = ("step", "mu_product")  # state that is a number of the host


class DeviceNumbers:
    """Scalars on the device that are written without a copy from the host: they are arguments of a kernel."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.tensors = [torch.zeros((), dtype=dtype, device=device) for _ in range(count)]
        self._written = [0.0] * count

    def write(self, values: list[float]) -> None:
        """Set all of them; nothing is launched where none has changed."""
        if values != self._written:
            torch._foreach_zero_(self.tensors)
            torch._foreach_add_(self.tensors, values)
            self._written = values


class DeviceStep:
    """Makes the steps of `optimizer` in its place: `set` on the host before each, then `step`, which a graph may hold.

    `moves_momentum`: whether a schedule changes the momentum. Raises UserError for an optimizer or an option without
    an implementation here.
    """

    def __init__(self, optimizer: Optimizer, moves_momentum: bool, dtype: torch.dtype, device: torch.device) -> None:
        if type(optimizer) not in STEPS:
            names = ", ".join(sorted(kind.__name__ for kind in STEPS))
            raise UserError(f"cluster.cuda_graph=true: choose one of {names}, not {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.count = 0  # updates made
        self._steps: list[Step] = []
        self._options: list[dict[str, bool]] = []  # what of a group decides which operations its step consists of
        for group in optimizer.param_groups:
            if given := next((option for option in REFUSED if group.get(option)), None):
                raise UserError(f"cluster.cuda_graph=true does not work with optimizer.{given}={group[given]}")
            has_momentum = "momentum" in group and (moves_momentum or bool(group["momentum"]))
            self._options.append({"has_momentum": has_momentum, "decays": bool(group["weight_decay"])})
            self._steps.append(ADAM if group.get("hidden") is False else STEPS[type(optimizer)])
        self._mu_products = [torch.ones(()) for _ in self._steps]  # float32, as torch keeps them
        names = [[*step.numbers(group, 1, 0.5)] for step, group in self._groups()]
        self._numbers = DeviceNumbers(sum(map(len, names)), dtype, device)
        tensors = iter(self._numbers.tensors)
        self._at = [{name: next(tensors) for name in of_group} for of_group in names]

    def _groups(self) -> Iterator[tuple[Step, dict[str, Any]]]:
        for step, group, options in zip(self._steps, self.optimizer.param_groups, self._options, strict=True):
            yield step, {**group, **options}

    def set(self) -> None:
        """Begin an update with the hyper-parameters that are now in the groups."""
        self.count += 1
        values: list[float] = []
        for (step, group), product in zip(self._groups(), self._mu_products, strict=True):
            if "mu_product" in step.state(group):
                product *= nadam_momentum(group, self.count)
                values += step.numbers(group, self.count, product.item()).values()
            else:
                values += step.numbers(group, self.count, 0.0).values()
        self._numbers.write(values)

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient, with the numbers last set."""
        for (step, group), at in zip(self._groups(), self._at, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if any(p.grad.is_sparse for p in params):
                raise UserError("cluster.cuda_graph=true does not work with sparse gradients: use sparse=False")
            own = {name: _real(self._own(p, name) for p in params) for name in _tensors(step, group)}
            step.apply(group, at, _real(params), _real(p.grad for p in params), own)

    def prepare(self, trained: Collection[Tensor]) -> None:
        """Create the state of these parameters where it is missing: recording a graph fills no memory."""
        trained = set(trained)
        for step, group in self._groups():
            for p in group["params"]:
                for name in _tensors(step, group) if p in trained else ():
                    self._own(p, name)

    def _own(self, p: Tensor, name: str) -> Tensor:
        state = self.optimizer.state[p]
        if state.get(name) is None:
            state[name] = torch.zeros_like(p)
        return state[name]

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer itself would give."""
        is_int = isinstance(self.optimizer, LAMB)
        for (step, group), product in zip(self._groups(), self._mu_products, strict=True):
            for p in group["params"]:
                if p in self.optimizer.state:  # tensors of its own for each, because torch counts in place
                    numbers = {"step": torch.tensor(float(self.count)), "mu_product": product.clone()}
                    numbers |= {"step": self.count} if is_int else {}
                    kept = {name: numbers[name] for name in COUNTED if name in step.state(group)}
                    self.optimizer.state[p].update(kept)
        return self.optimizer.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what the optimizer saved, in the tensors that graphs already refer to."""
        held = {p: dict(values) for p, values in self.optimizer.state.items()}
        self.optimizer.load_state_dict(dict(state))
        self.count = 0
        for group, product in zip(self.optimizer.param_groups, self._mu_products, strict=True):
            product.fill_(1.0)
            for p in group["params"]:
                loaded = self.optimizer.state.get(p, {})
                self.count = max(self.count, int(loaded.get("step", 0)))
                if "mu_product" in loaded:
                    product.copy_(loaded["mu_product"])
                for name, mine in held.get(p, {}).items():
                    if isinstance(mine, Tensor) and name not in COUNTED:
                        new = loaded.get(name)
                        self.optimizer.state[p][name] = mine.zero_() if new is None else mine.copy_(new)


def _tensors(step: Step, group: Group) -> list[str]:
    return [name for name in step.state(group) if name not in COUNTED]


def _real(tensors: Any) -> Tensors:
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
