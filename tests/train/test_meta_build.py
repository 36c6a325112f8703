"""A model built on meta has the bits of one built on the CPU, on one rank and split over two."""

import pytest
import torch
from processes import on_ranks
from torch import Tensor, nn

from harness.models.gpt import GPT
from harness.train.meta_build import MetaBuildError, MetaModel
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))


class Varied(nn.Module):
    """Layers and initialisers of many kinds; two tensors are large enough to be kept as rows and used again."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.other = nn.Embedding(513, 512), nn.Linear(512, 513)
        self.attention, self.recurrent, self.norm = nn.MultiheadAttention(8, 2), nn.LSTM(4, 6), nn.BatchNorm1d(4)
        self.spread = nn.Parameter(torch.linspace(0, 1, 12).view(3, 4).t())
        self.rates = [rate.item() for rate in torch.linspace(0, 0.3, 4)]
        self.register_buffer("frequencies", 10000 ** -(torch.arange(0, 8, 2).float() / 8))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.orthogonal_(self.attention.out_proj.weight)
        nn.init.trunc_normal_(self.other.weight, std=0.02)
        with torch.no_grad():
            self.large.weight.mul_(3.0)
            self.other.weight[:7] += self.large.weight[-7:]
            self.other.bias.data[1:3] = self.rates[2]


class Plain(nn.Module):
    def __init__(self, values: Tensor, *kept: Tensor) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(values), kept


def built(world: World) -> list[Tensor]:
    """Parameters and buffers of a Varied that was built on meta, and the next random number."""
    torch.manual_seed(5)
    made = MetaModel(Varied, world)
    after = torch.rand(1)
    assert all(p.is_meta for p in made.model.parameters())
    for part in (made.model.get_submodule("large"), made.model):
        made.fill(part)
    assert not any(p.is_meta for p in vars(made.model.get_submodule("recurrent"))["_flat_weights"])
    return [*(value.detach() for value in made.model.state_dict().values()), after]


def expected() -> list[Tensor]:
    torch.manual_seed(5)
    return [*(value.detach() for value in Varied().state_dict().values()), torch.rand(1)]


def same_bits(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_values_are_those_of_the_cpu_to_the_bit():
    assert same_bits(built(ALONE), expected())
    torch.manual_seed(5)
    made = MetaModel(lambda: GPT(50, 16, 2, 16, 2), ALONE)
    made.fill(made.model)
    torch.manual_seed(5)
    whole = GPT(50, 16, 2, 16, 2).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in made.model.state_dict().items())
    assert made.model.get_parameter("head.weight") is made.model.get_parameter("token_embedding.weight")


@pytest.mark.long
def test_values_are_the_same_where_ranks_keep_rows():
    for values in on_ranks(2, built):
        assert same_bits(values, expected())


@pytest.mark.parametrize(
    "construct",
    [lambda: Plain(torch.tensor([1.0])), lambda: Plain(torch.empty(3)), lambda: Plain(torch.ones(3), torch.ones(3))],
)
def test_a_constructor_whose_values_cannot_be_followed_is_left_to_the_cpu(construct):
    MetaModel(lambda: Plain(torch.ones(3)), ALONE)
    with pytest.raises(MetaBuildError):
        MetaModel(construct, ALONE)
