"""The ratio of norms that LARS and LAMB share, at its edges."""

import torch

from harness.optimizers.layerwise import adapts, norms, trust_ratios


def test_norms_are_euclidean_over_all_axes():
    tensors = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([-2.0])]
    assert norms(tensors).tolist() == [5.0, 2.0]


def test_a_layer_at_zero_or_without_an_update_has_ratio_one():
    ratios = trust_ratios(torch.tensor([6.0, 0.0, 6.0, 0.0]), torch.tensor([2.0, 2.0, 0.0, 0.0]))
    assert [ratio.item() for ratio in ratios] == [3.0, 1.0, 1.0, 1.0]


def test_norms_and_biases_adapt_only_when_asked_for():
    assert adapts({"norms_and_biases": False, "adapt_norms_and_biases": False})
    assert not adapts({"norms_and_biases": True, "adapt_norms_and_biases": False})
    assert adapts({"norms_and_biases": True, "adapt_norms_and_biases": True})
