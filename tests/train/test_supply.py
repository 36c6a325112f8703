"""P2, P9: batches augmented many micro-batches at a time have the bits of those augmented one by one."""

from dataclasses import replace

import pytest
import torch
from small_trials import GHOST, SMALL

from harness.datasets.augment import Augmentation
from harness.datasets.examples import Augment, Batch, Examples, Splits
from harness.datasets.images import ImageExamples, Normalisation
from harness.plan.batch import plan_batch
from harness.train import supply
from harness.train.excerpt import First
from harness.train.supply import Supply
from harness.train.world import World

MAKE = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (256, 3, 8, 8), dtype=torch.uint8, generator=MAKE)
LABELS = torch.randint(0, 5, (256,), generator=MAKE)
IMAGES = ImageExamples(PIXELS, LABELS, Normalisation(torch.full((3, 1, 1), 99.0), torch.full((3, 1, 1), 64.0)))
EVERYTHING = Augmentation(pad_crop=2, cutout=3, mixup_alpha=0.4, label_smoothing=0.1, classes=5)
RESIZED = Augmentation(pad_crop=0, random_resized_crop=0.3)


class Unkeyed:
    """An augmentation of a user's, which may depend on its whole batch."""

    def __call__(self, batch: Batch, seed: int, epoch: torch.Tensor, example: torch.Tensor, group_size: int) -> Batch:
        return Batch(batch.inputs - batch.inputs.mean(), batch.targets)


def supplied(
    rank: int, ranks: int, accumulation: int, span: int, augment: Augment, examples: Examples = IMAGES
) -> Supply:
    batch = plan_batch(96, ranks, max_per_device=96 // (ranks * accumulation), span_examples=span)
    settings = replace(SMALL, total_batch_size=96, batch_norm=replace(GHOST, span_examples=span))
    splits = Splits(examples, examples, examples, "", augment=augment)
    return Supply(settings, 3, batch, World(rank, ranks, torch.device("cpu")), splits)


def micro_batches(source: Supply, start: int, stop: int) -> list[Batch]:
    micros = source.batch.gradient_accumulation_steps
    return [source.micro_batch(drawn, n) for _, drawn in source.updates(start, stop) for n in range(micros)]


@pytest.mark.parametrize(("rank", "ranks", "accumulation", "span"), [(0, 1, 1, 8), (0, 1, 3, 16), (1, 2, 2, 4)])
@pytest.mark.parametrize("augment", [EVERYTHING, RESIZED])
def test_a_chunk_has_the_bits_of_its_micro_batches_wherever_training_resumes(
    monkeypatch, rank, ranks, accumulation, span, augment
):
    one = supplied(rank, ranks, accumulation, span, augment)
    assert one.chunk_size() > 1
    found = [*micro_batches(one, 0, 5), *micro_batches(one, 5, 12)]  # 12 updates are four and a half epochs
    resumed = micro_batches(supplied(rank, ranks, accumulation, span, augment), 7, 12)
    monkeypatch.setattr(supply, "CHUNK_BYTES", {})
    single = supplied(rank, ranks, accumulation, span, augment)
    assert single.chunk_size() == 1
    expected = micro_batches(single, 0, 12)
    for mine, theirs in [*zip(found, expected, strict=True), *zip(resumed, expected[7 * accumulation :], strict=True)]:
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.targets, theirs.targets)


def test_a_chunk_is_no_larger_than_its_bound_and_one_micro_batch_where_that_alone_exceeds_it(monkeypatch):
    needed = 96 * 3 * 8 * 8 * 4
    for bound, expected in ((needed - 1, 1), (2 * needed, 2), (5 * needed - 1, 4)):
        monkeypatch.setattr(supply, "CHUNK_BYTES", {"cpu": bound})
        assert supplied(0, 1, 1, 8, EVERYTHING).chunk_size() == expected


def test_what_may_depend_on_the_whole_batch_is_made_one_micro_batch_at_a_time():
    padded = First(IMAGES, 256)  # of no class that is known to gather an example alike in every batch
    assert supplied(0, 1, 1, 8, Unkeyed()).chunk_size() == 1
    assert supplied(0, 1, 1, 8, EVERYTHING, padded).chunk_size() == 1


@pytest.mark.long
def test_a_compiled_augmentation_draws_the_same_and_is_compiled_once():
    plain, compiled = (supplied(0, 1, 1, 8, EVERYTHING) for _ in range(2))
    compiled.compile()
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = micro_batches(compiled, 0, 9)
    for mine, theirs in zip(found, micro_batches(plain, 0, 9), strict=True):
        torch.testing.assert_close(mine.inputs, theirs.inputs)
        torch.testing.assert_close(mine.targets, theirs.targets)
