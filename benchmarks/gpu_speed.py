"""Parts of gpu_check.py that measure: updates against loops by hand, the timing pass, evaluation, streaming."""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gpu_bare import Bare, BareLoop, Update
from gpu_trials import (
    GPT,
    TEXT,
    Finding,
    Lab,
    evaluated,
    extremes,
    forget,
    judged,
    named,
    resident,
    run,
    variants,
)

from harness.datasets.examples import Splits
from harness.datasets.images import ImageExamples, Normalisation, StreamedImages
from harness.plan.execution import Speed
from harness.plan.settings import BatchNorm
from harness.plan.timing import RoundLimits
from harness.train.clock import device_wait
from harness.train.learner import Learner
from harness.train.world import World

GOAL, GOAL_OF_PLAIN, SMALL = 0.98, 1.5, 128  # of the tuned loop; of the plain one at TBS 128 and below
CASES = [(name, tbs) for tbs in (128, 512, 2048) for name in ("resnet20", "resnet18")]
CASES = [*CASES[:2], ("gpt", 64), *CASES[2:4], ("gpt", 512), *CASES[4:]]  # what matters most comes first
LOOPS = (Bare(tuned=False), Bare(), Bare(channels_last=True), Bare(channels_last=True, graph=True))
COMPILED_CASES = [("resnet20", 128), ("gpt", 64)]
COMPILED_LOOPS = (
    Bare(channels_last=True, compile_mode="default"),
    Bare(channels_last=True, compile_mode="reduce-overhead"),
)
CHUNK = 200  # updates whose examples are drawn at once, as between two polls of a trial
BLOCKS = 5


def updates(lab: Lab) -> Iterator[Finding]:
    """Every option of Speed but compile, against loops by hand without it."""
    cases = CASES if lab.is_gpu else [("resnet20", 32), ("gpt", 8)]
    loops = LOOPS if lab.is_gpu else LOOPS[:2]
    for name, tbs in cases:
        made = lab.settings(name, tbs)
        yield from _compare(lab, name, tbs, loops, list(variants(made, lab.topology(made, lab.half))))


def compiled(lab: Lab) -> Iterator[Finding]:
    """The same through torch.compile."""
    loops = COMPILED_LOOPS if lab.is_gpu else (Bare(compile_mode="default"),)
    for name, tbs in COMPILED_CASES if lab.is_gpu else [("gpt", 8)]:
        made = lab.settings(name, tbs)
        found = extremes(variants(made, lab.topology(made, lab.half)))
        ours = [(named(both), both) for _, speed in found for both in [Speed(**{**vars(speed), "compile": True})]]
        yield from _compare(lab, name, tbs, loops, ours if lab.is_gpu else ours[:1])


def _compare(
    lab: Lab, name: str, tbs: int, loops: Sequence[Bare], speeds: Sequence[tuple[str, Speed]]
) -> Iterator[Finding]:
    """A finding for every loop by hand, then one for every variant of the harness, each in seconds an update."""
    made, seconds, wait = lab.settings(name, tbs), 0.8 if lab.is_gpu else 0.05, device_wait(lab.where)
    case, by_hand = f"{name} TBS {made.total_batch_size}", dict[str, float]()
    for how in loops:
        if how.channels_last and name == "gpt":
            how = Bare(how.tuned, False, how.graph, how.compile_mode)
        if how.label in by_hand:
            continue
        torch.backends.cudnn.benchmark = how.tuned
        try:
            loop = BareLoop(made, resident(made, lab.where)[0], lab.half, how)
            by_hand[how.label] = _measured(loop.recorded() if how.graph else loop.update, seconds, wait)
        except Exception as error:  # a loop that torch cannot run costs its own line only
            yield Finding("NOTE", f"{case}, loop by hand, {how.label}: {type(error).__name__} {str(error)[:160]}")
            continue
        finally:
            loop = None
            torch.backends.cudnn.benchmark = False
            torch._dynamo.reset()
            forget()
        step_s = by_hand[how.label]
        numbers = {"case": case, "loop": how.label, "step_s": step_s}
        yield Finding("NOTE", f"{case}, loop by hand, {how.label}: {step_s * 1e3:.3f} ms an update", numbers)
    best, plain = min(by_hand.values(), default=float("nan")), by_hand.get("plain")
    for label, how in speeds:
        try:
            step_s = _measured(_updates(lab.learner(made, lab.half, how)), seconds, wait)
        except Exception as error:  # as above
            yield Finding("FAIL", f"{case}, harness, {label}: {type(error).__name__} {str(error)[:300]}")
            continue
        finally:
            forget()
        rates = f"{made.total_batch_size / step_s:,.0f} examples/s, {best / step_s:.2f} of the best loop by hand"
        rates += f", {plain / step_s:.2f} of the plain one" if plain else ""
        is_fast = step_s <= best / GOAL and (plain is None or tbs > SMALL or step_s <= plain / GOAL_OF_PLAIN)
        verdict = "NOTE" if not lab.is_gpu else "ok" if is_fast else "SLOW"
        numbers = {"case": case, "speed": label, "step_s": step_s, "examples_per_s": made.total_batch_size / step_s}
        yield Finding(verdict, f"{case}, harness, {label}: {step_s * 1e3:.3f} ms an update, {rates}", numbers)


def _updates(learner: Learner) -> Update:
    def steps() -> Iterator[tuple[int, torch.Tensor]]:
        at = 0
        while True:
            yield from learner.micro_batches(at, at + CHUNK)
            at += CHUNK

    stream = steps()

    def update() -> None:
        learner.update(*next(stream))

    return update


def _measured(update: Update, seconds: float, wait: Callable[[], None]) -> float:
    """Seconds an update: the median of BLOCKS blocks that together take about `seconds`."""
    for _ in range(BLOCKS):
        update()
    wait()
    count = max(1, int(seconds / BLOCKS / _block(update, 3, wait)))
    gc.collect()
    return statistics.median(_block(update, count, wait) for _ in range(BLOCKS))


def _block(update: Update, count: int, wait: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(count):
        update()
    wait()
    return (time.perf_counter() - began) / count


def timing(lab: Lab) -> Iterator[Finding]:
    """Whether the timing pass (30 updates and 1 s) gives the seconds of a longer one, also after an idle pause."""
    if importlib.util.find_spec("psutil") is None:
        yield Finding("NOTE", "the timing pass needs psutil, which is not installed")
        return
    worker, short = lab.worker(), RoundLimits.of_pass(30, 1.0, 60.0) if lab.is_gpu else RoundLimits(3, 0.01, 1.0)
    long = RoundLimits(100, 2.0, 60.0) if lab.is_gpu else RoundLimits(6, 0.02, 1.0)
    for name, tbs in (("resnet20", 128), ("resnet18", 512), ("gpt", 64)) if lab.is_gpu else (("resnet20", 32),):
        order = lab.task(name, lab.settings(name, tbs), lab.half)
        worker.time_rounds(order, long, 1)
        time.sleep(4.0 if lab.is_gpu else 0.1)  # the clocks fall
        medians = [
            statistics.median(found.step_s for found in worker.time_rounds(order, limits, 3))
            for limits in (short, long)
        ]
        ratio = medians[0] / medians[1]
        line = f"{name} TBS {tbs}: timing pass {medians[0] * 1e3:.3f} ms, 6 s of updates {medians[1] * 1e3:.3f} ms"
        yield judged(0.97 < ratio < 1.03 or not lab.is_gpu, f"{line}: ratio {ratio:.3f}", ratio=ratio)


def evaluation(lab: Lab) -> Iterator[Finding]:
    """GPT-2 small (on a CPU: a tiny one) with the default evaluation batch, and with a small one."""
    shape = {"vocabulary": 50257, "context": 1024, "depth": 12, "width": 768, "heads": 12}
    model = {**GPT, **(shape if lab.is_gpu else {"depth": 1, "width": 32})}
    count = 1024 if lab.is_gpu else 32
    text = {**TEXT, "context": model["context"], "train": max(count, 64), "validation": count, "test": 8}
    made = lab.settings("gpt", 8, updates=1, every=1, model=model, dataset=text)
    for size in (1024, 16):
        worker = lab.worker()
        try:
            rows = run(worker, lab.task(f"e{size}", made, lab.half, evaluation_batch_size=size))
        except torch.OutOfMemoryError as error:
            yield Finding("FAIL", f"evaluation_batch_size={size}: {str(error)[:160]}")
            continue
        finally:
            worker.stop()
            forget()
        took, peak = evaluated(rows, "clock")[-1]["evaluate_s"], evaluated(rows, "memory_peak_bytes")[-1]
        line = f"GPT of {model['depth']} layers, {2 * count} blocks, evaluation_batch_size={size}: {took:.2f} s"
        yield Finding("ok", f"{line}, peak {peak / 2**30:.1f} GiB", {"evaluate_s": took})


def streaming(lab: Lab) -> Iterator[Finding]:
    """Images that stay in a mapped file, against the same ones on the device."""
    size, side, tbs = (4096, 224, 256) if lab.is_gpu else (64, 32, 32)
    path = lab.folder / "images.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (size, 3, side, side))
    array[:] = np.random.default_rng(0).integers(0, 255, (1, 3, side, side), dtype=np.uint8)
    array.flush()
    images, targets = torch.from_numpy(np.load(path, mmap_mode="c")), torch.arange(size) % 10
    normalise = Normalisation(torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 60.0))
    sources: dict[str, Any] = {
        "mapped": StreamedImages(images, torch.arange(size), targets, normalise),
        "resident": ImageExamples(images, targets, normalise),
    }
    name, group = ("resnet18", 32) if lab.is_gpu else ("resnet20", 8)
    dataset = {"_target_": "unused", "train": size}
    made = lab.settings(name, tbs, dataset=dataset, batch_norm=BatchNorm("ghost", group, statistics_examples=group))
    threads, rates = torch.get_num_threads(), dict[str, float]()
    wait, count = device_wait(lab.where), 8 if lab.is_gpu else 2
    for kind, source in sources.items():
        examples = source.to(lab.where, torch.float32)
        splits = Splits(examples, examples, examples, "random")
        learner = Learner(made, 0, lab.topology(made, lab.half), World(0, 1, lab.where), splits)
        learner.warm_up()
        for step, drawn in learner.micro_batches(0, 4):
            learner.update(step, drawn)
        wait()
        learner.loader.read_waited_s()
        seconds = count * _block(_updates(learner), count, wait)
        rates[kind] = count * made.total_batch_size / seconds
        waited = learner.loader.read_waited_s() / seconds
        yield Finding("NOTE", f"{name} at {side} px, {kind}: {rates[kind]:,.0f} images/s, waited for data {waited:.0%}")
    ratio = rates["mapped"] / rates["resident"]
    line = f"streamed by {threads} CPUs = {ratio:.2f} of resident"
    yield Finding("ok" if ratio > 0.95 or not lab.is_gpu else "SLOW", line, {"ratio": ratio})


PARTS = (updates, timing, evaluation, streaming, compiled)


def table(rows: Sequence[dict[str, Any]], card: str) -> str:
    """The measured updates as Markdown: a row for every case, with the fastest loop and the fastest variant."""
    titles = ("case", "plain loop, ms", "fastest loop by hand, ms", "harness as it is, ms", "fastest harness, ms")
    titles = (*titles, "examples/s", "of the fastest loop", "of the plain loop")
    lines = [f"{card}:", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for case in dict.fromkeys(row["case"] for row in rows if "case" in row):
        of_case = [row for row in rows if row.get("case") == case]
        loops = {row["loop"]: row["step_s"] for row in of_case if "loop" in row}
        ours = {row["speed"]: row["step_s"] for row in of_case if "speed" in row}
        if not loops or not ours:
            continue
        loop, best = min(loops, key=loops.__getitem__), min(ours, key=ours.__getitem__)
        plain, examples_per_s = loops.get("plain"), max(row.get("examples_per_s", 0.0) for row in of_case)
        cells = [
            case,
            _ms(plain),
            f"{_ms(loops[loop])} ({loop})",
            _ms(ours.get("eager")),
            f"{_ms(ours[best])} ({best})",
            f"{examples_per_s:,.0f}",
            f"{loops[loop] / ours[best]:.2f}",
            f"{plain / ours[best]:.2f}" if plain else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"
