"""Stand-ins for torchvision and timm where they are not installed: models of their shapes, called as they are called.

Each default has the published number of parameters (a test counts them), so that what is trained here is what the
libraries would build, at widths and depths that their own arguments make small.
"""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """He et al. 2015, with the stride in the 3x3 convolution (v1.5), in torchvision's names."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, base_width: int) -> None:
        super().__init__()
        width, outplanes = int(planes * base_width / 64), planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outplanes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            shortcut = nn.Conv2d(inplanes, outplanes, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outplanes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, layers: tuple[int, ...], num_classes: int, base_width: int, zero_init_last: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inplanes, stages = 64, []
        for number, blocks in enumerate(layers):
            planes = 64 << number
            stage = []
            for block in range(blocks):
                stage.append(Bottleneck(inplanes, planes, 2 if number and not block else 1, base_width))
                inplanes = planes * Bottleneck.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inplanes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Bottleneck) and zero_init_last:
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2020 with a class token, in timm's names."""

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        assert drop_path_rate == 0.0
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (img_size // patch_size) ** 2 + 1, embed_dim) * 0.02)
        block = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(embed_dim, num_heads, 4 * embed_dim, **block) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


RESNET50 = (3, 4, 6, 3)


def torchvision_resnet50(*, weights: Any = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """As torchvision.models.resnet50: a function with `weights` and everything else as keywords."""
    assert weights is None

    def resnet(num_classes: int = 1000, zero_init_residual: bool = False, width_per_group: int = 64) -> ResNet:
        return ResNet(RESNET50, num_classes, width_per_group, zero_init_residual)

    return resnet(**kwargs)


def timm_resnet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """As timm.models.resnet.resnet50."""
    assert not pretrained

    def resnet(num_classes: int = 1000, base_width: int = 64, zero_init_last: bool = True) -> ResNet:
        return ResNet(RESNET50, num_classes, base_width, zero_init_last)

    return resnet(**kwargs)


def timm_vit_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """As timm.models.vision_transformer.vit_small_patch16_224."""
    assert not pretrained
    return VisionTransformer(**kwargs)


LIBRARIES: dict[str, dict[str, Any]] = {
    "torchvision": {},
    "torchvision.models": {"resnet50": torchvision_resnet50},
    "timm": {},
    "timm.models": {},
    "timm.models.resnet": {"resnet50": timm_resnet50},
    "timm.models.vision_transformer": {"vit_small_patch16_224": timm_vit_small},
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins be imported by the libraries' names."""
    for name, contents in LIBRARIES.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
