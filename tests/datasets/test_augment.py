"""Augmentation is a function of (seed, epoch, example): no cut of the batch changes an example (P2)."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.datasets.augment import Augmentation, PerExample
from harness.datasets.examples import Augment, Batch
from harness.plan.errors import UserError
from harness.train.stream import group_layout

EVERYTHING = Augmentation(pad_crop=3, flip=True, cutout=4, mixup_alpha=0.4, label_smoothing=0.1, classes=5)
DATA = torch.Generator().manual_seed(0)
INPUTS = torch.randn(96, 3, 12, 10, generator=DATA)
TARGETS = torch.randint(0, 5, (96,), generator=DATA)


def augmented(augmentation: Augment, order: torch.Tensor, group: int, seed: int = 0, epoch: int = 0) -> Batch:
    batch = Batch(INPUTS[order], TARGETS[order])
    return augmentation(batch, seed, torch.full_like(order, epoch), order, group)


def in_pieces(augmentation: Augment, pieces: int, group: int, seed: int) -> Batch:
    """Examples 0..95 cut into micro-batches the way the trainer does it, put back into their order."""
    outputs, orders = [], []
    for micro in torch.arange(96).chunk(pieces):
        order = group_layout(micro, group)
        outputs.append(augmented(augmentation, order, group, seed))
        orders.append(order)
    back = torch.cat(orders).argsort()
    return Batch(*(torch.cat(parts)[back] for parts in zip(*outputs, strict=True)))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([2, 3, 4, 6, 8]), st.sampled_from([2, 3, 4, 6]), st.integers(0, 2**62))
def test_any_cut_of_the_batch_gives_the_same_bits(pieces, group, seed):
    assume(96 // pieces % group == 0)
    whole, cut = in_pieces(EVERYTHING, 1, group, seed), in_pieces(EVERYTHING, pieces, group, seed)
    assert torch.equal(whole.inputs, cut.inputs)
    assert torch.equal(whole.targets, cut.targets)


def test_a_batch_that_spans_two_epochs_equals_its_two_halves():
    plain = Augmentation(cutout=4)
    order = torch.arange(96)
    epoch = (order >= 40).long()
    spanning = plain(Batch(INPUTS, TARGETS), 0, epoch, order, 1)
    halves = [augmented(plain, order[:40], 1, epoch=0), augmented(plain, order[40:], 1, epoch=1)]
    assert torch.equal(spanning.inputs, torch.cat([half.inputs for half in halves]))


def test_the_same_seed_repeats_and_another_seed_or_epoch_does_not():
    order = torch.arange(96)
    first = augmented(EVERYTHING, order, 4)
    assert torch.equal(first.inputs, augmented(EVERYTHING, order, 4).inputs)
    for other in (augmented(EVERYTHING, order, 4, seed=1), augmented(EVERYTHING, order, 4, epoch=1)):
        changed = (first.inputs != other.inputs).flatten(1).any(1)
        assert changed.float().mean() > 0.9


def test_crops_take_every_place_of_the_padded_image():
    order = torch.arange(4000)
    image = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    crops = Augmentation(pad_crop=1, flip=False)(
        Batch(image.expand(4000, 1, 4, 4), order), 0, torch.zeros_like(order), order, 1
    ).inputs
    padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
    places = [padded[:, row : row + 4, column : column + 4] for row in range(3) for column in range(3)]
    counts = torch.stack([(crops == place).flatten(1).all(1).sum() for place in places])
    assert counts.sum() == 4000
    assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 26.1  # 99.9 % point with 8 degrees of freedom


def test_half_of_the_images_are_mirrored_and_nothing_else_changes():
    order = torch.arange(96).repeat(20)
    example = torch.arange(len(order))
    flipped = Augmentation(pad_crop=0, flip=True)(
        Batch(INPUTS[order], TARGETS[order]), 0, torch.zeros_like(example), example, 1
    ).inputs
    mirrored = (flipped == INPUTS[order].flip(-1)).flatten(1).all(1)
    same = (flipped == INPUTS[order]).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(len(order))


@pytest.mark.parametrize("pixels", [1, 3, 4])
def test_cutout_zeroes_one_square_clipped_at_the_border(pixels):
    order = torch.arange(2000)
    batch = Batch(torch.ones(2000, 2, 9, 7), order)
    cut = Augmentation(pad_crop=0, flip=False, cutout=pixels)(batch, 0, torch.zeros_like(order), order, 1).inputs
    hole = cut == 0
    assert torch.equal(hole[:, 0], hole[:, 1])
    height, width = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(hole[:, 0].sum((1, 2)), height * width)  # a full rectangle
    assert height.max() == width.max() == pixels
    # Each pixel is the centre equally often; a hole of 3 around it loses 1 row at either end of 9: mean (9*3 - 2) / 9.
    lost = sum(max(pixels // 2 - c, 0) + max(c - pixels // 2 + pixels - 9, 0) for c in range(9))
    assert height.float().mean() == pytest.approx(pixels - lost / 9, abs=0.05)


def test_mixup_mixes_each_example_with_the_next_member_of_its_group():
    group, n = 4, 24
    order = group_layout(torch.arange(n), group)
    numbered = order.float().view(-1, 1, 1, 1).expand(n, 1, 2, 2)
    mix = Augmentation(pad_crop=0, flip=False, mixup_alpha=1.0, classes=n)
    inputs, targets = mix(Batch(numbered, order), 0, torch.zeros_like(order), order, group)
    for row, example in enumerate(order.tolist()):
        neighbour = example // group * group + (example + 1) % group
        weight = targets[row, example].item()
        assert targets[row, neighbour].item() == pytest.approx(1 - weight)
        assert targets[row].sum().item() == pytest.approx(1)
        assert inputs[row, 0, 0, 0].item() == pytest.approx(weight * example + (1 - weight) * neighbour, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixing_weights_have_the_moments_of_the_beta_distribution(alpha):
    n = 20_000
    order = torch.arange(n)
    batch = Batch(torch.zeros(n, 1, 1, 1), torch.arange(2).repeat_interleave(n // 2))
    mix = Augmentation(pad_crop=0, flip=False, mixup_alpha=alpha, classes=2)
    weight = mix(batch, 0, torch.zeros_like(order), order, 2).targets[: n // 2, 0]  # partners have the other class
    variance = 1 / (4 * (2 * alpha + 1))
    assert weight.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / len(weight)))
    assert weight.var() == pytest.approx(variance, rel=0.05)


def test_label_smoothing_spreads_its_share_over_all_classes():
    smooth = Augmentation(pad_crop=0, flip=False, label_smoothing=0.2, classes=4)
    one = torch.zeros(1, dtype=torch.int64)
    targets = smooth(Batch(torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.tensor([2])), 0, one, one, 1).targets
    assert targets.dtype == torch.float64
    assert targets[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])


def test_without_mixing_or_smoothing_targets_stay_class_numbers():
    assert torch.equal(augmented(Augmentation(), torch.arange(96), 1).targets, TARGETS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"pad_crop": -1}, "pixels >= 0"),
        ({"mixup_alpha": -0.1}, "mixup_alpha"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"mixup_alpha": 0.2}, "classes"),
        ({"random_resized_crop": 1.5}, "share of the area"),
        ({"random_resized_crop": 0.1}, "replaces pad_crop=4: set augment.pad_crop=0"),
        ({"label_smoothing": 0.1, "classes": 1}, "classes"),
    ],
)
def test_impossible_settings_are_refused_by_name(arguments, told):
    with pytest.raises(UserError, match=told):
        Augmentation(**arguments)


def test_mixup_without_groups_is_refused_rather_than_skipped():
    with pytest.raises(UserError, match="span_examples >= 2"):
        augmented(EVERYTHING, torch.arange(96), 1)


CROP = Augmentation(pad_crop=0, flip=False, random_resized_crop=0.2)


def test_a_random_resized_crop_shows_a_box_of_the_image_and_keeps_its_shape():
    height, width, n = 12, 10, 500
    rows = torch.arange(height, dtype=torch.float64).view(1, 1, -1, 1).expand(n, 1, height, width)
    columns = torch.arange(width, dtype=torch.float64).expand(n, 1, height, width)
    order = torch.arange(n)
    zero = torch.zeros_like(order)
    shown = CROP(Batch(torch.cat([rows, columns], 1), zero), 0, zero, order, 1).inputs
    assert shown.shape == (n, 2, height, width)
    assert torch.allclose(shown[:, 0, :, :1].expand(-1, -1, width), shown[:, 0])  # rows stay rows
    first, last = shown.flatten(2).aminmax(dim=2)
    assert (first >= 0).all()
    assert (last[:, 0] <= height - 1).all()
    assert (last[:, 1] <= width - 1).all()
    area = (last - first + 1).prod(1) / (height * width)  # up to half a pixel at each side
    assert area.min() < 0.35
    assert area.max() > 0.85
    assert area.mean() == pytest.approx(0.6, abs=0.08)
    assert (shown.diff(dim=2)[:, 0] >= 0).all()
    assert first.unique(dim=0).shape[0] > 20


def test_a_crop_of_the_whole_area_of_a_square_leaves_most_of_it_and_no_new_values():
    whole = Augmentation(pad_crop=0, flip=False, random_resized_crop=1.0)
    flat = Batch(torch.full((50, 3, 9, 9), 0.3), torch.zeros(50, dtype=torch.int64))
    order = torch.arange(50)
    assert torch.allclose(whole(flat, 0, order, order, 1).inputs, flat.inputs, atol=1e-7)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from([2, 3, 4, 6, 8]), st.integers(0, 2**62))
def test_any_cut_of_the_batch_gives_the_same_crops_and_the_same_transforms(pieces, seed):
    def noisy(image: torch.Tensor) -> torch.Tensor:
        return image + torch.rand(image.shape)

    for augmentation in (CROP, PerExample([noisy])):
        whole, cut = in_pieces(augmentation, 1, 4, seed), in_pieces(augmentation, pieces, 4, seed)
        assert torch.equal(whole.inputs, cut.inputs)
        assert not torch.equal(whole.inputs, INPUTS)


def test_transforms_leave_the_generator_of_dropout_alone_and_must_keep_the_shape():
    order = torch.arange(96)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    PerExample(lambda image: image + torch.rand(1))(Batch(INPUTS, TARGETS), 0, order, order, 1)
    assert torch.equal(torch.rand(2), expected)
    with pytest.raises(UserError, match=r"must keep the shape \[3, 12, 10\] of an image, not make it \[3, 6, 10\]"):
        PerExample(lambda image: image[:, :6])(Batch(INPUTS, TARGETS), 0, order, order, 1)
