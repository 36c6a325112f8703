"""The noisy quadratic: loss_i(theta) = sum_d h_d theta_d^2 / 2 + noise_i . theta (Zhang et al. 2019, 1907.04164)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.plan.errors import UserError


class Quadratic(nn.Module):
    """One parameter vector; input noise [n, d], output the loss of each example [n].

    `eigenvalues` is the Hessian's spectrum, each repeated over `coordinates` dimensions so that the loss self-averages
    over them; every coordinate starts at `start`. The gradient of example i is h * theta + noise_i.
    """

    hessian: Tensor

    def __init__(self, eigenvalues: Sequence[float], coordinates: int = 256, start: float = 1.0) -> None:
        super().__init__()
        if not eigenvalues or not all(math.isfinite(h) and h > 0 for h in eigenvalues) or coordinates < 1:
            raise UserError(
                "model.eigenvalues must be one or more numbers > 0 and model.coordinates >= 1, not "
                f"{list(eigenvalues)} and {coordinates}"
            )
        hessian = torch.tensor(list(eigenvalues), dtype=torch.float64).repeat_interleave(coordinates)
        self.register_buffer("hessian", hessian)
        self.theta = nn.Parameter(torch.full_like(hessian, float(start)))

    def forward(self, noise: Tensor) -> Tensor:
        if noise.shape[-1] != len(self.theta):
            raise UserError(
                f"the dataset's noise has {noise.shape[-1]} coordinates and the quadratic {len(self.theta)}: "
                "give dataset.variances and model.eigenvalues the same number of values"
            )
        return 0.5 * (self.hessian * self.theta.square()).sum() + noise @ self.theta
