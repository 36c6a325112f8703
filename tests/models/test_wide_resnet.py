"""Wide residual networks have the sizes of their paper."""

import pytest
import torch
from torch import nn

from harness.models.wide_resnet import PreActivationBlock, WideResNet
from harness.plan.errors import UserError


@pytest.mark.parametrize(
    ("depth", "widening", "published_millions"), [(16, 4, 2.7), (28, 10, 36.5), (40, 4, 8.9), (16, 8, 11.0)]
)
def test_parameters_are_those_published(depth, widening, published_millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in WideResNet(depth, widening).parameters())
    assert round(count / 1e6, 1) == published_millions


def test_a_block_of_one_shape_adds_to_an_untouched_input():
    block = PreActivationBlock(4, 4, 1, 0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x.clone()), x)


def test_dropout_acts_in_training_only():
    model = WideResNet(10, 1, dropout=0.5)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eval()
    images = torch.ones(2, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_sizes_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match=r"must be 6n \+ 4, not 20: the nearest valid values are 16 and 22"):
        WideResNet(20, 4)
    with pytest.raises(UserError, match=r"model.widening must be >= 1, not 0"):
        WideResNet(16, 0)
