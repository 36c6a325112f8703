"""The quadratic's noise has exactly the variance it is told, no correlations, and is drawn anew for every example."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.datasets.quadratic import NoisyQuadratic
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.train.stream import ExampleStream

CONF = Path(__file__).parents[2] / "conf"
VARIANCES = [1.0, 0.25, 0.04]


def noise(index: torch.Tensor, coordinates: int = 100, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return NoisyQuadratic(VARIANCES, coordinates).load().train.to(torch.device("cpu"), dtype).batch(index).inputs


def test_every_coordinate_is_plus_or_minus_the_root_of_its_variance():
    drawn = noise(torch.arange(50))
    assert drawn.shape == (50, 300)
    expected = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64).repeat_interleave(100)
    torch.testing.assert_close(drawn.abs(), expected.expand(50, 300), rtol=1e-15, atol=0)


def test_signs_are_fair_and_uncorrelated_between_coordinates_and_between_examples():
    signs = noise(torch.arange(4096)).sign()
    assert (signs.mean(0) * math.sqrt(len(signs))).abs().max() < 5  # 300 normal deviates
    for table in (signs, signs[:512].T):
        correlation = (table.T @ table) / math.sqrt(len(table))
        off_diagonal = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
        assert off_diagonal.abs().max() < 6  # 10^5 normal deviates
        assert off_diagonal.square().mean() == pytest.approx(1, abs=0.02)


def test_every_seed_and_position_draws_its_own_noise():
    positions = torch.cat([ExampleStream(seed, 1024, endless=True).positions(0, 4096) for seed in range(20)])
    assert len(positions.unique()) == len(positions)  # the stream goes on behind an "epoch" of 1024
    assert len(torch.unique(noise(positions[::16]).sign(), dim=0)) == len(positions) // 16


def test_an_example_is_the_same_in_any_batch_and_arithmetic():
    index = torch.arange(2**46, 2**46 + 64)
    drawn = noise(index)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise(index[shuffled]), drawn[shuffled])
    assert torch.equal(noise(index, dtype=torch.float32), drawn.float())


def test_validation_and_test_are_one_example_without_noise():
    splits = NoisyQuadratic(VARIANCES, 5).load()
    assert splits.endless
    for split in (splits.validation, splits.test):
        assert len(split) == 1
        assert torch.equal(split.batch(torch.tensor([0])).inputs, torch.zeros(1, 15, dtype=torch.float64))


def test_the_fingerprint_names_the_variances_and_their_multiplicity():
    made = [
        NoisyQuadratic(v, n).load().fingerprint for v, n in ((VARIANCES, 2), (VARIANCES, 3), ([1.0, 0.25, 0.05], 2))
    ]
    assert len(set(made)) == 3
    assert made[0] == NoisyQuadratic(VARIANCES, 2, epoch_examples=1).load().fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variances": []}, "dataset.variances must be one or more numbers >= 0"),
        ({"variances": [-1.0]}, "dataset.variances must be one or more numbers >= 0"),
        ({"variances": [1.0], "coordinates": 0}, "coordinates and dataset.epoch_examples must be >= 1, not 0"),
        ({"variances": [1.0], "epoch_examples": 0}, "must be >= 1, not 256 and 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        NoisyQuadratic(**arguments)


def test_the_conf_files_fit_each_other():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose(overrides=["+dataset=quadratic", "+model=quadratic"]), resolve=True)
    assert isinstance(config, dict)
    splits, model = instantiate(config["dataset"]).load(), instantiate(config["model"])
    assert len(splits.train) == config["dataset"]["epoch_examples"]
    assert model(splits.train.batch(torch.arange(3)).inputs).shape == (3,)
    assert config["dataset"]["coordinates"] >= 256  # the loss self-averages over them
