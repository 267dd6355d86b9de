"""Systems under evaluation, their responses, and the sides of a comparison."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bem.errors import EvaluationError

from bem_fleet.scores.metrics import score_functions


@dataclass(frozen=True)
class Message:
    """Turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: Text of the turn.
    """

    role: str
    content: str


Chat = tuple[Message, ...]


@dataclass(frozen=True)
class Decoding:
    """Decoding settings, the same for all sides of a comparison.

    Attributes:
        temperature: Sampling temperature, 0 or more; 0 is greedy.
        max_tokens: Largest number of generated tokens.
    """

    temperature: float = 0.0
    max_tokens: int = 48


@dataclass(frozen=True)
class Response:
    """Response of a system.

    Attributes:
        text: Reply; empty when it was refused.
        prompt_tokens: Number of tokens of the rendered conversation.
        completion_tokens: Number of generated tokens without the end of turn.
        refused: Reason why a filter withheld the reply; empty when there is a reply.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    refused: str = ""


class System(Protocol):
    """System under evaluation: a base model, an adapter, or a service behind gRPC."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def digest(self) -> str:
        """Hash of base model and adapter version, which determine the responses."""

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Yield (index in ``chats``, response) in any order, each index once.

        Raises:
            EvaluationError: The system does not respond.
        """


@dataclass(frozen=True)
class EvaluationItem:
    """Item of an evaluation.

    Attributes:
        key: Digest of the content, unique in a dataset.
        prompt: User message.
        golds: Gold answers, one or more.
        category: Category for tables; may be empty.
        cluster: Cluster of the item (``Comparison.unit``); empty where it is a unit of its own.
    """

    key: str
    prompt: str
    golds: tuple[str, ...]
    category: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class SystemRun:
    """System with its seed.

    Attributes:
        system: System under evaluation.
        seed: Training seed, and sampling seed at temperatures above 0.
    """

    system: System
    seed: int = 0


@dataclass(frozen=True)
class ComparisonSide:
    """Side of a comparison: a mission or a baseline with its runs.

    Attributes:
        name: Name, unique in a comparison.
        runs: Runs, one for each seed.
        scoring_mode: Key of ``bem_fleet.scores.metrics.READINGS``.
        shots: Few-shot examples (prompt, reply) before each item.

    Raises:
        EvaluationError: There is no run.
        InvalidScoresError: The scoring mode is unknown.
    """

    name: str
    runs: tuple[SystemRun, ...]
    scoring_mode: str
    shots: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.runs:
            raise EvaluationError(f"runs: side {self.name!r} has none; at least one is needed")
        score_functions(self.scoring_mode)

    @property
    def digest(self) -> str:
        """Digests of the systems in the order of the runs, without repetitions."""
        return ",".join(dict.fromkeys(run.system.digest for run in self.runs))

    def chat(self, item: EvaluationItem) -> Chat:
        """Return the conversation of an item: few-shot examples, then its prompt."""
        turns = []
        for prompt, reply in self.shots:
            turns += [Message("user", prompt), Message("assistant", reply)]
        return (*turns, Message("user", item.prompt))
