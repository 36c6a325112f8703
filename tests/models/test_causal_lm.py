"""The adapter to transformers: logits out, and typos found that the library would swallow."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import nn

from harness.models.causal_lm import CausalLM
from harness.plan.errors import UserError


class Config:
    """What transformers' configuration classes do: known values have defaults, unknown ones are kept silently."""

    attribute_map: ClassVar[dict[str, str]] = {"hidden_size": "n_embd"}  # names common to all -> the library's own
    model_type: str
    vocab_size: int
    hidden_size: int = 4096

    def __init__(self, **values) -> None:
        self.__dict__.update({"vocab_size": 32000, "max_position_embeddings": 2048, **values})

    def to_dict(self) -> dict:
        return self.__dict__


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.config = config

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(logits=self.head(self.embedding(input_ids)))


def from_config(config: Config) -> Model:
    if config.model_type == "vit":
        raise ValueError("Unrecognized configuration class for AutoModelForCausalLM.\nModel type should be one of ...")
    return Model(config)


@pytest.fixture
def stand_in(monkeypatch):
    """A module that answers as the parts of transformers do that the adapter uses."""
    module: Any = ModuleType("transformers")
    module.CONFIG_MAPPING = {"llama": Config, "vit": Config}
    module.AutoConfig = SimpleNamespace(for_model=lambda name, **values: Config(model_type=name, **values))
    module.AutoModelForCausalLM = SimpleNamespace(from_config=from_config)
    monkeypatch.setitem(sys.modules, "transformers", module)


@pytest.mark.usefixtures("stand_in")
def test_it_answers_with_logits_of_the_size_asked_for():
    model = CausalLM("llama", vocabulary=11, context=8, config={"hidden_size": 4})
    assert model(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, 8, 11)
    config = cast(Any, model.model).config
    assert (config.max_position_embeddings, config.hidden_size) == (8, 4)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "lama"}, "no model.architecture 'lama': did you mean 'llama'?"),
        ({"config": {"hiden_size": 4}}, "configuration of llama has no 'hiden_size': did you mean 'hidden_size'?"),
        ({"architecture": "vit"}, "has no causal language model for vit: Unrecognized configuration class"),
    ],
)
def test_names_transformers_does_not_know_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        CausalLM(**{"architecture": "llama", "vocabulary": 11, "context": 8, **arguments})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # what a missing package looks like to an import
    with pytest.raises(UserError, match=r"pip install transformers"):
        CausalLM("llama", vocabulary=11, context=8)


@pytest.mark.extras
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_real_library_builds_the_same_weights_from_the_same_seed(architecture):
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(CausalLM(architecture, vocabulary=11, context=8, config=config))
    tokens = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    logits = models[0](tokens)
    assert logits.shape == (2, 8, 11)
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))
    logits.sum().backward()
    assert all(p.grad is not None for p in models[0].parameters())
    with pytest.raises(UserError, match="did you mean 'hidden_size'"):
        CausalLM(architecture, vocabulary=11, context=8, config={"hiden_size": 16})
