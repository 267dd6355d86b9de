"""Status codes of the model library's errors, for the servicers of missions."""

import grpc
from bem import errors
from fleet.errors import StatusTable

STATUS: StatusTable = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.AdapterNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SlotsFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.EngineClosedError: grpc.StatusCode.UNAVAILABLE,
    errors.ArtifactFormatError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ArtifactTamperedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidSettingError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BaseMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NonFiniteLogitsError: grpc.StatusCode.FAILED_PRECONDITION,
}
