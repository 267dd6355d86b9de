"""Priority of a call: whether it gives way to all others."""

from collections.abc import Mapping
from contextvars import ContextVar

from fleet.wire import YIELDS

yields: ContextVar[bool] = ContextVar("yields", default=False)
"""Whether the call being served gives way to all others."""


def adopt_priority(metadata: Mapping[str, str | bytes]) -> None:
    """Set ``yields`` from the metadata of a call."""
    yields.set(metadata.get(YIELDS) == "1")
