"""P2: one stream for every total batch size, cut over ranks and micro-batches without moving a batch-norm group."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.batch import BatchPlan
from harness.train.stream import ExampleStream, cut, group_layout

SEEDS = st.integers(0, 2**31)


@st.composite
def plans(draw) -> tuple[BatchPlan, int]:
    """A batch plan and a batch-norm group that divides its micro-batch."""
    group, groups, world, accumulation = (draw(st.integers(1, most)) for most in (6, 4, 4, 4))
    micro = group * groups
    return BatchPlan(micro * world * accumulation, micro, world, accumulation), group


@given(SEEDS, st.integers(1, 60), st.integers(0, 30))
def test_every_epoch_of_the_stream_is_a_permutation_of_the_training_set(seed, size, epoch):
    drawn = ExampleStream(seed, size).positions(epoch * size, (epoch + 1) * size)
    assert sorted(drawn.tolist()) == list(range(size))


@given(SEEDS, st.integers(1, 40), st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_pieces_of_any_size_make_up_the_same_stream(seed, size, pieces):
    stream, start, drawn = ExampleStream(seed, size), 0, []
    for piece in pieces:
        drawn.append(stream.positions(start, start + piece))
        start += piece
    assert torch.equal(torch.cat(drawn), ExampleStream(seed, size).positions(0, start))


@given(SEEDS, st.integers(1, 40), st.integers(0, 500), st.integers(1, 90))
def test_a_stream_begun_in_the_middle_goes_on_as_one_that_came_there(seed, size, start, length):
    resumed = ExampleStream(seed, size).positions(start, start + length)
    assert torch.equal(resumed, ExampleStream(seed, size).positions(0, start + length)[start:])


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 90))
def test_epochs_name_the_permutation_that_a_position_lies_in(size, start, length):
    stream = ExampleStream(0, size)
    for place, epoch, example in zip(
        range(start, start + length),
        stream.epochs(start, start + length).tolist(),
        stream.positions(start, start + length).tolist(),
        strict=True,
    ):
        assert example == ExampleStream(0, size).permutation(epoch)[place - epoch * size]


def test_the_order_follows_the_seed_and_changes_with_the_epoch():
    orders = {tuple(ExampleStream(seed, 100).permutation(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


@given(SEEDS, st.integers(0, 10**9), st.integers(1, 50))
def test_an_endless_stream_never_repeats_an_example(seed, start, length):
    stream = ExampleStream(seed, 10, endless=True)
    drawn = stream.positions(start, start + length)
    assert torch.equal(drawn, stream.positions(0, 1) + torch.arange(start, start + length))
    assert not stream.epochs(start, start + length).any()


def test_endless_streams_of_different_seeds_lie_apart():
    starts = sorted(ExampleStream(seed, 10, endless=True).positions(0, 1).item() for seed in range(20))
    assert min(b - a for a, b in pairwise(starts)) > 10**9


@given(plans(), st.integers(1, 3))
def test_ranks_and_micro_batches_share_out_each_global_batch(case, steps):
    plan, group = case
    size = plan.total_batch_size
    per_rank = [cut(torch.arange(steps * size), plan, rank, group) for rank in range(plan.world_size)]
    for step in range(steps):
        shares = [part[step].flatten().sort().values for part in per_rank]
        # Sorted, the ranks' shares are contiguous slices of the batch, in order of rank.
        assert torch.equal(torch.cat(shares), torch.arange(step * size, (step + 1) * size))


@given(plans())
def test_batch_norm_groups_are_the_same_whatever_splits_the_batch(case):
    plan, group = case
    members = set()
    for rank in range(plan.world_size):
        for micro in cut(torch.arange(plan.total_batch_size), plan, rank, group)[0]:
            groups = len(micro) // group
            members |= {tuple(micro[q::groups].tolist()) for q in range(groups)}
    expected = torch.arange(plan.total_batch_size).view(-1, group).tolist()
    assert members == set(map(tuple, expected))


@given(st.integers(1, 8), st.integers(1, 8))
def test_member_j_of_group_q_sits_at_j_times_the_groups_plus_q(group, groups):
    laid_out = group_layout(torch.arange(group * groups), group)
    for q in range(groups):
        for j in range(group):
            assert laid_out[j * groups + q] == q * group + j


def test_a_part_of_a_batch_cannot_be_cut():
    with pytest.raises(RuntimeError):
        cut(torch.arange(24), BatchPlan(16, 8, 2, 1), 0, 1)
