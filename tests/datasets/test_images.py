"""Images are kept as bytes and leave as normalised numbers, the same whether resident or streamed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.datasets.images import ImageExamples, StreamedImages, channel_sums, normalisation

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 4), dtype=np.uint8)
LABELS = torch.arange(20) % 7


@settings(deadline=None)
@given(st.integers(0, 20))
def test_channel_sums_are_exact_and_add_over_pieces(cut):
    wide = PIXELS.astype(np.int64)
    expected = np.stack([wide.sum((0, 2, 3)), (wide**2).sum((0, 2, 3))])
    assert np.array_equal(channel_sums(PIXELS[:cut]) + channel_sums(PIXELS[cut:]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_images_have_mean_0_and_standard_deviation_1_in_each_channel(dtype):
    examples = ImageExamples(torch.from_numpy(PIXELS), LABELS, normalisation(channel_sums(PIXELS), 20 * 20))
    inputs = examples.to(torch.device("cpu"), dtype).batch(torch.arange(20)).inputs
    assert inputs.dtype == dtype
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3, dtype=dtype), atol=1e-6)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3, dtype=dtype), atol=1e-6)


def test_a_channel_of_one_colour_stays_finite():
    flat = np.full((4, 1, 2, 2), 9, dtype=np.uint8)
    examples = ImageExamples(torch.from_numpy(flat), torch.zeros(4).long(), normalisation(channel_sums(flat), 16))
    assert torch.equal(examples.batch(torch.arange(4)).inputs, torch.zeros(4, 1, 2, 2, dtype=torch.float64))


def streamed_and_resident() -> tuple[StreamedImages, ImageExamples]:
    rows = torch.tensor([17, 3, 4, 11, 0])
    normalise = normalisation(channel_sums(PIXELS), 20 * 20)
    images = torch.from_numpy(PIXELS)
    return StreamedImages(images, rows, LABELS[rows], normalise), ImageExamples(images[rows], LABELS[rows], normalise)


def test_streamed_and_resident_images_give_the_same_batches():
    cpu, index = torch.device("cpu"), torch.tensor([4, 0, 0, 2])
    streamed, resident = (examples.to(cpu, torch.float32).batch(index) for examples in streamed_and_resident())
    assert torch.equal(streamed.inputs, resident.inputs)
    assert torch.equal(streamed.targets, resident.targets)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_streamed_to_a_gpu_equal_resident_ones():
    device = torch.device("cuda")
    index = torch.tensor([4, 0, 0, 2], device=device)
    streamed, resident = (examples.to(device, torch.float32).batch(index) for examples in streamed_and_resident())
    assert streamed.inputs.is_cuda
    assert torch.equal(streamed.inputs, resident.inputs)
    assert torch.equal(streamed.targets, resident.targets)
