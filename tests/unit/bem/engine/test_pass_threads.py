"""The number of threads follows the times of passes, and is set during a pass only."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from bem.engine.pass_threads import PassThreads, ThreadChoice


def run(choice: ThreadChoice, seconds: dict[int, float], steps: int) -> list[int]:
    """Run steps whose time depends on the threads alone; return the threads of each."""
    threads = []
    for _ in range(steps):
        threads.append(choice.next())
        choice.observe(seconds[threads[-1]])
    return threads


QUIET, BUSY = {2: 0.005, 1: 0.007}, {2: 0.025, 1: 0.009}


def test_the_faster_number_is_used_and_the_other_one_tried_seldom() -> None:
    """On a quiet machine two threads compute nearly all steps."""
    threads = run(ThreadChoice(2), QUIET, 1000)

    assert set(threads) == {1, 2}
    assert threads.count(1) <= 25


def test_busy_neighbours_cost_few_slow_steps() -> None:
    """One thread computes once two have become slower, and two again afterwards."""
    choice = ThreadChoice(2)
    run(choice, QUIET, 200)

    busy = run(choice, BUSY, 300)
    assert busy[:12].count(2) <= 3
    assert busy[12:].count(2) <= 12
    assert run(choice, QUIET, 300)[-100:].count(2) >= 90


def test_all_halves_are_within_reach() -> None:
    """On eight processors the best number may be any power of two."""
    for best in (8, 4, 2, 1):
        seconds = {number: 0.01 + 0.002 * abs(number - best) for number in (8, 4, 2, 1)}
        assert run(ThreadChoice(8), seconds, 2000)[-50:].count(best) >= 45


def test_one_processor_has_no_choice() -> None:
    """There is nothing to try."""
    assert set(run(ThreadChoice(1), {1: 0.01}, 100)) == {1}


def test_threads_are_those_of_the_step_only() -> None:
    """Scores have torch's number, also after a step that failed."""
    library = SimpleNamespace(threads=None)
    threads = PassThreads(cast("Any", library), 2)

    with threads.decoding(1):
        assert library.threads == 2
    assert library.threads is None
    with pytest.raises(RuntimeError, match="broken"), threads.decoding(1):
        raise RuntimeError("broken")
    assert library.threads is None


def test_a_busy_start_is_seen_early() -> None:
    """Sizes that occur for the first time beside busy neighbours take two slow steps, not eight."""
    assert run(ThreadChoice(2), BUSY, 12).count(2) <= 2


def test_prompts_of_each_kind_have_a_choice_of_their_own() -> None:
    """What is slow for its size or position says nothing about others."""
    library = SimpleNamespace(threads=None)
    threads = PassThreads(cast("Any", library), 2)
    kinds = [(32, 0, False), (32, 0, True), (256, 0, False), (32, 1024, False)]
    seen = []
    for tokens, begin, upper in (*kinds, *kinds):
        with threads.reading(tokens, begin, upper=upper):
            seen.append(library.threads)

    assert seen == [2] * 4 + [1] * 4  # the second pass of each kind is the trial of one thread


def test_prompts_beside_decode_steps_have_their_threads() -> None:
    """No trial of a prompt's own keeps a running output waiting."""
    library = SimpleNamespace(threads=None)
    threads = PassThreads(cast("Any", library), 2)
    seen = set()
    with threads.decoding(8):
        pass
    for _ in range(20):
        with threads.reading(32, 0, upper=False):
            seen.add(library.threads)

    assert seen == {2}


def test_other_kernels_are_left_alone() -> None:
    """Torch's products may depend on the number of threads."""
    with PassThreads(None, 2).decoding(3):
        pass
