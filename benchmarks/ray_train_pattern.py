"""The pattern that Ray documents for tuning with data-parallel trials: TorchTrainer.fit inside a Tune function, W = 2.

Prints a JSON list: the seconds of each trial beyond its own training loop.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_LOG_TO_DRIVER="0", RAY_AIR_NEW_OUTPUT="0", RAY_AUTH_MODE="disabled")

import ray
import ray.train
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

UPDATES, TBS = 64, 64


def train_loop(config: dict) -> None:
    """A few DDP updates of the embedded workload, timed on their own."""
    import torch
    from bare_loop import BareTrial, load
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    trial = BareTrial(load(), TBS // 2, 0.08, plain=True)
    trial.model = prepare_model(trial.model)
    began = time.perf_counter()
    for _ in range(UPDATES):
        trial.update()
    loop_s = time.perf_counter() - began
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["result"]).write_text(str(loop_s))  # Train keeps no metrics without a checkpoint
    ray.train.report({"loop_s": loop_s})


def tune_function(config: dict) -> None:
    began = time.perf_counter()
    result = Path(config["storage"], f"loop_s-{config['number']}")
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"result": str(result)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=config["storage"], name=f"trial-{config['number']}"),
    )
    trainer.fit()
    tune.report({"beyond_s": time.perf_counter() - began - float(result.read_text())})


def main(trials: int) -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    with tempfile.TemporaryDirectory() as storage:
        space = {"number": tune.grid_search(list(range(trials))), "storage": storage}
        tuner = tune.Tuner(
            tune.with_resources(tune_function, {"CPU": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=storage, name="tune", verbose=0),
        )
        results = tuner.fit()
    for error in results.errors:
        raise error
    print(json.dumps([(result.metrics or {})["beyond_s"] for result in results]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
