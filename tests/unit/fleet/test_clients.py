"""Metadata of outgoing calls."""

from fleet import logs
from fleet.clients import forwarded_metadata, outgoing_metadata


def test_metadata_carries_the_request_and_what_is_forwarded() -> None:
    """Request id, trace context and forwarded pairs are sent; empty values are left out."""
    request, trace = logs.request_id.set("abc"), logs.traceparent.set("")
    forwarded = forwarded_metadata.set((("bem-tenant", "t1"), ("bem-safety-strength", "")))
    metadata = outgoing_metadata()
    logs.request_id.reset(request)
    logs.traceparent.reset(trace)
    forwarded_metadata.reset(forwarded)

    assert metadata == (("x-request-id", "abc"), ("bem-tenant", "t1"))
    assert outgoing_metadata() == ()
