"""Exceptions of the model library.

Every error says what is wrong, which limit applies and what to do. They carry no status codes: a
service maps them to its protocol in a table of its own.
"""

MAX_LISTED_NAMES = 16
"""Number of names that an error lists."""

MAX_NAME_CHARS = 80
"""Characters of a caller's name that an error repeats; gRPC sends errors in headers of 8 KB."""


class BemError(Exception):
    """Base class of all errors that the model library raises."""


class BackboneNotFoundError(BemError):
    """The base model's files are not at the configured place."""


class DataNotFoundError(BemError):
    """The package that carries the data, or a file of it, is not installed."""


class DataFormatError(BemError):
    """A data row, a pipeline artifact or a cache file is malformed."""


class EvaluationError(BemError):
    """Systems, items and answers do not match, or a system did not answer."""


class UnsupportedBackboneError(BemError):
    """The base model is of an architecture, or has a feature, that the engine does not compute."""


class InvalidSettingError(BemError):
    """A setting does not fit the loaded base model."""


class UnsupportedWeightsError(BemError):
    """The backbone's weights cannot be stored in the requested format."""


class ShardGroupError(BemError):
    """A process that holds a part of the model is gone, or out of step with the others."""


class KernelsUnavailableError(BemError):
    """The engine's compiled kernels were requested but are unavailable on this machine."""


class MemoryBudgetError(BemError):
    """No execution strategy of a training step fits its memory budget."""


class ArtifactFormatError(BemError):
    """An artifact folder lacks a file, or a file in it is malformed."""


class MemoryFormatError(BemError):
    """A memory snapshot or write batch is malformed, or was changed."""


class MemoryMismatchError(BemError):
    """A memory snapshot was made with another base model or other memory modules."""


class GateFormatError(BemError):
    """A gate catalogue, or a report that a gate reads, is malformed."""


class ArtifactTamperedError(BemError):
    """An artifact's tensors do not have the hash that its card states."""


class BaseMismatchError(BemError):
    """An artifact was trained for another base model."""


class SlotsFullError(BemError):
    """The adapter bank has no room; the text says whether a retry can succeed."""


class AdapterNotFoundError(BemError):
    """A request names an adapter that is not loaded."""

    def __init__(self, name: str, loaded: list[str]) -> None:
        more = (
            f" and {len(loaded) - MAX_LISTED_NAMES} more" if len(loaded) > MAX_LISTED_NAMES else ""
        )
        listed = ", ".join(loaded[:MAX_LISTED_NAMES]) or "none"
        super().__init__(f"adapter {name[:MAX_NAME_CHARS]!r} is not loaded; loaded: {listed}{more}")
        self.name = name


class InvalidRequestError(BemError):
    """A field of a request violates a limit."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class QueueFullError(BemError):
    """The engine's queue is full; ``retry_after_s`` suggests when to retry."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"the queue is full ({waiting} waiting); retry in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class DeadlineExceededError(BemError):
    """A request's deadline passed before its last token."""


class RequestFailedError(BemError):
    """A step of the engine failed for this request; others continue."""


class NonFiniteLogitsError(BemError):
    """The model's logits are not finite, so that no token can be sampled."""

    def __init__(self, adapter: str | None) -> None:
        source = f"adapter {adapter!r}" if adapter else "the base model"
        super().__init__(
            f"model: the logits of {source} are not finite for this prompt; use another model"
        )


class EngineClosedError(BemError):
    """The engine is closed or closing and accepts no more requests."""


class InvalidScoresError(BemError):
    """Scores, levels or margins do not allow the statistic to be computed."""
