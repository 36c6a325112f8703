"""Muon and AdamW behind one door: who trains what, and that both follow the same LR."""

import copy
import io

import pytest
import torch
from torch import nn

from harness.models.gpt import GPT
from harness.models.resnet import CifarResNet
from harness.optimizers.groups import parameter_groups
from harness.optimizers.muon import Muon
from harness.plan.errors import UserError
from harness.plan.parameter_groups import ParameterGroups

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")


def small_gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(vocabulary=16, context=8, depth=2, width=8, heads=2, tie_weights=False)


def backward(model: nn.Module, seed: int) -> None:
    tokens = torch.randint(16, (4, 8), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()


def test_muon_trains_the_hidden_matrices_and_adamw_the_rest():
    muon = Muon(parameter_groups(small_gpt(), weight_decay=0.1), lr=0.01)
    hidden = {name for group in muon.param_groups if group["hidden"] for name in group["param_names"]}
    assert hidden == {
        f"blocks.{block}.{layer}.weight"
        for block in range(2)
        for layer in ("attention.query_key_value", "attention.out", "expand", "contract")
    }


def test_updates_are_those_of_torchs_muon_and_adamw_run_side_by_side():
    ours, theirs = small_gpt(), small_gpt()
    muon = Muon(ours.named_parameters(), lr=0.01, weight_decay=0.1, eps=1e-8)
    hidden = {name for group in muon.param_groups if group["hidden"] for name in group["param_names"]}
    references = [
        torch.optim.Muon(
            [p for name, p in theirs.named_parameters() if name in hidden],
            lr=0.01,
            weight_decay=0.1,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [p for name, p in theirs.named_parameters() if name not in hidden], lr=0.01, weight_decay=0.1
        ),
    ]
    for seed in range(3):
        backward(ours, seed)
        muon.step()
        backward(theirs, seed)
        for reference in references:
            reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("resumed", [False, True])
def test_the_lr_of_its_groups_acts_on_both_parts_also_after_a_resume(resumed):
    model = small_gpt()
    muon = Muon(parameter_groups(model, weight_decay=0.1), lr=0.01)
    backward(model, 0)
    muon.step()
    if resumed:
        muon.load_state_dict(copy.deepcopy(muon.state_dict()))
    before = [p.detach().clone() for p in model.parameters()]
    for group in muon.param_groups:
        group["lr"] = 0.0
    backward(model, 1)
    muon.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    for group in muon.param_groups:
        group["lr"] = 0.01
    muon.step()
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_trial_resumed_from_a_checkpoint_goes_on_with_the_same_bits():
    straight, first = small_gpt(), small_gpt()
    runs = []
    for model, seeds in ((straight, range(4)), (first, range(2))):
        optimizer = Muon(parameter_groups(model, weight_decay=0.1), lr=0.01)
        for seed in seeds:
            backward(model, seed)
            optimizer.step()
        runs.append(optimizer)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": runs[1].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = small_gpt()
    second.load_state_dict(saved["model"])
    optimizer = Muon(parameter_groups(second, weight_decay=0.1), lr=0.5)
    optimizer.load_state_dict(saved["optimizer"])
    for seed in range(2, 4):
        backward(second, seed)
        optimizer.step()
    for p, q in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_copy_trains_its_own_model():
    model = small_gpt()
    muon = Muon(parameter_groups(model, weight_decay=0.1), lr=0.01)
    backward(model, 0)
    muon.step()
    before = [p.detach().clone() for p in model.parameters()]
    twin = copy.deepcopy(muon)
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)  # a copied parameter comes without its gradient
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    moved = {
        name: p for group in twin.param_groups for name, p in zip(group["param_names"], group["params"], strict=True)
    }
    assert not any(torch.equal(moved[name], p) for name, p in model.named_parameters())


def test_group_settings_survive_the_split():
    options = ParameterGroups(no_decay_on_norms_and_biases=True, lr_factors={"blocks.0.*": 0.5})
    groups = parameter_groups(small_gpt(), weight_decay=0.1, options=options)
    muon = Muon(groups, lr=0.01)
    for group in muon.param_groups:
        for name in group["param_names"]:
            assert group["lr_factor"] == (0.5 if name.startswith("blocks.0.") else 1.0)
            assert group["weight_decay"] == (0.0 if "norm" in name or name.endswith("bias") else 0.1)


def test_a_user_may_name_the_matrices_for_adamw():
    muon = Muon(small_gpt().named_parameters(), lr=0.01, adamw_names=["*embedding*", "head.*", "blocks.0.*"])
    hidden = {name for group in muon.param_groups if group["hidden"] for name in group["param_names"]}
    assert hidden
    assert all(name.startswith("blocks.1.") for name in hidden)


def test_what_it_cannot_train_is_refused():
    with pytest.raises(UserError, match="adamw_names pattern 'embeding' matches no parameter"):
        Muon(small_gpt().named_parameters(), lr=0.01, adamw_names=["embeding"])
    with pytest.raises(UserError, match="no hidden matrix for Muon to train: use optimizer=adamw"):
        Muon(CifarResNet().named_parameters(), lr=0.01)
    with pytest.raises(UserError, match="by name: pass parameter_groups"):
        Muon(small_gpt().parameters(), lr=0.01)


def test_an_older_torch_is_told_apart(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"needs torch 2\.9 or newer"):
        Muon(small_gpt().named_parameters(), lr=0.01)
