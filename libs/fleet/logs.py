"""Structured logs: one JSON object per line on standard error, with request and trace id."""

import logging
import re
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
"""W3C trace context of the span being served, or the client's while tracing is off; or empty."""

# Text of a caller ends up in logs and audit records. An id is no free text, and digits alone could
# be a telephone, card or insurance number.
_REQUEST_ID = re.compile(r"(?![0-9._-]{7,}$)[A-Za-z0-9._-]{1,128}")
# https://www.w3.org/TR/trace-context: version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def adopt_context(received_id: str, received_trace: str) -> str:
    """Adopt a caller's request id and trace context where they have the form of one.

    Args:
        received_id: Letters, digits, dots, hyphens and underscores, 1 to 128, with a letter among
            them if there are more than six; another text is replaced by a new id.
        received_trace: W3C trace context; another text is dropped.

    Returns:
        The request id in force.
    """
    adopted = received_id if _REQUEST_ID.fullmatch(received_id) else new_request_id()
    request_id.set(adopted)
    traceparent.set(received_trace if _TRACEPARENT.fullmatch(received_trace) else "")
    return adopted


def new_request_id() -> str:
    """Return a new request id of 32 hexadecimal characters."""
    return uuid.uuid4().hex


def _add_request(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if current := request_id.get():
        event["request_id"] = current
    if trace := traceparent.get():
        _, event["trace_id"], event["span_id"], _ = trace.split("-")
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
