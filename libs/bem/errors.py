"""Errors of the model library; what a service does with them is its own table's business."""

NAMED = 16
"""How many names an error lists."""


class BemError(Exception):
    """Base of all errors that the model library raises."""


class BackboneNotFoundError(BemError):
    """The base model's files are not where the setting says."""


class DataNotFoundError(BemError):
    """The package that carries the data, or a file of it, is not installed."""


class DataFormatError(BemError):
    """A row, a stage's artifact or a cache does not have the promised form."""


class EvaluationError(BemError):
    """Systems, items and answers do not belong together, or a system did not answer."""


class UnsupportedBackboneError(BemError):
    """The base model's layers are not of the kind that this operation runs."""


class UnsupportedWeightsError(BemError):
    """The backbone's weights cannot be held as the setting says, here or any more."""


class KernelsUnavailableError(BemError):
    """The engine's compiled kernels are asked for and cannot be had on this machine."""


class MemoryBudgetError(BemError):
    """No way of carrying out a training step fits the memory that it may take."""


class ArtifactFormatError(BemError):
    """An adapter's folder lacks a file, or a file does not have the promised form."""


class GateFormatError(BemError):
    """A file of gates, or a report that a gate reads, does not have the promised form."""


class ArtifactTamperedError(BemError):
    """An adapter's tensors do not have the hash that its card states."""


class BaseMismatchError(BemError):
    """An adapter was trained for another base model."""


class SlotsFullError(BemError):
    """All slots of the bank hold adapters; one must be unloaded first."""


class AdapterNotFoundError(BemError):
    """The request names an adapter that is not loaded."""

    def __init__(self, name: str, loaded: list[str]) -> None:
        more = f" and {len(loaded) - NAMED} more" if len(loaded) > NAMED else ""
        listed = ", ".join(loaded[:NAMED]) or "none"
        super().__init__(f"adapter {name!r} is not loaded; loaded: {listed}{more}")
        self.name = name


class InvalidRequestError(BemError):
    """A request's field breaks a limit."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class QueueFullError(BemError):
    """The engine has no room for another request; ``retry_after_s`` says when it may have."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"the queue is full ({waiting} waiting); retry in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class DeadlineExceededError(BemError):
    """The request's deadline passed before its last token."""


class EngineClosedError(BemError):
    """The engine is closed or closing and takes no more requests."""


class InvalidScoresError(BemError):
    """Scores, levels or margins from which no statistic can be computed."""
