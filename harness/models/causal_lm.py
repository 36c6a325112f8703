"""Untrained causal language models of the transformers library (an optional package), as tokens -> logits."""

import importlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from harness.plan.errors import UserError


class CausalLM(nn.Module):
    """Tokens int64 [n, t] with t <= context -> logits [n, t, vocabulary] for the token after each.

    `architecture` is a model type of transformers (llama, gpt2, qwen3, ...), `config` further values of its
    configuration class. Raises UserError if transformers is not installed or does not know one of the names.
    """

    def __init__(
        self, architecture: str, vocabulary: int, context: int, config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        transformers = _import_transformers()
        if architecture not in transformers.CONFIG_MAPPING:
            raise UserError(
                f"transformers has no model.architecture {architecture!r}"
                f"{_did_you_mean(architecture, transformers.CONFIG_MAPPING.keys())}"
            )
        values = {**(config or {}), "vocab_size": vocabulary, "max_position_embeddings": context}
        # The library stores an unknown keyword as an unused attribute, so a typo would silently train another model.
        default = transformers.AutoConfig.for_model(architecture)
        names = [*default.to_dict(), *default.attribute_map]
        for key in values:
            if not hasattr(default, key):
                raise UserError(f"the configuration of {architecture} has no {key!r}{_did_you_mean(key, names)}")
        try:
            self.model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(architecture, **values)
            )
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"transformers has no causal language model for {architecture}: {reason}") from error

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def _import_transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            "this model needs the package transformers, which is not installed: pip install transformers"
        ) from error


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), 1)
    return f": did you mean {near[0]!r}?" if near else ""
