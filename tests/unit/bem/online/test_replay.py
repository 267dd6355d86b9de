"""Tests of the replay buffer."""

import json
from collections import Counter

import pytest
from bem.errors import DataFormatError, InvalidSettingError
from bem.online.feedback import FeedbackExample
from bem.online.replay import ReplayBuffer


def event(number: int, condition: str = "a", user: str = "u") -> FeedbackExample:
    """Return an event."""
    return FeedbackExample(f"e{number}", condition, user, (number,), (1,))


def events_of(buffer: ReplayBuffer) -> list[str]:
    """Return the ids in the buffer."""
    return [one.event for one in buffer.examples()]


def fill(buffer: ReplayBuffer, numbers: range, condition: str = "a") -> ReplayBuffer:
    """Offer events to a buffer and return it."""
    for number in numbers:
        buffer.offer(event(number, condition))
    return buffer


def test_every_event_is_kept_equally_often() -> None:
    """Over 300 seeds each of 20 events is kept in a quarter of the buffers of 5."""
    counts = Counter(
        one for seed in range(300) for one in events_of(fill(ReplayBuffer(5, seed), range(20)))
    )

    # A count has the mean 75 and the variance 300 / 4 * 3 / 4; the sum of 20 deviations has one
    # degree of freedom less, and 43.8 is the 99.9 % quantile of chi-square with 19 degrees.
    deviations = sum((counts[f"e{n}"] - 75) ** 2 / 56.25 for n in range(20))
    assert deviations * 19 / 20 < 43.8


def test_same_stream_gives_the_same_buffer() -> None:
    """The order of the buffer and each draw repeat; another seed keeps other events."""
    one, other = (fill(ReplayBuffer(8, 5), range(50)) for _ in range(2))

    assert events_of(one) == events_of(other)
    assert [one.draw(4) for _ in range(3)] == [other.draw(4) for _ in range(3)]
    assert events_of(fill(ReplayBuffer(8, 6), range(50))) != events_of(one)


def test_full_buffer_is_balanced_by_condition() -> None:
    """A rare condition keeps its events; the frequent one gives up the highest ranks."""
    buffer = fill(fill(ReplayBuffer(10), range(100)), range(100, 104), "b")

    assert buffer.counts() == {"a": 6, "b": 4}
    alone = fill(ReplayBuffer(6), range(100))
    assert [one for one in events_of(buffer) if int(one[1:]) < 100] == events_of(alone)


def test_draws_take_turns_and_change() -> None:
    """A draw has as many of each condition, leaves out the batch, and the next one differs."""
    buffer = fill(fill(ReplayBuffer(40), range(20)), range(20, 40), "b")
    first, second = buffer.draw(10), buffer.draw(10)

    assert Counter(one.condition for one in first) == {"a": 5, "b": 5}
    assert {one.event for one in first} != {one.event for one in second}
    assert {one.condition for one in buffer.draw(5, condition="b")} == {"b"}
    assert buffer.draw(3, without=[f"e{n}" for n in range(40)]) == []


def test_exported_state_goes_on_as_the_buffer_does() -> None:
    """A buffer restored from JSON in the middle of a stream ends like the uninterrupted one."""
    buffer = fill(fill(ReplayBuffer(10, 3), range(30)), range(30, 40), "b")
    buffer.draw(4)
    restored = ReplayBuffer.restore(json.loads(json.dumps(buffer.export())))
    for one in (buffer, restored):
        fill(one, range(40, 60), "b")

    assert restored.draw(6) == buffer.draw(6)
    assert restored.export() == buffer.export()


def test_event_that_comes_twice_is_kept_once() -> None:
    """A duplicate delivery changes nothing but the count of offers."""
    buffer = fill(ReplayBuffer(5), range(3))

    assert buffer.offer(event(1))
    assert len(buffer) == 3
    assert buffer.offered == 4


def test_user_is_forgotten() -> None:
    """No event of the user is left, and those of others stay."""
    buffer = ReplayBuffer(5)
    buffer.offer(event(1, user="u1"))
    buffer.offer(event(2, "b", user="u2"))

    assert buffer.forget_user("u1") == 1
    assert events_of(buffer) == ["e2"]
    assert buffer.counts() == {"b": 1}
    assert "e1" not in buffer


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"capacity": 1}, {"seed": None}, {"examples": 3}]
)
def test_malformed_state_is_refused(change: dict[str, object]) -> None:
    """Another version, too many events and wrong types are errors."""
    state = fill(ReplayBuffer(5), range(3)).export()
    with pytest.raises(DataFormatError, match="replay"):
        ReplayBuffer.restore({**state, **change})


def test_capacity_and_seed_have_limits() -> None:
    """Both are named with their limits."""
    with pytest.raises(InvalidSettingError, match="capacity: 0"):
        ReplayBuffer(0)
    with pytest.raises(InvalidSettingError, match="seed: -1"):
        ReplayBuffer(1, -1)
