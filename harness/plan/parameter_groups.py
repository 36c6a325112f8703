"""Which parameters decay, which have their own LR factor and which are frozen, as given by a configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ParameterGroups:
    """Patterns are shell patterns over parameter names, like "blocks.0.*"."""

    no_decay_on_norms_and_biases: bool = False  # true: weight decay on weight matrices only
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # pattern -> factor on the LR of those parameters
    frozen: Sequence[str] = ()  # patterns of parameters that do not train
