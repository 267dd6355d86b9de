"""Load of an engine as an endpoint picker weighs it: memory in use and adapters of requests."""

from collections.abc import Iterable
from dataclasses import dataclass

from bem.engine.api import GenerationRequest


@dataclass(frozen=True)
class EngineLoad:
    """What the requests of an engine use at one moment.

    Attributes:
        kv_usage: Share of the KV cache that running requests hold, in [0, 1].
        adapter_slots: Most adapters that are resident at once.
        running_adapters: Names of the adapters of running requests, sorted.
        waiting_adapters: Names of the adapters of waiting requests, sorted.
    """

    kv_usage: float = 0.0
    adapter_slots: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()


def adapters_of(requests: Iterable[GenerationRequest]) -> tuple[str, ...]:
    """Return the names of the adapters that take part in any of the requests, sorted."""
    segments = (segment for request in requests for segment in request.segments)
    return tuple(sorted({one.name for segment in segments for one in segment.active}))
