"""Do the intervals of `harness advise` hold what they claim? By simulated clusters; the numbers in docs/advise.md.

    python benchmarks/advise_synthetic.py --simulations 1000

Each cluster has a law of its own; it is timed on 1 to 16 devices at micro-batches 16 to 256, and T(n, m) is asked for
on up to 128 devices, as is the number of devices from which more stop paying at a fixed TBS. Laws: `own`, drawn from
the priors of the model; `ring`, a hierarchical all-reduce (rings inside nodes, trees across them) of random payload,
latencies and bandwidths, part of it hidden; `outlier`, as `own`, with one timing in five of six clusters off by 20 to
60 %. Seeded: the same command prints the same table.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.statistics import step_model
from harness.statistics.scaling_out import largest_that_pays, stops_paying
from harness.statistics.step_model import StepRow, fit_step_model, ring_share

PER_NODE = 8
TIMED = [(1, 16, 1), (1, 64, 1), (1, 256, 1), (1, 64, 8), (4, 64, 1), (8, 64, 4), (16, 64, 2), (16, 256, 1)]
ASKED = [(2, 64, 1), (8, 128, 1), (16, 64, 8), (32, 64, 1), (64, 256, 1), (64, 16, 4), (128, 64, 1)]
# Where more devices stop paying: micro-steps of 64 examples at a fixed TBS, counted as a real number, so that almost
# every cluster has its n* among these.
MICRO_BATCH, MICRO_STEPS = 64, 64
DEVICES = [2**power for power in range(17)]

Law = Callable[[int, float, float], float]


@dataclass
class Score:
    held: int = 0
    asked: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.held / max(1, self.asked)


def own_law(rng: np.random.Generator) -> Law:
    def log_normal(median: float, sd: float) -> float:
        return median * math.exp(sd * rng.standard_normal())

    step = log_normal(0.1, 1.0)
    odds = log_normal(step_model.FIXED / (1 - step_model.FIXED), step_model.FIXED_SD)
    share, growth = odds / (1 + odds), log_normal(step_model.GROWTH, step_model.GROWTH_SD)
    inside, across = (log_normal(step_model.ONCE * step, step_model.ONCE_SD) for _ in range(2))

    def law(n: int, m: float, s: float) -> float:
        micro = step * (share + (1 - share) * m / 16)
        return (
            micro * (s + growth * math.log2(n))
            + inside * ring_share(min(n, PER_NODE))
            + across * ring_share(-(-n // PER_NODE))
        )

    return law


def ring_law(rng: np.random.Generator) -> Law:
    uniform = rng.uniform
    fixed, per = 10 ** uniform(-3, -1.5), 10 ** uniform(-4.5, -3)
    payload = 10 ** uniform(6, 9.5)  # bytes
    inside, across = (
        (10 ** uniform(-5, -4), 10 ** uniform(10.5, 11.7)),
        (10 ** uniform(-4.5, -3.5), 10 ** uniform(9.7, 10.7)),
    )
    exposed, jitter = uniform(0.1, 1), uniform(0.002, 0.03)

    def all_reduce(n: int) -> float:
        g, k = min(n, PER_NODE), max(1, n // PER_NODE)
        seconds = 0.0 if g == 1 else inside[0] * g + 2 * (g - 1) / g * payload / inside[1]
        return seconds + (0.0 if k == 1 else 2 * across[0] * math.log2(k) + 2 * (k - 1) / k * payload / g / across[1])

    def law(n: int, m: float, s: float) -> float:
        micro = fixed + per * m
        return micro * (s + jitter * math.log2(n)) + exposed * all_reduce(n)

    return law


def simulate(kind: str, simulations: int) -> tuple[Score, Score, Score, float]:
    """Scores of T within the n timed, of T beyond, of n*; and the median half-width of T."""
    rng = np.random.default_rng([ord(letter) for letter in kind])
    within, beyond, stops, widths = Score(), Score(), Score(), []
    largest = max(n for n, _, _ in TIMED)
    for number in range(simulations):
        law = ring_law(rng) if kind == "ring" else own_law(rng)
        drift = step_model.DRIFT * rng.standard_normal()

        def truth(n: int, m: float, s: float, law: Law = law, drift: float = drift) -> float:
            return law(n, m, s) * math.exp(drift * max(0.0, math.log2(n / largest)))

        errors = step_model.NOISE * rng.standard_t(step_model.TAIL, len(TIMED) + len(ASKED))
        if kind == "outlier" and rng.random() < 5 / 6:
            errors[rng.integers(len(TIMED))] += math.log(rng.uniform(1.2, 1.6))
        rows = [StepRow(*key, truth(*key) * math.exp(e)) for key, e in zip(TIMED, errors, strict=False)]
        model = fit_step_model(rows, PER_NODE, seed=number)
        for key, error in zip(ASKED, errors[len(TIMED) :], strict=True):
            found, score = model.predict(*key), within if key[0] <= largest else beyond
            score.asked += 1
            score.held += found.low <= truth(*key) * math.exp(error) <= found.high
            widths.append(found.half_width)
        asked = [(n, MICRO_BATCH, MICRO_STEPS / n) for n in DEVICES]
        paying = stops_paying(DEVICES, np.stack([model.law(*key) for key in asked], axis=1))
        true = largest_that_pays(DEVICES, np.log([truth(*key) for key in asked]))
        stops.asked += 1
        stops.held += paying.low <= true <= paying.high
    return within, beyond, stops, float(np.median(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    given = parser.parse_args()
    print(f"95 % intervals of {given.simulations} clusters hold the truth, in %")
    print(f"{'law':10} {'T, n timed':>12} {'T, n beyond':>12} {'T, all':>8} {'n*':>6} {'median +- of T':>16}")
    for kind in ("own", "ring", "outlier"):
        within, beyond, stops, width = simulate(kind, given.simulations)
        both = Score(within.held + beyond.held, within.asked + beyond.asked)
        print(
            f"{kind:10} {within.percent:12.1f} {beyond.percent:12.1f} {both.percent:8.1f} {stops.percent:6.1f} "
            f"{100 * width:15.1f}%"
        )


if __name__ == "__main__":
    main()
