"""The overhead of the harness over a bare loop, in one run on one machine.

    python benchmarks/overhead.py [--repeats 3] [--seeds 5]

(a) a bare PyTorch loop doing the same updates, evaluations, average and batch-norm work, in as many processes as there
    are slots;
(b) the harness through Ray;
(c) the pattern that Ray documents: TorchTrainer.fit inside a Tune function, W = 2;
(d) a plain loop without average and with ordinary batch norm.
Prints seconds per trial beyond (a), sweep efficiency = makespan (a) / makespan (b) without start-up, and examples per
CPU second of the harness relative to (a) and (d).
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch
from bare_loop import BareTrial, cpu_seconds_per_update, load

from harness.plan.batch import plan_batch
from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.record.files import read_lines
from harness.record.provenance import cpu_model, usable_cpus
from harness.train.learner import Learner
from harness.train.world import World

SIZES = (16, 32, 64, 128, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--skip-ray-train", action="store_true", help="leave out (c), which takes about a minute")
    arguments = parser.parse_args()
    slots = usable_cpus()
    print(f"{cpu_model()}, {slots} CPUs, torch {torch.__version__}, medians of {arguments.repeats} paired repeats")
    trials: list[tuple[int, float, int]] = []
    rows: list[dict[str, Any]] = []
    for _ in range(arguments.repeats):
        harness = run_harness(arguments.seeds)
        trials = harness["trials"]
        bare_s = run_bare(trials, slots)
        rows.append({**harness, "bare_s": bare_s})
    n = len(trials)
    beyond = [(row["makespan_s"] - row["bare_s"]) * slots / n for row in rows]
    efficiency = [row["bare_s"] / row["makespan_s"] for row in rows]
    median = {key: statistics.median(row[key] for row in rows) for key in ("bare_s", "total_s")}

    def spread_of(key: str) -> str:
        return spread([row[key] for row in rows])

    print(f"(a) bare loop, {n} trials in {slots} processes: {spread_of('bare_s')} s")
    print(f"(b) harness through Ray, first trial start to last trial end: {spread_of('makespan_s')} s")
    print(f"    start-up {spread_of('startup_s')} s, timing pass and report {spread_of('after_s')} s")
    print(f"    whole command {spread_of('total_s')} s; 1.5 x (a) + 15 s is {1.5 * median['bare_s'] + 15:.1f} s")
    print(f"    sweep efficiency (a)/(b): {spread(efficiency, 3)}")
    print(f"    per trial beyond (a): {spread(beyond, 3)} s")
    if not arguments.skip_ray_train:
        train_s = ray_train_overhead()
        print(f"(c) TorchTrainer inside Tune, W = 2, n = {len(train_s)}: {spread(train_s)} s per trial beyond its loop")
        print(f"    (c) over (b): {statistics.median(train_s) / max(statistics.median(beyond), 1e-3):.0f} times")
    throughput(arguments.repeats)


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def run_harness(seeds: int) -> dict[str, Any]:
    """(b): one embedded sweep; the makespan is from the first trial's start to the last record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "harness",
            "+experiment=tbs_sweep",
            f"output_dir={folder}",
            f"seeds={list(range(seeds))}",
        ]
        began = time.time()
        subprocess.run(
            [part.replace(" ", "") if part.startswith("seeds") else part for part in command],
            check=True,
            capture_output=True,
        )
        ended = time.time()
        study = Path(folder, "tbs_sweep", "default")
        starts, ends, trials = [], [], []
        for path in study.glob("trials/*/*"):
            row = next(iter(read_lines(path / "events.1.jsonl")))
            record = json.loads((path / "record.json").read_text())
            settings = Settings.from_json(json.loads((path / "trial.json").read_text())["settings"])
            starts.append(row["at"])
            ends.append((path / "record.json").stat().st_mtime)
            trials.append((settings.total_batch_size, settings.peak_lr, record["evaluations"]))
        return {
            "trials": trials,
            "startup_s": min(starts) - began,
            "makespan_s": max(ends) - min(starts),
            "after_s": ended - max(ends),
            "total_s": ended - began,
        }


def _bare_worker(trials: list[tuple[int, float, int]], next_index: Any, ready: Any, go: Any) -> None:
    torch.set_num_threads(1)
    data = load()
    BareTrial(data, 16, 0.08).run(1)
    ready.release()
    go.wait()
    while True:
        with next_index.get_lock():
            index = next_index.value
            next_index.value += 1
        if index >= len(trials):
            return
        tbs, lr, evaluations = trials[index]
        BareTrial(data, tbs, lr).run(evaluations)


def run_bare(trials: list[tuple[int, float, int]], slots: int) -> float:
    """(a): the same trials, longest first, in warm processes; seconds from the start signal to the last end."""
    context = multiprocessing.get_context("spawn")
    order = sorted(trials, key=lambda t: -t[2])
    next_index, ready, go = context.Value("i", 0), context.Semaphore(0), context.Event()
    processes = [context.Process(target=_bare_worker, args=(order, next_index, ready, go)) for _ in range(slots)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def ray_train_overhead(trials: int = 3) -> list[float]:
    """(c): wall time of a TorchTrainer trial inside Tune minus the seconds of its own training loop."""
    script = Path(__file__).with_name("ray_train_pattern.py")
    out = subprocess.run([sys.executable, str(script), str(trials)], check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def throughput(repeats: int, block_s: float = 0.1) -> None:
    """Examples per CPU second of the harness's update and of (a) and (d), one thread, in short alternating blocks."""
    torch.set_num_threads(1)
    data = load()
    print(f"examples per CPU second of one thread; medians (middle half) over {20 * repeats} paired blocks")
    print(f"{'TBS':>5} {'harness':>10} {'(a) bare':>10} {'(d) plain':>10} {'harness/(a)':>20} {'harness/(d)':>20}")
    for tbs in SIZES:
        learner = harness_learner(tbs)
        learner.warm_up()
        stream = (step for first in count(0, 512 // tbs) for step in learner.micro_batches(first, first + 512 // tbs))
        updates = {
            "harness": lambda learner=learner, stream=stream: learner.update(*next(stream)),
            "bare": BareTrial(data, tbs, 0.08).update,
            "plain": BareTrial(data, tbs, 0.08, plain=True).update,
        }
        times: dict[str, list[float]] = {name: [] for name in updates}
        n = max(4, int(block_s / min(cpu_seconds_per_update(updates["bare"], 3) for _ in range(10))))
        for _ in range(20 * repeats):
            for name, update in updates.items():
                times[name].append(cpu_seconds_per_update(update, n))
        cells = [f"{tbs / statistics.median(values):>10,.0f}" for values in times.values()]
        for name in ("bare", "plain"):
            ratios = [other / ours for other, ours in zip(times[name], times["harness"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{f'{middle:.3f} ({low:.2f}-{high:.2f})':>20}")
        print(f"{tbs:>5} {' '.join(cells)}", flush=True)


def harness_learner(tbs: int) -> Learner:
    """The embedded workload's learner at one total batch size, built as by the trainer."""
    from harness.config.build import build_workload
    from harness.config.compose import compose_config

    workload = build_workload(compose_config(["+experiment=tbs_sweep"]), 1024)
    topology = Topology(plan_batch(tbs, 1, span_examples=16))
    splits = instantiate(workload.dataset).load()
    return Learner(workload.arm("none", tbs).settings, 0, topology, World(0, 1, torch.device("cpu")), splits)


if __name__ == "__main__":
    main()
