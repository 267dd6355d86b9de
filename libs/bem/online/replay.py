"""Replay buffer: a seeded reservoir of feedback, balanced by condition.

Each event has a rank, a keyed hash of its id, and the reservoir of a condition keeps the lowest
ranks. This is reservoir sampling with a random key for each item (Vitter 1985; Efraimidis and
Spirakis 2006): each event of a condition is kept with the same probability, the same stream gives
the same buffer, and an event that arrives twice is kept once. When the buffer is full, the largest
condition gives up its highest rank.

Example: in a buffer of 4, condition a has 4 events when the first one of b arrives. The event of a
with the highest rank leaves. From two and two on, each further event takes the place of one of its
own condition, or of none.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from bem.errors import DataFormatError, InvalidSettingError
from bem.online.feedback import FeedbackExample, parse_feedback

MAX_CAPACITY = 1_000_000
MAX_SEED = 2**63 - 1
_VERSION = 1


class ReplayBuffer:
    """Bounded sample of the feedback so far.

    Args:
        capacity: Most events in the buffer.
        seed: Secret of the ranks and draws; the same seed and stream give the same buffer.

    Raises:
        InvalidSettingError: Capacity or seed is out of its range.

    Attributes:
        offered: Number of events that were offered, repeated ones included.
        draws: Number of draws so far.
    """

    def __init__(self, capacity: int = 2000, seed: int = 0) -> None:
        if not 1 <= capacity <= MAX_CAPACITY:
            raise InvalidSettingError(
                f"capacity: {capacity} is out of range; use 1 to {MAX_CAPACITY}"
            )
        if not 0 <= seed <= MAX_SEED:
            raise InvalidSettingError(f"seed: {seed} is out of range; use 0 to {MAX_SEED}")
        self.capacity, self.seed = capacity, seed
        self.offered = self.draws = 0
        self._ranks: dict[str, dict[str, int]] = {}
        self._examples: dict[str, FeedbackExample] = {}

    def __len__(self) -> int:
        return len(self._examples)

    def __contains__(self, event: object) -> bool:
        return event in self._examples

    def examples(self) -> list[FeedbackExample]:
        """Return the events by condition and rank."""
        return [
            self._examples[event]
            for condition in sorted(self._ranks)
            for event in sorted(self._ranks[condition], key=self._ranks[condition].__getitem__)
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of events of each condition."""
        return {name: len(ranks) for name, ranks in sorted(self._ranks.items())}

    def offer(self, example: FeedbackExample) -> bool:
        """Offer an event and return whether it is in the buffer afterwards."""
        self.offered += 1
        if example.event in self._examples:
            return True
        self._insert(example)
        if len(self._examples) > self.capacity:
            # Ties go to the condition that sorts last, so that the choice is the stream's alone.
            largest = max(self._ranks, key=lambda name: (len(self._ranks[name]), name))
            ranks = self._ranks[largest]
            self._drop(max(ranks, key=ranks.__getitem__))
        return example.event in self._examples

    def draw(
        self, count: int, *, condition: str | None = None, without: Iterable[str] = ()
    ) -> list[FeedbackExample]:
        """Return up to ``count`` events, in turns over the conditions; the next draw differs.

        Args:
            count: Number of events.
            condition: Condition to draw from; None for all.
            without: Events to leave out, those of the current batch.
        """
        self.draws += 1
        left_out = set(without)
        queues = [
            sorted(
                (event for event in ranks if event not in left_out),
                key=lambda event: self._hash("draw", str(self.draws), event),
            )
            for name, ranks in sorted(self._ranks.items())
            if condition in {None, name}
        ]
        longest = max((len(queue) for queue in queues), default=0)
        order = [queue[at] for at in range(longest) for queue in queues if at < len(queue)]
        return [self._examples[event] for event in order[:count]]

    def forget_user(self, user: str) -> int:
        """Remove all events of a user and return their number."""
        events = [one.event for one in self._examples.values() if one.user == user]
        for event in events:
            self._drop(event)
        return len(events)

    def export(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        return {
            "version": _VERSION,
            "capacity": self.capacity,
            "seed": self.seed,
            "offered": self.offered,
            "draws": self.draws,
            "examples": [one.row() for one in self.examples()],
        }

    @classmethod
    def restore(cls, state: Any) -> "ReplayBuffer":
        """Return the buffer of an exported state; it goes on as the exported one would.

        Raises:
            DataFormatError: The state is malformed, of another version, or over its capacity.
        """
        try:
            if state["version"] != _VERSION:
                raise DataFormatError(
                    f"replay: version {state['version']} is unknown; this code reads {_VERSION}"
                )
            buffer = cls(int(state["capacity"]), int(state["seed"]))
            buffer.offered, buffer.draws = int(state["offered"]), int(state["draws"])
            for row in state["examples"]:
                buffer._insert(parse_feedback(row))
        except (TypeError, KeyError, ValueError, InvalidSettingError) as err:
            raise DataFormatError(f"replay: the state is malformed: {err!r}") from err
        if len(buffer) > buffer.capacity:
            raise DataFormatError(
                f"replay: {len(buffer)} events are over the capacity of {buffer.capacity}"
            )
        return buffer

    def _insert(self, example: FeedbackExample) -> None:
        self._examples[example.event] = example
        ranks = self._ranks.setdefault(example.condition, {})
        ranks[example.event] = self._hash("rank", example.event)

    def _drop(self, event: str) -> None:
        condition = self._examples.pop(event).condition
        del self._ranks[condition][event]
        if not self._ranks[condition]:
            del self._ranks[condition]

    def _hash(self, *parts: str) -> int:
        key = self.seed.to_bytes(8, "little")
        content = "\0".join(parts).encode()
        return int.from_bytes(hashlib.blake2b(content, key=key, digest_size=16).digest())
