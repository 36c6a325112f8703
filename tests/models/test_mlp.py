"""The fully connected network has the layers it is asked for."""

import torch
from torch import nn

from harness.models.mlp import MLP


def test_hidden_layers_have_the_widths_asked_for():
    model = MLP(features=64, widths=[128, 32], classes=10)
    shapes = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(64, 128), (128, 32), (32, 10)]
    assert sum(p.numel() for p in model.parameters()) == 65 * 128 + 129 * 32 + 33 * 10


def test_without_hidden_layers_it_is_a_linear_map():
    model = MLP(features=6, widths=[], classes=3).double()
    a, b = torch.randn(2, 4, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(a + b), model(a) + model(b))


def test_dropout_acts_in_training_only():
    model = MLP(features=64, widths=[128], classes=10, dropout=0.5)
    inputs = torch.ones(2, 64)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))
