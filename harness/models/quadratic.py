"""The noisy quadratic: loss_i(theta) = sum_d h_d theta_d^2 / 2 + noise_i . theta (Zhang et al. 2019, 1907.04164)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """One parameter vector; input noise [n, d], output the loss of each example [n].

    `eigenvalues` is the Hessian's spectrum, each carried by `coordinates` dimensions so that the loss self-averages
    over them; every coordinate starts at `start`. The gradient of example i is h * theta + noise_i.
    """

    hessian: Tensor

    def __init__(self, eigenvalues: Sequence[float], coordinates: int = 256, start: float = 1.0) -> None:
        super().__init__()
        self.register_buffer(
            "hessian", torch.tensor(list(eigenvalues), dtype=torch.float64).repeat_interleave(coordinates)
        )
        self.theta = nn.Parameter(torch.full((len(eigenvalues) * coordinates,), float(start)))

    def forward(self, noise: Tensor) -> Tensor:
        curvature = 0.5 * (self.hessian.to(self.theta.dtype) * self.theta.square()).sum()
        return curvature + noise @ self.theta
