"""The GPT is GPT-2's shape, looks only backwards and starts at chance."""

from math import log, sqrt

import pytest
import torch
from torch import nn

from harness.models.gpt import GPT, Block
from harness.plan.errors import UserError


def small(**options) -> GPT:
    torch.manual_seed(0)
    return GPT(**{"vocabulary": 17, "context": 8, "depth": 2, "width": 16, "heads": 4, **options})


def tokens(n: int = 3, length: int = 8) -> torch.Tensor:
    return torch.randint(17, (n, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("depth", "width", "heads", "published"),
    # The checkpoints' counts, with tied weights; the first is the 124 M of GPT-2 small.
    [(12, 768, 12, 124_439_808), (24, 1024, 16, 354_823_168)],
)
def test_parameters_are_those_of_gpt2(depth, width, heads, published):
    with torch.device("meta"):
        model = GPT(vocabulary=50257, context=1024, depth=depth, width=width, heads=heads)
    assert sum(p.numel() for p in model.parameters()) == published


def test_untied_weights_add_one_matrix_and_dropping_biases_takes_all_of_them():
    count = {
        key: sum(p.numel() for p in small(**options).parameters())
        for key, options in {"tied": {}, "untied": {"tie_weights": False}, "bare": {"bias": False}}.items()
    }
    assert count["untied"] - count["tied"] == 17 * 16
    assert count["tied"] - count["bare"] == sum(p.numel() for n, p in small().named_parameters() if n.endswith("bias"))


def test_a_token_has_no_influence_on_what_comes_before_it():
    model = small().eval()
    before, after = tokens(), tokens()
    after[:, 5] = (after[:, 5] + 1) % 17
    difference = (model(before) - model(after)).abs().amax((0, 2))
    assert not difference[:5].any()
    assert difference[5:].all()


def test_shorter_sequences_give_the_same_logits_as_the_beginning_of_longer_ones():
    model = small().double().eval()
    torch.testing.assert_close(model(tokens()[:, :5]), model(tokens())[:, :5])


def test_it_starts_at_chance():
    logits, others = small()(tokens(64)), tokens(64).roll(1, dims=0)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), others.flatten())
    assert loss.item() == pytest.approx(log(17), rel=0.05)


def test_what_is_added_to_the_residual_stream_starts_smaller_with_depth():
    model = small(width=64, depth=8)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        for layer in (block.attention.out, block.contract):
            assert layer.weight.std().item() == pytest.approx(0.02 / sqrt(16), rel=0.1)
        assert block.expand.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.head.weight is model.token_embedding.weight
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    assert not torch.equal(model(tokens()), model(tokens()))
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"model.width 16 is not a multiple of model.heads 3"):
        small(heads=3)
    with pytest.raises(UserError, match=r"sequences of 9 tokens exceed model.context 8: use model.context=9"):
        small()(tokens(length=9))
