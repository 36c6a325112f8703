"""The residual networks are those of their paper: sizes, shortcuts, starting point."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models.resnet import CifarResNet, PaddedShortcut, ResidualBlock, ResNet18
from harness.plan.errors import UserError


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "published_millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_of_the_cifar_family_are_those_of_he_2015_table_6(depth, published_millions):
    with torch.device("meta"):
        count = parameters(CifarResNet(depth))
    digits = 1 if depth == 110 else 2
    assert round(count / 1e6, digits) == published_millions


@pytest.mark.parametrize("depth", [20, 56])
def test_a_cifar_resnet_has_as_many_weighted_layers_as_its_name_says(depth):
    with torch.device("meta"):
        model = CifarResNet(depth)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth
    n = (depth - 2) // 6
    convolutions = (
        3 * 16 * 9 + 2 * n * 16 * 16 * 9 + (16 + (2 * n - 1) * 32) * 32 * 9 + (32 + (2 * n - 1) * 64) * 64 * 9
    )
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert parameters(model) == convolutions + norms + 65 * 10


def test_resnet18_for_small_images_has_11_2_million_parameters():
    with torch.device("meta"):
        model = ResNet18()
    # torchvision's ResNet-18 (11,689,512) with a 3x3 stem for its 7x7 one and 10 classes for 1000.
    assert parameters(model) == 11_689_512 - 3 * 64 * (49 - 9) - 513 * 990


def test_images_shrink_to_a_quarter_in_the_cifar_family_and_an_eighth_in_resnet18():
    for model, shape in ((CifarResNet(8), (2, 64, 8, 8)), (ResNet18(), (2, 512, 4, 4))):
        assert model.blocks(model.stem(torch.zeros(2, 3, 32, 32))).shape == shape


def test_the_padded_shortcut_takes_every_second_pixel_and_adds_silent_channels():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    out = PaddedShortcut(2, 3, 2)(x)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 0].tolist() == [[0, 2], [8, 10]]
    assert out[0, 1].tolist() == [[16, 18], [24, 26]]
    assert not out[0, 2].any()


@pytest.mark.parametrize("architecture", [CifarResNet, ResNet18])
def test_with_zero_gamma_every_block_starts_as_its_shortcut_and_still_learns(architecture: type[nn.Module]):
    torch.manual_seed(0)
    model = architecture(zero_gamma=True)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def note(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((block, inputs[0], output))

    for block in blocks:
        block.register_forward_hook(note)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert len(seen) == len(blocks)
    for block, x, out in seen:
        torch.testing.assert_close(out, torch.relu(block.shortcut(x)))
        assert block.norm2.weight.grad is not None
        assert block.norm2.weight.grad.abs().sum() > 0


def test_a_depth_that_does_not_exist_names_its_neighbours():
    with pytest.raises(UserError, match=r"must be 6n \+ 2, not 18: the nearest valid values are 14 and 20"):
        CifarResNet(18)
    with pytest.raises(UserError, match="the nearest valid values are 8 and 14"):
        CifarResNet(2)
