"""Are the statements that people act on right? By simulation; the numbers in docs/statistics.md.

    python benchmarks/decision.py --simulations 400

1. The set of arms not distinguished from the best: how often it holds the best, and how many arms it names.
2. "Costs twice (1.2 times) the cheapest arm's data from TBS X on": how often the bracket holds X, whatever the curve.
3. The recommendation against the bare argmin: the same TBS from two studies of one truth, time lost against the best
   arm, and P(best) as stated against how often that arm is the best.

Trials are log-normal with coefficient of variation cv. Truths of part 3: five shapes with random parameters and a lack
of fit of 3 % about them; an update takes 1 + B / B_0 with random B_0, so that the fastest TBS is anywhere in the sweep.
Seeded: the same command prints the same tables.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.coverage import observed
from harness.statistics.best_set import best_set
from harness.statistics.doubling import Status, cost_rise
from harness.statistics.estimates import Observation
from harness.statistics.recommendation import Recommendation, StepTime, recommend

SIZES = (16, 32, 64, 128, 256, 512)
CV = 0.2
SET_LAWS = ("ties", "gaps of 10 %", "best is noisiest", "best is quietest", "grid")
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # epochs to target
    "hyperbola": lambda b: 5 * (1 + b / 150),
    "power law": lambda b: 3 * (b / 16) ** 0.35,
    "log-linear": lambda b: 4 + 1.5 * np.log2(b / 16),
    "generalised": lambda b: 5 * (1 + (b / 200) ** 2),
    "turning": lambda b: 4 * (1 + b / 100 + 30 / b),
    "falling": lambda b: 4 * (1 + 40 / b),
}
LACK = 0.03  # of every arm's truth about its curve, on the log
RULES = ("none", "sqrt", "linear")


@dataclass(frozen=True)
class Share:
    """How often a statement held, and what it said."""

    share: float
    size: float  # arms in the set; upper over lower end of a bracket, where both are shown
    by_status: dict[str, int]


def trials(rng: np.random.Generator, cost: float, cv: float, n: int, grid: float = 0.0) -> list[Observation]:
    return observed(cost * np.exp(cv * rng.standard_normal(n)), grid)


def set_coverage(arms: int, seeds: int, law: str, simulations: int) -> Share:
    """Arm 0 is the best: alone by 10 %, or tied with all others, at 5 epochs."""
    rng = np.random.default_rng([arms, seeds, SET_LAWS.index(law)])
    costs = 5 * np.exp(0.1 * np.arange(arms) * (law == "gaps of 10 %"))
    cvs = np.full(arms, CV)
    if law == "best is noisiest":  # three times the others
        cvs = np.array([2 * CV, *[2 * CV / 3] * (arms - 1)])
    if law == "best is quietest":
        cvs[0] = CV / 3
    grid = 1.5 if law == "grid" else 0.0
    held = size = 0
    for _ in range(simulations):
        found = best_set({i: trials(rng, costs[i], cvs[i], seeds, grid) for i in range(arms)})
        held, size = held + (0 in found.members), size + len(found.members)
    return Share(held / simulations, size / simulations, {})


def true_rise(shape: str, factor: float) -> float:
    """TBS from which a shape costs `factor` times its cheapest arm; infinity where it does not within the sweep."""
    curve, fine = SHAPES[shape], np.geomspace(SIZES[0], SIZES[-1], 5001)
    costs = curve(np.array(SIZES, float))
    above = (fine >= SIZES[int(costs.argmin())]) & (curve(fine) >= factor * costs.min())
    return float(fine[above.argmax()]) if above.any() else math.inf


def rise_coverage(
    shape: str, seeds: int, *, cv: float = CV, factor: float = 2.0, grid: float = 0.0, simulations: int
) -> Share:
    rng = np.random.default_rng([seeds, round(100 * cv), list(SHAPES).index(shape)])
    costs, truth = SHAPES[shape](np.array(SIZES, float)), true_rise(shape, factor)
    held, ratios, statuses = 0, [], dict.fromkeys(map(str, Status), 0)
    for _ in range(simulations):
        arms = {b: trials(rng, cost, cv, seeds, grid) for b, cost in zip(SIZES, costs, strict=True)}
        found = cost_rise(arms, factor)
        held += found.low < truth <= found.high
        statuses[str(found.status)] += 1
        if found.status is Status.BETWEEN:
            ratios.append(found.high / found.low)
    return Share(held / simulations, float(np.median(ratios)) if ratios else math.nan, statuses)


@dataclass(frozen=True)
class Law:
    """How studies are drawn for part 3."""

    cv: float = CV
    seeds: int = 5
    grid: float = 0.0
    budget: float = math.inf  # epochs
    step_sd: float = 0.0  # error of the measured step times
    uneven: bool = False  # cv differs by arm, by a factor of 1.6 (one sd)
    rules: int = 1
    shape: str = ""  # all five

    def __str__(self) -> str:
        words = [f"cv {self.cv:.0%}, n = {self.seeds}"]
        words += [f"grid {self.grid:g}"] if self.grid else []
        words += [f"budget {self.budget:g}"] if self.budget < math.inf else []
        words += [f"step times +- {self.step_sd:.0%}"] if self.step_sd else []
        words += ["uneven cv"] if self.uneven else []
        words += [f"{self.rules} rules"] if self.rules > 1 else []
        return ", ".join([*words, *([self.shape] if self.shape else [])])


@dataclass(frozen=True)
class Decisions:
    """What following the recommendation (and the bare argmin) gives; losses in time against the best arm."""

    same: float
    same_argmin: float
    lost: np.ndarray
    lost_argmin: np.ndarray
    stated: np.ndarray  # P(best), of every arm of every study
    true: np.ndarray  # whether it was the best
    top: np.ndarray  # indices of the largest P(best) of each study
    regret: float  # mean of what was stated for the recommended arm
    settled: float


def true_costs(rng: np.random.Generator, shape: str) -> np.ndarray:
    """Epochs of a random curve of that shape, without lack of fit."""
    b = np.array(SIZES, float)
    critical = math.exp(rng.uniform(math.log(40), math.log(600)))
    relative = {
        "hyperbola": lambda: 1 + b / critical,
        "power law": lambda: (b / 16) ** rng.uniform(0.15, 0.7),
        "log-linear": lambda: 1 + rng.uniform(0.1, 0.8) * np.log2(b / 16),
        "generalised": lambda: 1 + (b / critical) ** rng.uniform(0.5, 2),
        "turning": lambda: 1 + b / critical + rng.uniform(5, 40) / b,
    }[shape]()
    return 4 * relative / relative[0]


def decisions(law: Law, simulations: int, lack: float = LACK) -> Decisions:
    """Two studies of each truth."""
    rng = np.random.default_rng([law.seeds, round(100 * law.cv), law.rules])
    shapes = [law.shape] if law.shape else [name for name in SHAPES if name != "falling"]
    same = same_argmin = settled = 0
    lost, lost_argmin, stated, true, top, regrets = [], [], [], [], [], []
    for i in range(simulations):
        rules = RULES[: law.rules]
        costs = np.stack([true_costs(rng, shapes[(i + r) % len(shapes)]) for r in range(law.rules)])
        costs *= np.exp(lack * rng.standard_normal(costs.shape))
        costs[:, 0] = costs[0, 0]  # one arm under all rules
        seconds = 1 + np.array(SIZES) / math.exp(rng.uniform(math.log(16), math.log(512)))
        arms = [(r, s) for r in range(law.rules) for s in range(len(SIZES)) if s or not r]
        time = np.array([costs[arm] / SIZES[arm[1]] * seconds[arm[1]] for arm in arms])
        cvs = law.cv * np.exp(0.5 * law.uneven * rng.standard_normal(len(arms)))
        picks, bare_picks = [], []
        for _ in range(2):
            measured = seconds * np.exp(law.step_sd * rng.standard_normal(len(SIZES)))
            data = [
                observed(costs[arm] * np.exp(cv * rng.standard_normal(law.seeds)), law.grid, law.budget)
                for arm, cv in zip(arms, cvs, strict=True)
            ]
            bare = [_mean(data[k]) / SIZES[s] * measured[s] for k, (_, s) in enumerate(arms)]
            names = [(rules[r], SIZES[s]) for r, s in arms]
            steps = {b: StepTime(float(m), law.step_sd) for b, m in zip(SIZES, measured, strict=True)}
            found = recommend(dict(zip(names, data, strict=True)), step_times=steps, base=SIZES[0])
            if found.recommended is None:
                continue
            picks.append(names.index(found.recommended.arm))
            bare_picks.append(int(np.argmin(bare)))
            shares = _shares(found, names)
            top.append(len(stated) + int(np.argmax(shares)))
            stated += shares
            true += [k == int(time.argmin()) for k in range(len(arms))]
            regrets.append(found.recommended.expected_regret)
            settled += found.settled
        same += len({SIZES[arms[k][1]] for k in picks}) == 1
        same_argmin += len({SIZES[arms[k][1]] for k in bare_picks}) == 1
        lost += [time[k] / time.min() - 1 for k in picks]
        lost_argmin += [time[k] / time.min() - 1 for k in bare_picks]
    return Decisions(
        same / simulations,
        same_argmin / simulations,
        np.array(lost),
        np.array(lost_argmin),
        np.array(stated),
        np.array(true, bool),
        np.array(top),
        float(np.mean(regrets)),
        settled / len(regrets),
    )


def _mean(data: Sequence[Observation]) -> float:
    """Geometric mean; infinity with a miss."""
    return math.exp(np.mean([math.log(o.middle) for o in data])) if all(o.reached for o in data) else math.inf


def _shares(found: Recommendation, names: Sequence[tuple[str, int]]) -> list[float]:
    shares = {candidate.arm: candidate.p_best for candidate in found.candidates} | found.unmeasured
    return [shares.get(name, 0.0) for name in names]


LAWS = (
    *(Law(cv=cv, seeds=n) for cv in (0.1, 0.2, 0.3) for n in (3, 5)),
    *(Law(shape=shape) for shape in SHAPES if shape != "falling"),
    Law(grid=0.5),
    Law(grid=6.0),
    Law(step_sd=0.02),
    Law(uneven=True),
    Law(rules=3),
    Law(budget=16.0, grid=0.5),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    simulations = parser.parse_args().simulations
    print("| set of | law | holds the best | arms in it |\n|---|---|---|---|")
    for arms in (3, 6, 16):
        for seeds in (3, 5):
            for law in SET_LAWS:
                found = set_coverage(arms, seeds, law, simulations)
                print(f"| {arms} arms x {seeds} | {law} | {found.share:.1%} | {found.size:.1f} |", flush=True)
    print("\n| bracket of | shape | seeds, cv | holds X | upper / lower end | statuses |\n|---|---|---|---|---|---|")
    for factor in (1.2, 2.0):
        for shape in SHAPES:
            for seeds, cv in ((3, 0.1), (3, 0.25), (5, 0.1), (5, 0.25)):
                result = rise_coverage(shape, seeds, cv=cv, factor=factor, simulations=simulations)
                statuses = ", ".join(f"{status} {n / simulations:.0%}" for status, n in result.by_status.items() if n)
                row = f"| {factor:g} x | {shape} | {seeds}, {cv:.0%} | {result.share:.1%} | {result.size:g} |"
                print(f"{row} {statuses} |", flush=True)
    print(
        "\n| law | same TBS (argmin) | lost: mean, 95th percentile (argmin) | stated P(best) of the top arm, true "
        "| stated regret | settled |\n|---|---|---|---|---|---|"
    )
    for law in LAWS:
        d = decisions(law, simulations)
        lost, bare = (f"{x.mean():.1%}, {np.percentile(x, 95):.0%}" for x in (d.lost, d.lost_argmin))
        print(
            f"| {law} | {d.same:.0%} ({d.same_argmin:.0%}) | {lost} ({bare}) "
            f"| {d.stated[d.top].mean():.0%}, {d.true[d.top].mean():.0%} | {d.regret:.1%} | {d.settled:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
