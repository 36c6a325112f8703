"""Everything of the training core that only a GPU can show, in two calls of at most 4 minutes each.

    python benchmarks/gpu_check.py --parts correct
    python benchmarks/gpu_check.py --parts speed
    python benchmarks/gpu_check.py --device cpu        # a dry run of this script itself, tiny, where there is no GPU

Needs one GPU, torch and numpy; no Ray, Hydra or W&B. `--parts` takes names of parts too, such as resume,memory. Each
part is a process of its own with a time limit, so that one that hangs or crashes costs only itself; parts that no time
is left for are named. A line that begins with FAIL is a fault, SLOW misses a goal of docs/gpu.md, NOTE is a number to
look at. Everything goes to OUT/gpu_check.json; the measured updates are printed as a table for docs/gpu.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Seconds after which a part is stopped. What matters most comes first, as the budget may end before the list.
CALLS = {
    "correct": {
        "env": 30,
        "door": 60,
        "correctness": 90,
        "resume": 60,
        "precision": 50,
        "memory": 50,
        "syncs": 50,
        "nccl": 60,
    },
    "speed": {"updates": 130, "timing": 60, "evaluation": 50, "streaming": 40, "compiled": 120},
}
LIMITS = {part: seconds for parts in CALLS.values() for part, seconds in parts.items()}
DRY_FACTOR = 5  # a dry run may share a slow CPU
LEAST_S = 10.0  # a part is not begun with less


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(CALLS), help=f"{', '.join(CALLS)}, or some of {', '.join(LIMITS)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_check_out")))
    parser.add_argument("--budget-s", type=float, help="of all parts; default 235, and 1800 on a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # this process is that part
    options = parser.parse_args()
    if options.part:
        report(options.part, options.device, options.out / "scratch" / options.part)
        return 0
    names = [name for word in options.parts.split(",") for name in CALLS.get(word, {word: 0})]
    if unknown := [name for name in names if name not in LIMITS]:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join([*CALLS, *LIMITS])}")
    budget_s = options.budget_s or (235.0 if options.device == "cuda" else 1800.0)
    options.out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), list[dict[str, Any]]()
    for name in names:
        left = budget_s - (time.monotonic() - began)
        if left < LEAST_S:
            print(f"[{name}] left out: no time is left", flush=True)
            found.append({"part": name, "verdict": "NOTE", "line": "left out: no time was left"})
            continue
        limit = min(left, LIMITS[name] * (1 if options.device == "cuda" else DRY_FACTOR))
        start = time.monotonic()
        for row in run_part(name, options.device, options.out, limit):
            found.append(row)
            print(f"[{name}] {row['verdict']} {row['line']}", flush=True)
        print(f"[{name}] {time.monotonic() - start:.0f} s", flush=True)
        (options.out / "gpu_check.json").write_text(json.dumps(found, indent=1))
    shutil.rmtree(options.out / "scratch", ignore_errors=True)
    return summary(found, options.device, time.monotonic() - began)


def report(part: str, device: str, folder: Path) -> None:
    """In a part's own process: print its findings, a JSON line each."""
    import gpu_correct
    import gpu_speed
    from gpu_trials import Lab

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = {function.__name__: function for function in (*gpu_correct.PARTS, *gpu_speed.PARTS)}
    for finding in parts[part](Lab(device, folder)):
        row = {"part": part, "verdict": finding.verdict, "line": finding.line, **finding.numbers}
        print(json.dumps(row), flush=True)


def run_part(name: str, device: str, out: Path, limit_s: float) -> list[dict[str, Any]]:
    """The findings of a part, run in a process of its own; a crash or the end of its time is one of them."""
    command = [sys.executable, "-W", "ignore", __file__, "--part", name, "--out", str(out), "--device", device]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        text, errors = process.communicate(timeout=limit_s)
        end = "" if process.returncode == 0 else f"exit {process.returncode}: {errors.strip()[-1200:]}"
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        end = f"stopped after {limit_s:.0f} s"
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"part"')]
    return [*rows, *([{"part": name, "verdict": "FAIL", "line": end}] if end else [])]


def summary(found: list[dict[str, Any]], device: str, seconds: float) -> int:
    """Print the table and what failed; the exit code."""
    if any("case" in row for row in found):
        from gpu_speed import table

        card = next((row["device"] for row in found if row["part"] == "env" and "device" in row), None)
        print(f"\n{table(found, card or card_name(device))}\n")
    counts = {verdict: sum(row["verdict"] == verdict for row in found) for verdict in ("ok", "NOTE", "SLOW", "FAIL")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), f"in {seconds:.0f} s")
    return 1 if counts["FAIL"] else 0


def card_name(device: str) -> str:
    import torch

    from harness.train.machine import machine

    here = machine(torch.device(device, 0) if device == "cuda" else torch.device("cpu"))
    return ", ".join(filter(None, [here.device, here.driver and f"driver {here.driver}", f"torch {here.torch}"]))


if __name__ == "__main__":
    sys.exit(main())
