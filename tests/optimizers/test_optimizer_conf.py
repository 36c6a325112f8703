"""Every file of conf/optimizer builds an optimizer that trains, without an LR of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from harness.models.mlp import MLP
from harness.optimizers.groups import parameter_groups
from harness.plan.instantiate import instantiate
from harness.plan.parameter_groups import ParameterGroups

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))


def composed(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        spec = OmegaConf.to_container(compose(overrides=[f"+optimizer={name}"]).optimizer, resolve=True)
    assert isinstance(spec, dict)
    return {str(key): value for key, value in spec.items()}


def model() -> nn.Module:
    torch.manual_seed(0)
    return MLP(features=4, widths=[8, 8], classes=3)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(16) % 3
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(inputs), targets).backward()
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_the_lr_is_the_trainers_and_weight_decay_is_stated(name):
    spec = composed(name)
    assert "lr" not in spec
    assert spec["weight_decay"] >= 0


@pytest.mark.parametrize("name", NAMES)
def test_every_group_follows_the_lr_set_on_it(name):
    net = model()
    groups = parameter_groups(net, weight_decay=0.01, options=ParameterGroups(lr_factors={"head.*": 0.5}))
    optimizer = instantiate(composed(name), groups, lr=0.01)
    assert len(optimizer.param_groups) >= 2
    start = [p.detach().clone() for p in net.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(net, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), start, strict=True))
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_factor"]
    step(net, optimizer)
    assert not any(torch.equal(p, q) for p, q in zip(net.parameters(), start, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint_without_pickle(name, tmp_path):
    nets = [model(), model()]
    optimizers = [instantiate(composed(name), parameter_groups(net, weight_decay=0.01), lr=0.01) for net in nets]
    step(nets[0], optimizers[0])
    torch.save({"model": nets[0].state_dict(), "optimizer": optimizers[0].state_dict()}, tmp_path / "1.pt")
    saved = torch.load(tmp_path / "1.pt", weights_only=True)
    nets[1].load_state_dict(saved["model"])
    optimizers[1].load_state_dict(saved["optimizer"])
    for net, optimizer in zip(nets, optimizers, strict=True):
        step(net, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_the_default_is_plain_momentum():
    assert composed("sgd") == {
        "_target_": "torch.optim.SGD",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "nesterov": False,
    }
