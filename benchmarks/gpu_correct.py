"""Parts of gpu_check.py that ask whether a GPU computes what a CPU does, and what trials leave behind."""

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from gpu_trials import MODELS, Finding, Lab, Rows, evaluated, extremes, forget, judged, run, variants
from torch.multiprocessing.spawn import spawn

from harness.launch.gang import ProcessGang
from harness.train.doctor import (
    ROUNDING_OF,
    check_determinism,
    check_resume,
    evaluations,
    largest_difference,
)
from harness.train.machine import machine
from harness.train.worker import Task, Worker

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SAME = 1e-9  # relative: two ways to compute the same in float64
ACROSS = 1e-7  # the same of a GPU and a CPU
HALF = {"tf32": 0.02, "bf16": 0.1, "fp16": 0.1}  # relative, of the loss, from float32


def env(lab: Lab) -> Iterator[Finding]:
    """What this machine is, and that the trainer needs no other library than torch."""
    rooms = "harness.train.__main__, harness.train.doctor, harness.launch.gang"
    others = "('ray', 'hydra', 'omegaconf', 'wandb', 'pooch')"
    code = f"import sys, {rooms}; print([m for m in {others} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    answer = done.stdout.strip() or done.stderr[-300:]
    yield judged(answer == "[]", f"the trainer imports none of ray, hydra and wandb: {answer}")
    here = machine(lab.where)
    versions = ", ".join(f"{name} {value}" for name, value in vars(here).items() if name != "host" and value)
    yield Finding("NOTE", versions, vars(here))
    if lab.is_gpu:
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield judged(all((here.driver, here.cuda, here.cudnn, here.nccl)), f"{gib:.0f} GiB; all versions are known")


def door(lab: Lab) -> Iterator[Finding]:
    """`harness train trial.json` and torchrun with one rank, as a user starts them."""
    order = lab.task("door", lab.settings("resnet20", 256, updates=4), lab.half)
    path = Path(order.folder) / "trial.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(order.to_json()))
    ranks = ["-m", "torch.distributed.run", "--nproc-per-node", "1"]
    for name, words in (("harness train", []), ("torchrun", ranks)):
        command = [sys.executable, *words, "-m", "harness.train", str(path), "--folder", str(lab.folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
        last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
        yield judged(done.returncode == 0, f"{name}: exit {done.returncode}, {last}", stderr=done.stderr[-2000:])


def correctness(lab: Lab) -> Iterator[Finding]:
    """In float64: accumulation, every option of Speed, and a GPU against a CPU give the same updates."""
    worker = lab.worker()
    for name in lab.models:
        made = lab.settings(name, 128, updates=4, every=1)
        base = run(worker, lab.task(f"{name}-1", made, "float64"))
        for accumulation in (2, 4):
            rows = run(worker, lab.task(f"{name}-a{accumulation}", made, "float64", accumulation))
            yield _agree(f"{name} float64, {accumulation} accumulation steps", base, rows, SAME)
        for label, speed in list(variants(made, lab.topology(made, "float64")))[1:]:
            rows = run(worker, lab.task(f"{name}-{label}", made, "float64", **vars(speed)))
            yield _agree(f"{name} float64, {label}", base, rows, SAME)
        if lab.is_gpu:
            short = lab.settings(name, 64, updates=2, every=1)
            on_cpu = run(Worker(0, 1, "cpu", 8), Lab("cpu", lab.folder).task(f"{name}-cpu", short, "float64"))
            on_gpu = run(worker, lab.task(f"{name}-gpu", short, "float64"))
            yield _agree(f"{name} float64, GPU against CPU", on_cpu, on_gpu, ACROSS)
        forget()


def precision(lab: Lab) -> Iterator[Finding]:
    """What half precision and TF32 do to the same updates."""
    worker = lab.worker()
    for name in lab.models:
        made = lab.settings(name, 128, updates=4, every=1)
        losses = evaluated(run(worker, lab.task(f"{name}-f32", made, "float32")), "train_loss")
        for kind, limit in HALF.items() if lab.is_gpu else (("bf16", HALF["bf16"]),):
            rows = run(worker, lab.task(f"{name}-{kind}", made, kind))
            worst = max(abs(a - b) / abs(b) for a, b in zip(evaluated(rows, "train_loss"), losses, strict=True))
            skipped = evaluated(rows, "skipped_updates")[-1]
            line = f"{name} {kind} against float32: loss differs by {worst:.1e}, {skipped} skipped updates"
            yield judged(worst < limit, line, worst=worst)


def resume(lab: Lab) -> Iterator[Finding]:
    """The same seed twice, and stopped and resumed: what the doctor says of it, and how far it is from bit for bit."""
    for name in lab.models:
        made, how = lab.settings(name, 128, updates=4, every=1), {"checkpoint_every_s": 0.0}
        for label, speed in extremes(variants(made, lab.topology(made, lab.half))):
            order = lab.task(f"{name}-{label}", made, lab.half, **how, **vars(speed))
            whole, again = (evaluations(run(lab.worker(), _elsewhere(order, number))) for number in range(2))
            worker = lab.worker()
            worker.start(order)
            resumed = evaluations(worker.advance(0.0) + run(lab.worker(), order))
            is_exact = not lab.is_gpu
            checks = [
                check_determinism(whole, again, is_exact),
                check_resume(whole, resumed, again, is_exact, ROUNDING_OF[lab.half]),
            ]
            apart = largest_difference(whole, again)[0], largest_difference(whole, resumed)[0]
            numbers = dict(zip(("twice", "resumed"), apart, strict=True))
            for check in checks:
                yield judged(check.passed, f"{name} {lab.half} {label}, {check.name}: {check.detail}", **numbers)
            forget()


def memory(lab: Lab) -> Iterator[Finding]:
    """Trials one after another on a warm worker: what stays, what is journalled, what an OOM leaves."""
    if not lab.is_gpu:
        yield Finding("NOTE", "memory needs a GPU")
        return
    worker, left, peaks = lab.worker(), [], []
    for number, tbs in enumerate((2048, 64, 64, 64)):
        rows = run(worker, lab.task(f"m{number}", lab.settings("resnet18", tbs, updates=2, every=1), "bf16"))
        peaks.append(evaluated(rows, "memory_peak_bytes")[-1])
        left.append(torch.cuda.memory_allocated())
    mib = [[f"{value / 2**20:.0f}" for value in values] for values in (peaks, left)]
    yield judged(left[-1] <= left[1] * 1.01, f"MiB allocated after trials at TBS 2048, 64, 64, 64: {mib[1]}")
    yield judged(peaks[1] < peaks[0] / 2, f"their journalled peaks: {mib[0]} MiB")
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(0.05, 0)
    forget()
    try:
        run(worker, lab.task("oom", lab.settings("resnet18", 8192, updates=2, every=1), "float32"))
        yield Finding("NOTE", "no OOM could be provoked")
    except torch.OutOfMemoryError:
        worker.stop()
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    forget()
    after = torch.cuda.memory_allocated()
    line = f"allocated before an OOM {before / 2**20:.0f} MiB, after it {after / 2**20:.0f} MiB"
    yield judged(after <= before + 64 * 2**20, line)
    run(worker, lab.task("after", lab.settings("resnet18", 64, updates=2, every=1), "bf16"))
    yield Finding("ok", "the worker runs the next trial after an OOM")
    order = lab.task("probe", lab.settings("resnet18", 8192, updates=2, every=1), "bf16")
    yield Finding("NOTE", f"largest micro-batch in 8 % of the card: {worker.largest_micro_batch(order, 0.08)} of 8192")
    yield from _packed(lab)


def _packed(lab: Lab) -> Iterator[Finding]:
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    worker = Worker(0, 1, "cuda:0", 4, memory_share=0.1)
    run(worker, lab.task("packed", lab.settings("resnet18", 512, updates=2, every=1), "bf16"))
    kept, held = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    line = f"a trial with a tenth of the GPU leaves {kept / 2**20:.0f} MiB reserved, {held / 2**20:.0f} of them in use"
    yield judged(kept <= held + 256 * 2**20, line)
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


def syncs(lab: Lab) -> Iterator[Finding]:
    """How often an update waits for the device, and how many kernels it launches."""
    if not lab.is_gpu:
        yield Finding("NOTE", "syncs need a GPU")
        return
    for name in MODELS:
        made = lab.settings(name, 256)
        for label, speed in variants(made, lab.topology(made, "bf16")):
            learner = lab.learner(made, "bf16", speed)
            steps = list(learner.micro_batches(0, 10))
            torch.cuda.synchronize()
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                for step, drawn in steps:
                    learner.update(step, drawn, last=step == 9)
                torch.cuda.set_sync_debug_mode("default")
            waits = [w for w in seen if "called a synchronizing" in str(w.message)]
            where = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)
            launched = _launches(lambda learner=learner, steps=steps: [learner.update(s, d) for s, d in steps[:5]]) / 5
            line = f"{name} {label}: {len(waits)} host syncs in 10 updates {dict(where.most_common(5))}"
            yield judged(not waits, f"{line}; {launched:.0f} launches an update", launches=launched)
            del learner
            forget()


def nccl(lab: Lab) -> Iterator[Finding]:
    """Two ranks over gloo on one device against one; on a GPU also NCCL with one rank."""
    for name in ("resnet20", "gpt"):
        made = lab.settings(name, 128, updates=2, every=1)
        one = run(lab.worker(), lab.task(f"{name}-w1", made, "float64"))
        orders = [lab.task(f"{name}-w2a{steps}", made, "float64", steps, world=2) for steps in (1, 2)]
        answer = lab.folder / f"{name}.json"
        spawn(_rank, (str(lab.folder / f"store-{name}"), orders, lab.device, str(answer)), nprocs=2)
        for order, rows in zip(orders, json.loads(answer.read_text()), strict=True):
            yield _agree(f"{name} float64 over gloo, {order.topology.batch}", one, rows, SAME)
    if lab.is_gpu:
        gang = ProcessGang(1, "cuda", 2)  # as per_device_batch_size=auto starts one: a store, NCCL, cuda:0
        gang.start(lab.task("nccl", lab.settings("resnet20", 128, updates=2, every=1), "bf16"))
        rows: Rows = []
        while not rows or rows[-1]["kind"] != "end":
            rows += gang.advance(60.0)
        gang.close()
        yield judged(rows[-1]["kind"] == "end", "a process gang of one rank with NCCL")


def _rank(rank: int, store: str, orders: list[Task], device: str, answer: str) -> None:
    # gloo takes two ranks on one GPU, which NCCL refuses: everything but the wires is the GPU path.
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    worker = Worker(rank, 2, "cuda:0" if device == "cuda" else "cpu", 2)
    rows = [run(worker, order) for order in orders]
    if rank == 0:
        Path(answer).write_text(json.dumps(rows, default=str))
    dist.barrier()
    os._exit(0)


def _agree(what: str, base: Rows, rows: Rows, limit: float) -> Finding:
    worst, place = largest_difference(evaluations(base), evaluations(rows))
    return judged(worst < limit, f"{what}: differs by {worst:.1e} ({place}; limit {limit:.0e})", worst=worst)


def _elsewhere(order: Task, number: int) -> Task:
    return Task(order.trial_id, order.settings, order.seed, order.topology, f"{order.folder}-{number}", order.execution)


def _launches(work: object) -> int:
    from torch.profiler import ProfilerActivity, profile

    assert callable(work)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        work()
        torch.cuda.synchronize()
    calls = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    return sum(event.count for event in seen.key_averages() if event.key.startswith(calls))


PARTS = (env, door, correctness, resume, precision, memory, syncs, nccl)
