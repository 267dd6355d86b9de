"""Limits of the feedback queue and of the processor."""

from dataclasses import dataclass

_HOUR_S, _DAY_S = 3600, 24 * 3600


@dataclass(frozen=True)
class IntakeLimits:
    """Limits at which feedback is refused before it is acknowledged.

    Attributes:
        once_s: Time for which an idempotency key is remembered, in seconds. A retry after it is new
            feedback; the processor still drops its content (``ProcessorLimits.content_s``).
        rate: Most feedback of one user in a window of ``rate_s``.
        rate_s: Length of the window, in seconds.
        backlog: Most entries of the stream, waiting or being processed.
    """

    once_s: int = _DAY_S
    rate: int = 600
    rate_s: int = _HOUR_S
    backlog: int = 200_000


@dataclass(frozen=True)
class ProcessorLimits:
    """Limits of what the processor keeps.

    Attributes:
        content_s: Time for which the same content of a user is a duplicate, in seconds.
        contents: Newest contents of a user that are compared, at most.
        user_share: Most events of one user in one family.
        family_events: Most events of a family; above it a sample is kept, drawn by a hash.
        families: Most families; above it the one that is idle longest is removed.
        idle_s: Time without a new event after which a family is removed, in seconds.
        trust_s: Time without a new verdict after which a user's trust is forgotten, in seconds.
        deliveries: Most deliveries of an entry before it is a dead letter.
        dead_letters: Most dead letters. When they are full, an entry that should become one stays
            in the queue, so that nothing is trimmed.
    """

    content_s: int = 7 * _DAY_S
    contents: int = 1000
    user_share: int = 5
    family_events: int = 512
    families: int = 256
    idle_s: int = 90 * _DAY_S
    trust_s: int = 180 * _DAY_S
    deliveries: int = 5
    dead_letters: int = 10_000


@dataclass(frozen=True)
class Quorum:
    """What a family needs before a learner may change anything by it.

    Attributes:
        events: Fewest events.
        users: Fewest users whose trust reaches ``trust``.
        users_per_source: Users of one API key that count. A client names its end users itself, so
            that more than one counts only where keys belong to applications that are trusted.
        trust: Least trust of a user who counts, in [0, 1].
    """

    events: int = 8
    users: int = 5
    users_per_source: int = 1
    trust: float = 0.25
