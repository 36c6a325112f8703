"""Racing finds the winners and medians of the full grid, whatever runs first and however much runs at once."""

import math

import numpy as np
import pytest

from harness.plan.racing import Race, Standing, complete_median

EVERY = 512  # examples between evaluations
OPEN = Standing()


def known(*places: float) -> list[Standing]:
    return [Standing(float(place)) for place in places]


def full_median(places: list[float]) -> float:
    """The lower median, misses at infinity."""
    return sorted(places)[(len(places) - 1) // 2]


def test_a_median_is_complete_once_no_open_trial_can_move_it():
    assert complete_median([*known(1024, 2048), OPEN]) is None
    assert complete_median([*known(1024, 2048), Standing(beyond=1536)]) is None
    assert complete_median([*known(1024, 2048), Standing(beyond=2048)]) == 2048
    assert complete_median(known(1024, math.inf, math.inf)) == math.inf
    assert complete_median([OPEN, *known(1024)]) is None


def test_a_place_at_the_cap_is_not_past_it():
    race = Race({"best": known(1024, 1536, 2048), "tie": known(1536, 1536, 9999)})
    assert race.cap == 1536
    assert race.winners == ["best", "tie"]


def test_a_candidate_is_out_when_more_than_half_of_its_seeds_are_past_the_cap():
    race = Race({"best": known(1024, 1024, 1024, 1024), "half": [*known(512, 2048, 2048), OPEN]})
    assert not race.is_out("half")  # its lower median could still be 512 ... 1024
    assert race.limit("half") == 1024
    race = Race({"best": known(1024, 1024, 1024), "more": [*known(2048, 2048), OPEN]})
    assert race.is_out("more")
    assert race.limit("more") == 0
    assert race.is_settled


def test_nothing_is_stopped_before_one_median_is_complete():
    race = Race({"first": [*known(1024), OPEN, OPEN], "second": [OPEN, OPEN, OPEN]})
    assert race.cap == math.inf
    assert race.limit("second") == math.inf
    assert race.winners == []


def simulate(places: dict[str, list[float]], budget: int, random: np.random.Generator) -> tuple[Race, float]:
    """Run a grid with a random number of places, in a random order, at random speeds, the driver's word coming late.

    Returns the settled race and the examples it spent. Trials follow the trainer's rule: stop at an evaluation that
    misses, at or beyond the limit last heard of.
    """
    seeds = len(next(iter(places.values())))
    waiting = [(name, seed) for name in places for seed in range(seeds)]
    random.shuffle(waiting)
    slots, running, spent = int(random.integers(1, 9)), {}, 0.0
    standings = {name: [OPEN] * seeds for name in places}
    heard: dict[tuple[str, int], float] = {}
    while True:
        race = Race(standings)
        if race.is_settled:
            return race, spent
        waiting = [trial for trial in waiting if race.limit(trial[0]) > 0]
        while waiting and len(running) < slots:
            running[waiting.pop()] = 0
        for trial in running:
            if random.random() < 0.7:  # some messages arrive late
                heard[trial] = race.limit(trial[0])
        name, seed = trial = list(running)[random.integers(len(running))]
        running[trial] += EVERY
        spent += EVERY
        place, at = places[name][seed], running[trial]
        ended = None
        if at >= place:
            ended = Standing(place)
        elif at >= budget:
            ended = Standing(math.inf)
        elif at >= heard.get(trial, math.inf):
            ended = Standing(beyond=at)
        if ended is not None:
            standings[name][seed] = ended
            del running[trial]


@pytest.mark.parametrize("block", range(10))
def test_200_sweeps_of_random_parallel_order_have_the_winners_and_medians_of_the_full_grid(block):
    budget, saved = 40 * EVERY, []
    for sweep in range(20):
        random = np.random.default_rng([block, sweep])
        seeds = int(random.integers(1, 6))
        best, width = random.uniform(0, 7), random.uniform(0.5, 3)
        places = {}
        for i in range(8):
            middle = 6 * math.exp(((i - best) / width) ** 2 / 4)
            drawn = np.ceil(middle * random.lognormal(0, 0.3, seeds))  # coarse: ties are common
            places[f"lr {i}"] = [
                EVERY * n if EVERY * n < budget and random.random() > 0.05 else math.inf for n in drawn
            ]
        race, spent = simulate(places, budget, random)
        medians = {name: full_median(found) for name, found in places.items()}
        smallest = min(medians.values())
        assert race.winners == ([name for name in medians if medians[name] == smallest] if smallest < math.inf else [])
        assert race.cap == smallest
        for name, found in race.candidates.items():
            median = complete_median(found)
            assert race.is_out(name) if median is None else median == medians[name]
        full = sum(min(place, budget) for found in places.values() for place in found)
        assert spent <= full
        saved.append(1 - spent / full)
    assert np.mean(saved) > 0.2  # it is worth its trouble
