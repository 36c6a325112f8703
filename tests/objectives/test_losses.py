"""P1: losses are sums with a count, so that pieces of a batch add up to the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from harness.datasets.examples import TensorExamples
from harness.datasets.synthetic_images import SyntheticImages
from harness.objectives.objective import IGNORED, Measured, named_objectives, objective_named
from harness.plan.errors import UserError
from harness.train.counts import every_target_counts


def some_batch(n: int, classes: int = 5, tokens: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n,) if tokens is None else (n, tokens)
    logits = torch.randn(*shape, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, shape, generator=generator)


def mean(measured: Measured) -> float:
    total, count = measured
    return float(total) / float(count)


@given(st.integers(1, 20), st.integers(0, 20), st.sampled_from([None, 3]), st.integers(0, 100))
def test_the_pieces_of_a_batch_add_up_to_the_batch(n, at, tokens, seed):
    loss = objective_named("cross_entropy")
    logits, targets = some_batch(n, tokens=tokens, seed=seed)
    if tokens is not None:
        targets[:, 0] = IGNORED
    pieces = [(logits[:at], targets[:at]), (logits[at:], targets[at:])]
    for name in loss.metrics:
        parts = [torch.stack([torch.as_tensor(v).double() for v in loss.scores(x, y)[name]]) for x, y in pieces]
        whole = [float(v) for v in loss.scores(logits, targets)[name]]
        assert torch.stack(parts).sum(0).tolist() == pytest.approx(whole)


def test_the_mean_over_the_count_is_torchs_cross_entropy():
    loss = objective_named("cross_entropy")
    logits, targets = some_batch(8)
    assert mean(loss.measure(logits, targets)) == pytest.approx(functional.cross_entropy(logits, targets).item())
    soft = torch.softmax(some_batch(8, seed=1)[0], dim=-1)
    assert mean(loss.measure(logits, soft)) == pytest.approx(functional.cross_entropy(logits, soft).item())


def test_tokens_that_do_not_count_change_neither_loss_nor_accuracy():
    loss = objective_named("cross_entropy")
    logits, targets = some_batch(4, tokens=6)
    targets[:, 4:] = IGNORED
    scores = loss.scores(logits, targets)
    assert [int(count) for _, count in scores.values()] == [16, 16]
    expected = functional.cross_entropy(logits[:, :4].flatten(0, 1), targets[:, :4].flatten())
    assert mean(scores["loss"]) == pytest.approx(expected.item())
    assert scores["accuracy"][0].item() == (logits[:, :4].argmax(-1) == targets[:, :4]).sum().item()


@pytest.mark.parametrize("tokens", [None, 3])
def test_targets_that_do_not_count_are_not_counted(tokens):
    loss = objective_named("cross_entropy")
    logits, targets = some_batch(8, tokens=tokens)
    targets[2:5] = IGNORED
    total, count = loss.measure(logits, targets)
    assert int(count) == 5 * (tokens or 1)
    expected = functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    assert mean((total, count)) == pytest.approx(expected.item())


def test_data_are_looked_through_once_for_targets_that_do_not_count():
    targets = torch.arange(6)
    assert every_target_counts(TensorExamples(torch.zeros(6, 1), targets))
    assert every_target_counts(TensorExamples(torch.zeros(6, 1), targets.expand(2, 6).T))
    assert every_target_counts(TensorExamples(torch.zeros(6, 1), {"label": targets, "value": targets / 2 - 100}))
    some = targets.where(targets != 3, IGNORED)
    assert not every_target_counts(TensorExamples(torch.zeros(6, 1), some))
    assert not every_target_counts(TensorExamples(torch.zeros(6, 1), (targets, some.expand(2, 6).T)))
    assert every_target_counts(SyntheticImages(train=30).load().train)


def test_where_no_target_is_ignored_a_count_follows_from_shapes_alone():
    logits, targets = some_batch(4, tokens=6)
    for name in ("cross_entropy", "nll"):
        total, count = objective_named(name).where_all_count().measure(logits, targets)
        assert type(count) is int
        assert count == 24
        assert torch.equal(total, objective_named(name).measure(logits, targets)[0])


@pytest.mark.parametrize("name", ["cross_entropy", "model_output", "mse"])
def test_every_loss_scores_exactly_the_metrics_it_declares(name):
    logits, targets = some_batch(3) if name == "cross_entropy" else (torch.ones(3), torch.zeros(3))
    loss = objective_named(name)
    assert tuple(loss.scores(logits, targets)) == loss.metrics


def test_an_unknown_loss_names_those_there_are():
    with pytest.raises(UserError, match="unknown loss 'info_nce': choose one of bce_with_logits, cross_entropy, ctc, "):
        objective_named("info_nce")
    assert {"cross_entropy", "model_output", "mse", "huber", "fused_cross_entropy"} <= set(named_objectives())


def test_a_loss_that_depends_on_who_shares_a_micro_batch_must_declare_it():
    contrastive = {"_target_": "harness.objectives.contrastive.Contrastive"}
    with pytest.raises(UserError, match=r"couples the examples of a micro-batch: add couples: batch to workload\.loss"):
        objective_named(contrastive)
    assert objective_named({**contrastive, "couples": "batch"}).couples == "batch"
