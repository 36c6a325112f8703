"""Short trials whose numbers are kept: digits, a GPT, every optimizer, and what else makes numbers in its own way.

They are trial.json files as version 0.1.0 writes them, run by `harness train`: the same file runs under another
version's package too (compare_commits.py does that), so it uses nothing else of ours.

    python tests/golden/golden_trials.py FOLDER     # numbers of the package that Python finds, as JSON on stdout
"""

import contextlib
import io
import json
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What differs between two runs of one trial, or is no number of the training.
NOT_NUMBERS = {
    "clock",
    "examples_per_s",
    "loader_fraction",
    "startup_s",
    "memory_peak_bytes",
    "machine",
    "attempt",
    "schema",
    "crc32",
}

# As conf/optimizer has them, each with an LR at which it trains the small GPT.
OPTIMIZERS: Mapping[str, dict[str, Any]] = {
    "adadelta": {"_target_": "torch.optim.Adadelta", "lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
    "adagrad": {
        "_target_": "torch.optim.Adagrad",
        "lr": 0.01,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "weight_decay": 0.0,
    },
    "adam": {"_target_": "torch.optim.Adam", "lr": 0.003, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 0.003, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
    "lamb": {
        "_target_": "harness.optimizers.lamb.LAMB",
        "lr": 0.01,
        "betas": [0.9, 0.999],
        "eps": 1e-6,
        "weight_decay": 0.01,
        "adapt_norms_and_biases": False,
    },
    "lars": {
        "_target_": "harness.optimizers.lars.LARS",
        "lr": 10.0,
        "momentum": 0.9,
        "weight_decay": 5e-5,
        "trust_coefficient": 0.001,
        "adapt_norms_and_biases": False,
    },
    "muon": {
        "_target_": "harness.optimizers.muon.Muon",
        "lr": 0.003,
        "momentum": 0.95,
        "weight_decay": 0.1,
        "adjust_lr_fn": "match_rms_adamw",
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "adamw_names": None,
    },
    "nadam": {
        "_target_": "torch.optim.NAdam",
        "lr": 0.002,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "momentum_decay": 0.004,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
    },
    "nesterov": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": True},
    "rmsprop": {
        "_target_": "torch.optim.RMSprop",
        "lr": 0.003,
        "alpha": 0.99,
        "eps": 1e-8,
        "momentum": 0.0,
        "centered": False,
        "weight_decay": 0.0,
    },
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False},
}


def settings(**changes: Any) -> dict[str, Any]:
    """The settings of digits_bn_cnn at TBS 64 under linear scaling, with `changes`; 8 updates, two evaluations."""
    return {
        "dataset": {
            "_target_": "harness.datasets.digits.Digits",
            "train": 1024,
            "validation": 386,
            "test": 387,
            "split_seed": 0,
        },
        "model": {"_target_": "harness.models.bn_cnn.BnCnn", "in_channels": 1, "classes": 10},
        "loss": "cross_entropy",
        "optimizer": {**OPTIMIZERS["sgd"], "lr": 0.32},
        "schedule": {
            "_target_": "harness.plan.schedules.Constant",
            "warmup": 4,
            "warmup_shape": "linear",
            "warmup_start": 0.0,
        },
        "total_batch_size": 64,
        "train_examples": 1024,
        "target": {"metric": "accuracy", "value": 2.0, "mode": "max", "confirm": 2},  # never reached
        "budget_examples": 512,
        "evaluate_every_examples": 256,
        "batch_norm": {
            "span": "ghost",
            "span_examples": 16,
            "statistics": "reestimated",
            "statistics_examples": 256,
            "half_life_examples": 0.0,
        },
        "averaging": {"half_life_examples": 256.0, "decide_on": "averaged"},
        "parameter_groups": {"no_decay_on_norms_and_biases": False, "lr_factors": {}, "frozen": []},
        "clip_norm": None,
        "noise_scale": {"in_training": False, "frozen_every_examples": 0, "frozen_units": 0},
        "stop_at_target": True,
        "adascale_ratio": 0,
        "start": None,
        "keep_at_examples": [],
        **changes,
    }


def gpt(tokens: Path, depth: int, optimizer: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A GPT on blocks of 32 tokens at TBS 16."""
    dataset = {"_target_": "harness.datasets.token_shards.TokenShards", "context": 32}
    model = {"_target_": "harness.models.gpt.GPT", "vocabulary": 64, "context": 32, "depth": depth, "width": 32}
    return settings(
        dataset={
            **dataset,
            "train": 256,
            "validation": 32,
            "test": 32,
            "folder": str(tokens),
            "root": str(tokens / "digests"),
        },
        model={**model, "heads": 4},
        optimizer=dict(optimizer),
        total_batch_size=16,
        train_examples=256,
        target={"metric": "loss", "value": 0.0, "mode": "min", "confirm": 2},
        budget_examples=128,
        evaluate_every_examples=64,
        batch_norm={**settings()["batch_norm"], "span": "none", "span_examples": 1, "statistics_examples": 0},
        averaging={"half_life_examples": 32.0, "decide_on": "averaged"},
        **changes,
    )


def golden_trials(tokens: Path) -> dict[str, dict[str, Any]]:
    """Name -> settings of every golden trial, on digits and on the shards in `tokens` (see write_tokens)."""
    annealed = {"_target_": "harness.plan.horizons.OneCycle", "horizon": 8, "rise": 4, "annihilate": 2}
    images = {"_target_": "harness.datasets.synthetic_images.SyntheticImages", "classes": 10, "size": 16, "noise": 4.0}
    running = {**settings()["batch_norm"], "statistics": "running", "half_life_examples": 64.0}
    return {
        "digits": settings(),
        # LR and momentum in one cycle, clipped, norms without decay, accumulated, noise scale measured.
        "digits_one_cycle": settings(
            schedule={**annealed, "max_momentum": 0.95, "min_momentum": 0.85},
            optimizer={**OPTIMIZERS["nesterov"], "lr": 0.32, "weight_decay": 0.001},
            clip_norm=1.0,
            parameter_groups={"no_decay_on_norms_and_biases": True, "lr_factors": {"head.*": 0.5}, "frozen": []},
            noise_scale={"in_training": True, "frozen_every_examples": 256, "frozen_units": 16},
        ),
        "digits_adascale": settings(adascale_ratio=4),
        "digits_running_batch_norm": settings(
            batch_norm=running, averaging={"half_life_examples": 0.0, "decide_on": "raw"}
        ),
        "images_resnet": settings(
            dataset={**images, "train": 1024, "validation": 64, "test": 64, "data_seed": 0},
            model={
                "_target_": "harness.models.resnet.CifarResNet",
                "depth": 8,
                "in_channels": 3,
                "classes": 10,
                "init": "he",
                "zero_gamma": True,
            },
            budget_examples=256,
            evaluate_every_examples=128,
        ),
        "gpt": gpt(tokens, 2, OPTIMIZERS["adamw"], clip_norm=1.0),
        **{f"optimizer_{name}": gpt(tokens, 1, optimizer) for name, optimizer in OPTIMIZERS.items()},
    }


def write_tokens(folder: Path) -> None:
    """Shards of tokens 0 ... 63 that repeat themselves after a fashion, by a generator that no library can change."""
    state, tokens = 1, []
    for _ in range(16384):
        state = (state * 1103515245 + 12345) % 2**31
        tokens.append((tokens[-1] * 7 + 3) % 64 if tokens and (state >> 16) % 4 else (state >> 20) % 64)
    for name, part in (("train.bin", tokens[:12288]), ("val.bin", tokens[12288:])):
        numbers = array("H", part)
        if sys.byteorder == "big":
            numbers.byteswap()
        (folder / name).write_bytes(numbers.tobytes())


def run_golden_trials(folder: Path, precision: str) -> dict[str, dict[str, Any]]:
    """Name -> `trial_id` and `rows` (evaluations and the record, without times) of every golden trial."""
    folder.mkdir(parents=True)
    write_tokens(folder)
    trials = golden_trials(folder)
    return {name: run_trial(folder / str(i), wanted, precision) for i, (name, wanted) in enumerate(trials.items())}


def run_trial(folder: Path, wanted: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """One trial with seed 1 on one CPU worker, its batch in 4 micro-batches where the settings need several."""
    from harness.plan.settings import Settings
    from harness.plan.trial import Arm, Trial
    from harness.train.__main__ import main

    micro = 4 if wanted["adascale_ratio"] or wanted["noise_scale"]["in_training"] else 1
    size = wanted["total_batch_size"]
    batch = {
        "total_batch_size": size,
        "per_device_batch_size": size // micro,
        "world_size": 1,
        "gradient_accumulation_steps": micro,
    }
    trial_id = Trial(Arm("", "", "", 1, 1.0, Settings.from_json(wanted)), 1).trial_id
    key = f"cpu-w1-b{size // micro}-a{micro}-{precision}"
    topology = {"key": key, "batch": batch, "device": "cpu", "precision": precision}
    folder.mkdir()
    trial = {"trial_id": trial_id, "seed": 1, "topology": topology, "settings": wanted}
    (folder / "trial.json").write_text(json.dumps(trial))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(folder / "trial.json")])
    if code:
        raise RuntimeError(f"{wanted['optimizer']}: exit code {code}\n{printed.getvalue()}")
    lines = (folder / "events.1.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "evaluation"]
    record = json.loads((folder / "record.json").read_text())
    return {"trial_id": trial_id, "rows": [without_times(row) for row in (*rows, record)]}


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in NOT_NUMBERS}


def package_fingerprint() -> str:
    """Of the packages that make numbers, as studies of this version store it."""
    try:
        from harness.record.code_fingerprint import code_fingerprint
    except ImportError:  # up to commit ffbf2ab
        from harness.record.provenance import code_fingerprint  # pyright: ignore[reportAttributeAccessIssue]
    made = code_fingerprint([])
    return made if isinstance(made, str) else str(made["harness"])


if __name__ == "__main__":
    place = Path(sys.argv[1])
    runs = {precision: run_golden_trials(place / precision, precision) for precision in ("float32", "float64")}
    print(json.dumps({"fingerprint": package_fingerprint(), "runs": runs}))
