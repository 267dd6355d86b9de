"""Status codes of the model library's errors."""

import grpc
from bem.errors import AdapterNotFoundError, QueueFullError
from bem_fleet.serving import STATUS
from fleet.errors import status_of


def test_errors_have_their_codes() -> None:
    """A missing adapter is NOT_FOUND, any other error INTERNAL."""
    assert status_of(AdapterNotFoundError("a", []), STATUS) is grpc.StatusCode.NOT_FOUND
    assert STATUS[QueueFullError] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status_of(ValueError(), STATUS) is grpc.StatusCode.INTERNAL
