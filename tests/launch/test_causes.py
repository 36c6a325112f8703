"""Why a trial failed is one line that tells, whatever comes before and behind it."""

from harness.launch.causes import LONGEST, cause

TRACEBACK = """Traceback (most recent call last):
  File "trainer.py", line 1, in train
    loss.backward()
    ^^^^^^^^^^^^^^^
"""
OF_RAY = """The actor died unexpectedly before finishing this task.
	class_name: TrialTrainable
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: and so on.
"""


def test_an_error_of_several_lines_is_told_from_its_first():
    said = "RuntimeError: CUDA error: out of memory\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    assert cause(TRACEBACK + said) == "RuntimeError: CUDA error: out of memory For debugging consider passing " + (
        "CUDA_LAUNCH_BLOCKING=1"
    )


def test_of_several_tracebacks_the_last_one_counts():
    behind = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert cause(f"{TRACEBACK}ValueError: first\n{behind}{TRACEBACK}OSError: [Errno 28] No space\n") == (
        "OSError: [Errno 28] No space"
    )


def test_a_plain_text_is_told_by_its_last_line_and_a_long_one_is_cut():
    assert cause("one\ntwo\n\n") == "two"
    assert cause("") == "no reason given"
    assert len(cause(TRACEBACK + "ValueError: " + "x" * 1000)) == LONGEST + 2


def test_what_ray_says_of_a_lost_worker_is_told_in_our_words_also_from_inside_a_gang():
    assert cause(OF_RAY).startswith("a worker process died: out of memory")
    assert cause(f"{OF_RAY}\nThe above exception was the direct cause of:\n{TRACEBACK}GangError: x") == cause(OF_RAY)
    memory = (
        "Memory on the node (IP: 10.0.0.1, ID: a) was 4.85GB used / 23.54GB limit (0.2)\nRefer to the documentation"
    )
    assert cause(f"1 worker(s) were killed due to the node running low on memory. {memory}") == (
        "out of memory: Ray ended a worker because its node had 4.85GB used / 23.54GB limit"
    )
