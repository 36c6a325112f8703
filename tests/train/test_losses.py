"""P1: losses are sums with a count, so that pieces of a batch add up to the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from harness.datasets.examples import TensorExamples
from harness.datasets.synthetic_images import SyntheticImages
from harness.objectives.losses import IGNORED, LOSSES, loss_named
from harness.plan.errors import UserError
from harness.train.counts import every_example_counts


def some_batch(n: int, classes: int = 5, tokens: int | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n,) if tokens is None else (n, tokens)
    logits = torch.randn(*shape, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, shape, generator=generator)


@given(st.integers(1, 20), st.integers(0, 20), st.sampled_from([None, 3]), st.integers(0, 100))
def test_the_pieces_of_a_batch_add_up_to_the_batch(n, at, tokens, seed):
    loss = loss_named("cross_entropy")
    logits, targets = some_batch(n, tokens=tokens, seed=seed)
    if tokens is not None:
        targets[:, 0] = IGNORED
    pieces = [(logits[:at], targets[:at]), (logits[at:], targets[at:])]
    for measure in (loss.total, lambda x, y: loss.count(y), lambda x, y: loss.scores(x, y)["accuracy"]):
        parts = [torch.as_tensor(measure(x, y), dtype=torch.float64) for x, y in pieces if len(y)]
        whole = torch.as_tensor(measure(logits, targets), dtype=torch.float64)
        assert torch.stack(parts).sum().item() == pytest.approx(whole.item())


def test_the_mean_over_the_count_is_torchs_cross_entropy():
    loss = loss_named("cross_entropy")
    logits, targets = some_batch(8)
    mean = loss.total(logits, targets) / loss.count(targets)
    assert mean.item() == pytest.approx(functional.cross_entropy(logits, targets).item())
    soft = torch.softmax(some_batch(8, seed=1)[0], dim=-1)
    mean = loss.total(logits, soft) / loss.count(soft)
    assert mean.item() == pytest.approx(functional.cross_entropy(logits, soft).item())


def test_tokens_that_do_not_count_change_neither_loss_nor_accuracy():
    loss = loss_named("cross_entropy")
    logits, targets = some_batch(4, tokens=6)
    targets[:, 4:] = IGNORED
    scores, count = loss.scores(logits, targets), loss.count(targets)
    assert int(count) == 16
    expected = functional.cross_entropy(logits[:, :4].flatten(0, 1), targets[:, :4].flatten())
    assert (scores["loss"] / count).item() == pytest.approx(expected.item())
    assert scores["accuracy"].item() == (logits[:, :4].argmax(-1) == targets[:, :4]).sum().item()


@pytest.mark.parametrize("tokens", [None, 3])
def test_targets_that_do_not_count_are_not_counted(tokens):
    loss = loss_named("cross_entropy")
    logits, targets = some_batch(8, tokens=tokens)
    targets[2:5] = IGNORED
    assert int(loss.count(targets)) == 5 * (tokens or 1)
    mean = loss.total(logits, targets) / loss.count(targets)
    assert mean.item() == pytest.approx(functional.cross_entropy(logits.flatten(0, -2), targets.flatten()).item())


def test_data_are_looked_through_once_for_targets_that_do_not_count():
    targets = torch.arange(6)
    assert every_example_counts(TensorExamples(torch.zeros(6, 1), targets))
    assert not every_example_counts(TensorExamples(torch.zeros(6, 1), targets.where(targets != 3, IGNORED)))
    assert not every_example_counts(TensorExamples(torch.zeros(6, 1), targets.expand(2, 6).T))
    assert every_example_counts(SyntheticImages(train=30).load().train)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_scores_exactly_the_metrics_it_declares(name):
    logits, targets = (torch.ones(3), torch.zeros(3)) if name == "model_output" else some_batch(3)
    assert tuple(LOSSES[name].scores(logits, targets)) == LOSSES[name].metrics


def test_a_loss_that_depends_on_who_shares_a_batch_is_not_offered():
    with pytest.raises(UserError, match="unknown loss 'info_nce': choose one of cross_entropy, model_output"):
        loss_named("info_nce")
