"""Every conf/dataset file names an existing class, all of its arguments, and the class's own defaults."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.datasets.augment import Augmentation
from harness.plan.instantiate import check_arguments, instantiate, resolve

CONF = Path(__file__).parents[2] / "conf"
FILES = (
    *("cifar10", "cifar100", "image_folder", "lazy_image_folder", "map_style"),
    *("stdlib_text", "synthetic_images", "text_file", "token_shards"),
)


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+dataset={name}", *overrides])
    spec = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(spec, dict)
    return {str(key): value for key, value in spec.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_dataset_file_lists_the_arguments_of_its_class_with_their_defaults(name):
    spec = composed(name)
    check_arguments(spec)
    parameters = inspect.signature(resolve(spec)).parameters
    assert set(spec) - {"_target_"} <= set(parameters)
    stated = {key: value for key, value in spec.items() if key not in ("_target_", "augment", "classes")}
    defaults = {key: parameters[key].default for key in stated}
    assert {key: "???" if value is inspect.Parameter.empty else value for key, value in defaults.items()} == stated


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_augmentation_knows_the_number_of_classes(name, classes):
    dataset = instantiate(composed(name, "dataset.augment.mixup_alpha=0.2"))
    assert isinstance(dataset.augment, Augmentation)
    assert dataset.classes == dataset.augment.classes == classes


def test_augmentation_can_be_switched_off():
    assert instantiate(composed("cifar10", "dataset.augment=null")).augment is None
