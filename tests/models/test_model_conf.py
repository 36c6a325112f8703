"""Every model file of conf/model builds what it promises, and every model behaves as the trainer expects."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.plan.settings import BatchNorm
from harness.train.batch_norm import batch_norms, convert_batch_norm

CONF = Path(__file__).parents[2] / "conf"
IMAGES = {"shape": (4, 3, 32, 32), "outputs": (4, 10)}
# name -> shape of a batch, of its outputs, arguments that make it small, millions of parameters as in conf
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"shape": (4, 1, 8, 8), "outputs": (4, 10), "millions": 0.03},
    "resnet20": {**IMAGES, "millions": 0.27},
    "resnet32": {**IMAGES, "millions": 0.46, "small": {"depth": 8}},
    "resnet44": {**IMAGES, "millions": 0.66, "small": {"depth": 8}},
    "resnet56": {**IMAGES, "millions": 0.85, "small": {"depth": 8}},
    "resnet110": {**IMAGES, "millions": 1.73, "small": {"depth": 8}},
    "resnet18": {**IMAGES, "millions": 11.17},
    "wrn16_4": {**IMAGES, "millions": 2.75, "small": {"widening": 1}},
    "wrn28_10": {**IMAGES, "millions": 36.48, "small": {"depth": 10, "widening": 1}},
    "resnet50": {
        "shape": (4, 3, 32, 32),
        "outputs": (4, 1000),
        "millions": 25.56,
        "small": {"blocks": [1, 1, 1, 1], "width": 8, "zero_gamma": False},
    },
    "plain_vit_s16": {
        "shape": (4, 3, 32, 32),
        "outputs": (4, 1000),
        "millions": 21.97,
        "small": {"size": 32, "width": 16, "depth": 2, "heads": 2},
    },
    "gpt": {"shape": (4, 128), "outputs": (4, 128, 256), "millions": 0.12},
    "gpt2_small": {"shape": (4, 64), "outputs": (4, 64, 50257), "millions": 124.44, "small": {"depth": 1, "width": 12}},
}
TIMM = {
    "resnet50_imagenet": 25_557_032,
    "vit_s16": 22_050_664,
}  # timm's own published counts; see tests/train/test_library_models.py


def composed(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        spec = OmegaConf.to_container(compose(overrides=[f"+model={name}"]).model, resolve=True)
    assert isinstance(spec, dict)
    return {str(key): value for key, value in spec.items()}


def built(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return instantiate({**composed(name), **MODELS[name].get("small", {}), **options}).to(dtype)


def batch(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = MODELS[name]["shape"]
    if len(shape) == 2:
        return torch.randint(256, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
def test_the_size_is_as_the_file_says(name):
    with torch.device("meta"):
        model = instantiate(composed(name))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == MODELS[name]["millions"]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient_in_float64(name):
    model = built(name, torch.float64)
    outputs = model(batch(name, torch.float64))
    assert outputs.shape == MODELS[name]["outputs"]
    assert outputs.dtype == torch.float64
    outputs.square().mean().backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    first, second = built(name), built(name)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    other = instantiate({**composed(name), **MODELS[name].get("small", {})})
    assert not all(torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("resnet", "wrn"))])
def test_every_batch_norm_takes_the_workloads_span(name):
    model = built(name, torch.float64)
    count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    plan = BatchNorm(span="ghost", span_examples=4, statistics_examples=4)
    expected = model(batch(name, torch.float64))
    model = convert_batch_norm(model, plan).double()
    assert len(batch_norms(model)) == count > 0
    torch.testing.assert_close(model(batch(name, torch.float64)), expected)  # one group: batch norm over the batch


@pytest.mark.parametrize("init", ["he", "xavier"])
@pytest.mark.parametrize("name", ["mlp", "resnet20", "resnet18", "wrn16_4"])
def test_the_initialisation_is_a_setting(name, init):
    assert torch.isfinite(built(name, init=init)(batch(name))).all()
    with pytest.raises(UserError, match=r"unknown model.init 'none'"):
        built(name, init="none")


@pytest.mark.extras
@pytest.mark.parametrize("name", TIMM)
def test_the_real_timm_builds_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = instantiate(composed(name))
    assert sum(p.numel() for p in model.parameters()) == TIMM[name]


@pytest.mark.extras
def test_the_real_transformers_builds_the_small_language_model():
    model = instantiate(composed("causal_lm"))
    assert model(torch.zeros(2, 64, dtype=torch.int64)).shape == (2, 64, 256)
