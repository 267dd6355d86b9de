"""The number of threads follows the times of steps, and is set during a decode step only."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from bem.engine.decode_threads import DecodeThreads, ThreadChoice


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
    assert busy[:12].count(2) <= 8
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
    """Prompts and scores have torch's number, also after a step that failed."""
    library = SimpleNamespace(threads=None)
    threads = DecodeThreads(cast("Any", library), 2)

    with threads.step(1):
        assert library.threads == 2
    assert library.threads is None
    with pytest.raises(RuntimeError, match="broken"), threads.step(1):
        raise RuntimeError("broken")
    assert library.threads is None


def test_other_kernels_are_left_alone() -> None:
    """Torch's products may depend on the number of threads."""
    with DecodeThreads(None, 2).step(3):
        pass
