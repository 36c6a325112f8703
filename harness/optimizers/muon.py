"""Muon for the hidden matrices and AdamW for everything else, as one optimizer; both are torch's."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from harness.optimizers.groups import matching
from harness.plan.errors import UserError

# First and last matrices of a model, which Muon's author leaves to AdamW (K. Jordan,
# kellerjordan.github.io/posts/muon): embeddings and output heads of harness/models, timm and transformers.
BORDER = ("*embed*", "*wte*", "*wpe*", "*head*", "*classifier*", "fc.*")


class Muon(Optimizer):
    """Orthogonalised momentum (torch.optim.Muon) on every matrix that no `adamw_names` pattern matches, AdamW on the
    rest: first and last matrices, vectors, and convolution filters, which torch's Muon does not support.

    Both read the LR and weight decay of their group, so a schedule or an LR rule acts the same on both. With
    `adjust_lr_fn="match_rms_adamw"` (1 update = 0.2 RMS, Moonlight 2025, 2502.16982) one LR suits both; `original` is
    Jordan's. Parameters must carry names: groups of `parameter_groups`, or `model.named_parameters()`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        adamw_names: Sequence[str] | None = None,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"Muon needs torch 2.9 or newer, not {torch.__version__}: use optimizer=adamw")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        if any("param_names" not in group for group in self.param_groups):
            raise UserError("Muon selects matrices by name: pass parameter_groups(model) or model.named_parameters()")
        border = self._border(adamw_names)
        split = [part for group in self.param_groups for part in _split(group, border)]
        if not any(part["hidden"] for part in split):
            raise UserError("this model has no hidden matrix for Muon to train: use optimizer=adamw")
        for part in split:
            if part["hidden"]:
                part.update(momentum=momentum, adjust_lr_fn=adjust_lr_fn)
            else:
                part.update(betas=tuple(betas), eps=eps)
        self.param_groups = split
        self._link()

    def _border(self, adamw_names: Sequence[str] | None) -> set[str]:
        names = [name for group in self.param_groups for name in group["param_names"]]
        if adamw_names is not None:
            return set(matching(adamw_names, names, "adamw_names"))
        return {name for name in names if any(fnmatchcase(name, pattern) for pattern in BORDER)}

    def _link(self) -> None:
        """Give each part its groups and the shared state: the same objects, so that an LR set here applies there."""
        hidden = [group for group in self.param_groups if group["hidden"]]
        rest = [group for group in self.param_groups if not group["hidden"]]
        self._parts: list[Optimizer] = [torch.optim.Muon(hidden), *([AdamW(rest)] if rest else [])]
        for part, groups in zip(self._parts, (hidden, rest), strict=False):
            part.param_groups, part.state = groups, self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # loading a checkpoint or copying replaces the groups and the state
        self._link()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def _split(group: dict[str, Any], border: set[str]) -> list[dict[str, Any]]:
    """The group's hidden matrices and the rest of it as two groups (or one), marked `hidden`."""
    parts = []
    for hidden in (True, False):
        named = [
            (name, p)
            for name, p in zip(group["param_names"], group["params"], strict=True)
            if (p.ndim == 2 and name not in border) is hidden
        ]
        if named:
            names, params = (list(column) for column in zip(*named, strict=True))
            parts.append({**group, "params": params, "param_names": names, "hidden": hidden})
    return parts
