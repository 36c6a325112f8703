"""Experiments of one round at the smallest size: overrides, and what a finished study of one must have."""

from pathlib import Path

TINY = [
    "tracking=disabled",
    "seeds=[0]",
    "cluster.workers_per_trial=2",
    "question.total_batch_sizes=[256]",
    "workload.budget={epochs: 1}",
    "cluster.timing_min_steps=2",
    "cluster.timing_min_s=0",
]
SHORT = ["question.updates=10", "question.evaluations=10"]
RUNS = {
    "lr_range_test": [*SHORT, "question.ramp=linear"],
    "momentum_range_test": SHORT,
    "momentum_search": ["question.momenta=[0.8,0.9,0.95]"],
    "lr_grid": ["question.lrs=[0.1,0.3,1.0]"],
    "fixed_budget": ["question.total_batch_sizes=[128,256]", "question.epochs_at_smallest=0.5", "lr_scaling=linear"],
    "cyclical": [],
    "one_cycle": [],
    "beta_scaling": [],
    "beta2_scaling": [
        "question.total_batch_sizes=[32]",
        "workload.budget={examples: 1024}",
        "schedule.warmup={examples: 512}",
    ],
    "bn_span": [],
    "bn_statistics": [],
    "ema": [],
    "warmup": ["workload.budget={epochs: 4}"],
    "weight_decay_timescale": [],
    "base_lr_sensitivity": ["question.factors=[1.0,2.0]", "lr_scaling.rules=[sqrt,linear]"],
    "split_check": ["question.split_seeds=[0,1]"],
}


def concludes(folder: Path) -> None:
    """A study all of whose trials ran on two workers has its tables and its page."""
    topologies = {path.parent.name for path in folder.glob("trials/*/*/record.json")}
    assert topologies
    assert all("-w2-" in topology for topology in topologies)
    assert list(folder.glob("tables/*.csv"))
    assert "</h2>" in (folder / "report.html").read_text()
