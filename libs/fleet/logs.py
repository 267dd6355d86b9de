"""Structured logs: one JSON object per line on standard error, with the request id."""

import logging
import sys
import uuid
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

from fleet import wire

REQUEST_ID_KEY = wire.REQUEST_ID
TRACEPARENT_KEY = wire.TRACEPARENT

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request being served; empty outside of one."""

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""W3C trace context of the request being served; empty when the client sent none."""


def new_request_id() -> str:
    """Return a new request id of 32 hexadecimal characters."""
    return uuid.uuid4().hex


def _add_request(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if current := request_id.get():
        event["request_id"] = current
    if trace := traceparent.get():
        event["traceparent"] = trace
    return event


def setup(level: str) -> None:
    """Write the logs of this process and its libraries to standard error as JSON lines."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_request,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(
        handlers=[handler], level=max(logging.getLevelName(level), logging.WARNING), force=True
    )


def get(name: str) -> Any:
    """Return a logger whose records carry ``name`` as ``component``."""
    # Lazy: a logger made at import time still follows a later setup().
    return structlog.get_logger(component=name)
