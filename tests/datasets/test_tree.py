"""Batches as trees: every form is gathered, moved and cut alike, and named where it does not fit."""

from typing import Any

import pytest
import torch

from harness.datasets.examples import TensorExamples, tensor_fingerprint
from harness.datasets.ragged import Ragged, RaggedExamples
from harness.datasets.tree import call, check_examples, count_examples, excerpt, leaves
from harness.plan.errors import UserError

CPU = torch.device("cpu")
TREE: Any = {"ids": torch.arange(6), "more": (torch.rand(6, 2, dtype=torch.float64), [torch.zeros(6, 1)])}


def test_every_tensor_of_a_tree_is_gathered_and_only_inputs_change_their_dtype():
    examples = TensorExamples(TREE, (torch.arange(6), torch.rand(6, dtype=torch.float64))).to(CPU, torch.float32)
    inputs, targets = examples.batch(torch.tensor([4, 0]))
    assert inputs["ids"].tolist() == [4, 0]
    assert inputs["more"][0].dtype == torch.float32
    assert torch.equal(inputs["more"][0], TREE["more"][0][[4, 0]].float())
    assert targets[1].dtype == torch.float64
    assert len(examples) == count_examples(inputs["more"]) + 4
    assert excerpt(TREE, 2, 3)["more"][1][0].shape == (1, 1)


def test_a_model_is_called_with_a_tensor_with_names_or_with_positions():
    def model(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    one, two = torch.zeros(1), torch.ones(1)
    assert call(model, one) == ((one,), {})
    assert call(model, {"x": one, "mask": two}) == ((), {"x": one, "mask": two})
    assert call(model, (one, two), targets=two) == ((one, two), {"targets": two})
    assert call(model, (one,)) == ((one,), {})


def test_what_is_no_tree_of_examples_is_named_with_its_place_and_shape():
    assert [place for place, _ in leaves(TREE)] == [".ids", ".more[0]", ".more[1][0]"]
    with pytest.raises(UserError, match=r"inputs\.mask of 6 examples has the shape \[5\]: its first axis must be"):
        check_examples({"ids": torch.zeros(6), "mask": torch.zeros(5)}, 6, "inputs")
    with pytest.raises(UserError, match="a batch may hold tensors in mappings and tuples, not an int"):
        check_examples(dict[str, Any](ids=torch.zeros(6), length=3), 6, "inputs")
    with pytest.raises(UserError, match="holds no tensor"):
        check_examples({}, 6, "inputs")


def test_the_fingerprint_of_one_tensor_is_what_it_always_was_and_names_count_in_a_tree():
    tensor = torch.arange(4)
    assert tensor_fingerprint(tensor) == "4a871df19664c6cb"
    assert tensor_fingerprint({"a": tensor}) != tensor_fingerprint({"b": tensor})


SEQUENCES = [torch.arange(3), torch.arange(1), torch.arange(10, 15)]
LABELS = Ragged.of([sequence + 1 for sequence in SEQUENCES], padding=-100)


def test_sequences_are_padded_to_the_longest_of_their_micro_batch():
    examples = RaggedExamples({"ids": Ragged.of(SEQUENCES)}, LABELS, mask="mask")
    inputs, targets = examples.batch(torch.tensor([1, 0]))
    assert inputs["ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert inputs["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert targets.tolist() == [[1, -100, -100], [1, 2, 3]]
    assert examples.batch(torch.tensor([2])).inputs["ids"].tolist() == [[10, 11, 12, 13, 14]]


def test_a_fixed_width_is_that_of_every_batch_and_values_may_have_axes_of_their_own():
    frames = Ragged.of([torch.ones(n, 2, dtype=torch.float64) for n in (2, 1)])
    examples = RaggedExamples((frames, torch.tensor([5, 6])), torch.tensor([0, 1]), width=4).to(CPU, torch.float32)
    (padded, plain), targets = examples.batch(torch.tensor([1]))
    assert padded[0].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert padded.dtype == torch.float32
    assert (plain.tolist(), targets.tolist()) == ([6], [1])


def test_ragged_examples_that_do_not_fit_each_other_are_refused():
    with pytest.raises(UserError, match=r"hold \[2, 3\] examples"):
        RaggedExamples(Ragged.of(SEQUENCES[:2]), LABELS)
    with pytest.raises(UserError, match=r"a sequence of 5 elements exceeds RaggedExamples\.width=4"):
        RaggedExamples(Ragged.of(SEQUENCES), LABELS, width=4)
    with pytest.raises(UserError, match="mask is added to inputs that are a mapping"):
        RaggedExamples(Ragged.of(SEQUENCES), LABELS, mask="mask")
