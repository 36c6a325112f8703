"""Models of torchvision and timm are trained by name alone; stand-ins where the packages are not installed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import library_models
import pytest
import torch
from omegaconf import OmegaConf
from small_trials import NEVER, SMALL, events, task

from harness.commands.train import main
from harness.plan.instantiate import instantiate
from harness.plan.settings import Averaging, BatchNorm, Settings
from harness.record.files import write_json

CONF = Path(__file__).parents[2] / "conf" / "model"
IMAGES = {
    "_target_": "harness.datasets.synthetic_images.SyntheticImages",
    "size": 32,
    "train": 64,
    "validation": 8,
    "test": 8,
}
GHOST = BatchNorm("ghost", span_examples=4, statistics_examples=8)
NONE = BatchNorm()


def conf(name: str) -> dict[str, Any]:
    """The file conf/model/<name>.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


TORCHVISION = {"_target_": "torchvision.models.resnet50", "weights": None, "num_classes": 1000}
# spec, its published number of parameters, its own arguments that make it small, its batch norm
MODELS = {
    "torchvision": (TORCHVISION, 25_557_032, {"num_classes": 10, "width_per_group": 4}, GHOST),
    "timm resnet50": (conf("resnet50_imagenet"), 25_557_032, {"num_classes": 10, "base_width": 4}, GHOST),
    "timm vit_s16": (conf("vit_s16"), 22_050_664, {"num_classes": 10, "img_size": 32, "depth": 1}, NONE),
}


@pytest.fixture(autouse=True)
def libraries(monkeypatch, worker):
    """The worker only for its one thread."""
    library_models.install(monkeypatch)


def door(folder: Path, settings: Settings) -> int:
    """Exit code of `python -m harness.train trial.json`."""
    write_json(folder / "trial.json", task(folder, settings, accumulation=2).to_json())
    return main([str(folder / "trial.json")])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_a_library_has_the_published_size_and_is_trained_by_its_name(name, tmp_path, capsys):
    spec, parameters, small, batch_norm = MODELS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in instantiate(spec).parameters()) == parameters
    settings = replace(
        SMALL,
        dataset=IMAGES,
        model={**spec, **small},
        total_batch_size=8,
        train_examples=64,
        target=NEVER,
        budget_examples=16,
        evaluate_every_examples=16,
        batch_norm=batch_norm,
        averaging=Averaging(),
    )
    assert door(tmp_path, settings) == 0
    (row,) = (row for row in events(tmp_path) if row["kind"] == "evaluation")
    assert 0 < row["train_loss"] < 100
    assert row["diagnostics"]["gradient_norm"] > 0
    capsys.readouterr()
    if batch_norm is GHOST:  # nobody trains a library's batch norm without having said over what
        (tmp_path / "none").mkdir()
        assert door(tmp_path / "none", replace(settings, batch_norm=NONE)) == 2
        assert capsys.readouterr().err.startswith(
            "error: the model has batch norm but workload.batch_norm.span is none"
        )
