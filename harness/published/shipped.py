"""Tables of published numbers that are shipped with the harness, each with its source."""

from dataclasses import dataclass
from pathlib import Path

from harness.plan.target import Target

TABLES = Path(__file__).parent / "tables"
RCP = "mlcommons/logging, mlperf_logging/rcp_checker, commit 7bbf792 (Apache-2.0); targets: mlcommons/training_policies"


@dataclass(frozen=True)
class Shipped:
    """One table and how to read it."""

    file: str
    what: str
    source: str
    only: str | None = None  # one benchmark of a file with several
    target: Target | None = None  # of evaluations and final metrics, unless another is given
    batch_size: int | None = None
    is_reference: bool = False  # not a cost over TBS: shown as published


SHIPPED = {
    "smith2018": Shipped(
        "smith2018_fig6.csv",
        "ResNet-56 on CIFAR-10: epochs that fit into about 26 minutes at each TBS",
        "Smith 2018 (arXiv 1803.09820), section 4.2 and Figure 6, as transcribed by two readers",
    ),
    "smith2018_log": Shipped(
        "smith2018_resnet56_tbs512_log.csv",
        "the archived run at TBS 512: test accuracy every 200 updates",
        "lnsmith54/hyperParam1, Cifar/results/gResnet56_ResTBS512",
        target=Target("accuracy", 0.9, "max", confirm=1),
        batch_size=512,
    ),
    "mlperf_resnet": Shipped("mlperf_rcp_runs.json", "ResNet-50 v1.5 on ImageNet (4.0), every run", RCP, only="resnet"),
    "mlperf_bert": Shipped("mlperf_rcp_runs.json", "BERT (5.1), every run", RCP, only="bert"),
    "mlperf_llama31_8b": Shipped("mlperf_rcp_runs.json", "Llama 3.1 8B (6.1), every run", RCP, only="llama31_8b"),
    "mlperf_means": Shipped("mlperf_rcp_means.csv", "olympic means of 19 benchmarks", f"computed from {RCP}"),
    "nanogpt_80": Shipped(
        "nanogpt_80_final_val_losses.csv",
        "final validation losses of 80 runs of one recipe",
        "KellerJordan/modded-nanogpt, records/track_1_short/2025-01-04_SoftCap, commit f411b3d",
        target=Target("final_val_loss", 3.28, "min", confirm=1),
    ),
    "goyal2017": Shipped(
        "goyal2017.csv",
        "ResNet-50 on ImageNet, 90 epochs: top-1 error by LR rule and warm-up",
        "Goyal et al. 2017 (arXiv 1706.02677), tables as transcribed by three readers",
        is_reference=True,
    ),
    "shallue2019_goals": Shipped(
        "shallue2019_goals.csv",
        "goals of steps-to-result, with trials per batch size",
        "Shallue et al. 2019 (arXiv 1811.03600), batch_science/reproduce_paper_plots.ipynb",
        is_reference=True,
    ),
    "mccandlish2018": Shipped(
        "mccandlish2018_table1.csv",
        "critical batch size and simple noise scale, averages over a run",
        "McCandlish et al. 2018 (arXiv 1812.06162), Table 1, as transcribed",
        is_reference=True,
    ),
}
