"""P6 and P7: work is shared out without padding, and what rank 0 decides holds for all."""

import time

import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import on_ranks

from harness.train.world import World


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_are_contiguous_cover_everything_once_and_differ_by_at_most_one(count, ranks):
    shares = [World(rank, ranks, torch.device("cpu")).share(count) for rank in range(ranks)]
    assert [i for start, stop in shares for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


def collectives(world: World) -> dict[str, object]:
    mine = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    world.meet()
    began = time.monotonic()
    time.sleep(0.3 * world.is_main)
    world.meet()
    return {
        "decided": world.decide(7 + world.rank),
        "sum": world.sum(mine.clone()).tolist(),
        "maximum": world.maximum(mine.clone()).tolist(),
        "waited": time.monotonic() - began >= 0.2,  # of 0.3 s: the ranks left the first meeting nearly together
    }


def test_every_rank_holds_the_same_sum_maximum_and_decision_and_waits_for_the_last():
    expected = {"decided": 7, "sum": [6.0, 60.0], "maximum": [3.0, 30.0], "waited": True}
    assert on_ranks(3, collectives) == [expected] * 3


def test_a_rank_alone_needs_no_process_group():
    alone = World(0, 1, torch.device("cpu"))
    tensor = torch.tensor([2.0])
    alone.meet()
    assert (alone.decide(5), alone.sum(tensor).item(), alone.maximum(tensor).item()) == (5, 2.0, 2.0)
