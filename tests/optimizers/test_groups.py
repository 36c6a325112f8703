"""Every parameter is in one group, and each group says what is done to it."""

import pytest
import torch
from torch import nn

from harness.models.gpt import GPT
from harness.models.quadratic import Quadratic
from harness.optimizers.groups import parameter_groups
from harness.plan.errors import UserError
from harness.plan.parameter_groups import ParameterGroups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def groups_of(model, *, weight_decay, **options):
    return parameter_groups(model, weight_decay=weight_decay, options=ParameterGroups(**options))


def by_name(groups):
    return {name: (group, p) for group in groups for name, p in zip(group["param_names"], group["params"], strict=True)}


def test_every_parameter_is_in_exactly_one_group_under_its_own_name():
    model = Net()
    groups = groups_of(model, weight_decay=0.1, lr_factors={"head.*": 10.0, "stem.weight": 0.5})
    names = [name for group in groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    for name, (_, p) in by_name(groups).items():
        assert p is model.get_parameter(name)


@pytest.mark.parametrize("exempt", [False, True])
def test_norms_and_biases_decay_unless_told_otherwise(exempt):
    found = by_name(groups_of(Net(), weight_decay=0.1, no_decay_on_norms_and_biases=exempt))
    spared = {name for name, (group, _) in found.items() if group["weight_decay"] == 0}
    assert spared == ({"stem.bias", "norm.weight", "norm.bias", "body.bias", "head.bias"} if exempt else set())
    assert {group["weight_decay"] for group, _ in found.values()} == ({0.0, 0.1} if exempt else {0.1})


def test_norms_are_told_by_what_they_are_and_not_by_their_shape():
    quadratic = groups_of(Quadratic([1.0], coordinates=4), weight_decay=0.1, no_decay_on_norms_and_biases=True)
    assert [group["weight_decay"] for group in quadratic] == [0.1]  # a vector, and yet the weights themselves
    gpt = GPT(vocabulary=8, context=4, depth=1, width=4, heads=2)
    found = by_name(groups_of(gpt, weight_decay=0.1, no_decay_on_norms_and_biases=True))
    assert found["blocks.0.norm1.weight"][0]["weight_decay"] == 0
    assert found["position_embedding.weight"][0]["weight_decay"] == 0.1


def test_factors_reach_the_groups_of_the_parameters_they_name():
    found = by_name(groups_of(Net(), weight_decay=0.0, lr_factors={"head.*": 10, "stem.*": 0.5}))
    factors = {name: group["lr_factor"] for name, (group, _) in found.items()}
    assert factors["head.weight"] == factors["head.bias"] == 10.0
    assert factors["stem.weight"] == 0.5
    assert factors["body.weight"] == factors["norm.bias"] == 1.0


def test_frozen_parameters_ask_for_no_gradient_and_are_in_no_group():
    model = Net()
    found = by_name(groups_of(model, weight_decay=0.0, frozen=["stem.*", "norm.*"]))
    assert sorted(found) == ["body.bias", "body.weight", "head.bias", "head.weight"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "stem.weight",
        "stem.bias",
        "norm.weight",
        "norm.bias",
    ]


def test_asking_twice_gives_the_same_groups():
    model = Net()
    options = {"weight_decay": 0.1, "lr_factors": {"head.*": 2.0}, "frozen": ["stem.*"]}
    first, second = groups_of(model, **options), groups_of(model, **options)
    assert [g["param_names"] for g in first] == [g["param_names"] for g in second]
    assert all(
        p is q for g, h in zip(first, second, strict=True) for p, q in zip(g["params"], h["params"], strict=True)
    )


def test_tied_weights_are_trained_once():
    names = by_name(parameter_groups(GPT(8, 4, 1, 4, 2), weight_decay=0.1))
    assert "token_embedding.weight" in names
    assert "head.weight" not in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": ["stm.*"]}, r"frozen pattern 'stm.\*' matches no parameter of the model: the nearest is 'stem"),
        ({"lr_factors": {"heads.weight": 2.0}}, "lr_factors pattern 'heads.weight' .* the nearest is 'head.weight'"),
        (
            {"lr_factors": {"head.*": 2.0, "*.bias": 3.0}},
            r"'head.\*' \(2.0\) and '\*.bias' \(3.0\) both match 'head.bias'",
        ),
        ({"lr_factors": {"head.*": 0.0}}, r"lr_factors\['head.\*'\] must be a number > 0, not 0.0: use frozen"),
        ({"lr_factors": {"head.*": "fast"}}, "must be a number > 0, not 'fast'"),
        ({"frozen": ["*"]}, "every parameter is frozen"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, not -1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        groups_of(Net(), **{"weight_decay": 0.0, **options})
    assert "\n" not in str(error.value)


def test_an_optimizer_trains_each_group_at_its_own_rate():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(groups_of(model, weight_decay=0.0, lr_factors={"1.weight": 10.0}), lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_factor"]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = [(b - p.detach()).flatten()[0].item() for b, p in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([0.1, 1.0])
