"""Causal language models of the transformers library, from scratch, as tokens -> logits (extra: harness[text])."""

import importlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from harness.plan.errors import UserError


class CausalLM(nn.Module):
    """Tokens int64 [n, t] with t <= context -> logits [n, t, vocabulary] for the token after each.

    `architecture` is a model type of transformers (llama, gpt2, qwen3, ...), `config` further values of its
    configuration class. Raises UserError where transformers is missing or does not know one of the names.
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
        # The library keeps an unknown keyword as an attribute nobody reads, so a typo would train another model.
        known = transformers.AutoConfig.for_model(architecture)
        names = [*known.to_dict(), *known.attribute_map]
        for key in values:
            if not hasattr(known, key):
                raise UserError(f"the configuration of {architecture} has no {key!r}{_did_you_mean(key, names)}")
        try:
            self.model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(architecture, **values)
            )
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"transformers makes no causal language model of {architecture}: {reason}") from error

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def _import_transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            "this model needs the package transformers, which is not installed: pip install 'harness[text]'"
        ) from error


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f": did you mean {near[0]}?" if near else ""
