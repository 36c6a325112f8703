"""The text encoder sees a text, not its padding, and learns nothing from where a batch is cut."""

import pytest
import torch

from harness.models.text_encoder import TextEncoder
from harness.models.vision_transformer import VisionTransformer
from harness.plan.errors import UserError


def encoder(depth: int = 2) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(vocabulary=50, longest=12, classes=3, width=16, depth=depth, heads=2).double()


@pytest.mark.parametrize("depth", [0, 2])
def test_padding_changes_neither_outputs_nor_gradients(depth):
    tokens = torch.randint(1, 50, (2, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    wide, wide_mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    wide[:, :5], wide_mask[:, :5] = tokens * mask, mask
    results = []
    for inputs in ((tokens, mask), (wide, wide_mask)):
        model = encoder(depth)
        logits = model(*inputs)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters())])
    for narrow, padded in zip(*results, strict=True):
        torch.testing.assert_close(narrow, padded, rtol=1e-12, atol=1e-14)


def test_a_bag_of_words_has_no_order_and_an_encoder_has_one():
    tokens, mask = torch.tensor([[3, 7, 9]]), torch.ones(1, 3, dtype=torch.long)
    bag, ordered = encoder(0), encoder(2)
    torch.testing.assert_close(bag(tokens, mask), bag(tokens.flip(1), mask))
    assert (ordered(tokens, mask) - ordered(tokens.flip(1), mask)).abs().max() > 1e-9


def test_texts_and_images_that_do_not_fit_are_refused_with_what_to_change():
    with pytest.raises(UserError, match=r"model.longest 12: use model.longest=13"):
        encoder()(torch.ones(1, 13, dtype=torch.long), torch.ones(1, 13, dtype=torch.long))
    with pytest.raises(UserError, match=r"use model.size=64"):
        VisionTransformer(size=32, width=8, depth=1, heads=2)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match=r"model.size 30 is not a multiple of model.patch 16"):
        VisionTransformer(size=30)


def test_every_patch_has_a_position_of_its_own():
    positions = VisionTransformer(size=64, width=8, depth=0, heads=2).positions
    assert positions.shape == (16, 8)
    assert torch.cdist(positions, positions).add(torch.eye(16)).min() > 0.1
