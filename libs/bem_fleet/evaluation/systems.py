"""What is compared: systems that answer conversations, and the sides they stand on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bem.errors import EvaluationError

from bem_fleet.scores.metrics import score_functions


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: What was said.
    """

    role: str
    content: str


Chat = tuple[Message, ...]


@dataclass(frozen=True)
class Decoding:
    """How answers are made; the same for all sides of a comparison.

    Attributes:
        temperature: 0 is greedy.
        max_tokens: Longest answer.
    """

    temperature: float = 0.0
    max_tokens: int = 48


@dataclass(frozen=True)
class Response:
    """What a system said.

    Attributes:
        text: The reply; empty when it was refused.
        prompt_tokens: Tokens of the rendered conversation.
        completion_tokens: Tokens generated, the end of turn not counted.
        refused: Why there is no reply, such as a filter's reason; empty when there is one.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    refused: str = ""


class System(Protocol):
    """Anything that answers: a base model, an adapter, a service behind a wire."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def digest(self) -> str:
        """Hash of all that determines its answers: base model and adapter version."""

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Yield (place in ``chats``, answer) as they come, in any order, each place once.

        Raises:
            EvaluationError: The system cannot answer.
        """


@dataclass(frozen=True)
class EvaluationItem:
    """One thing to answer.

    Attributes:
        key: The same for the same content, unique in a set.
        prompt: The user's message.
        golds: Gold answers, at least one.
        category: For tables by category.
    """

    key: str
    prompt: str
    golds: tuple[str, ...]
    category: str = ""


@dataclass(frozen=True)
class SystemRun:
    """A system with the seed that it was trained with, or that it samples with.

    Attributes:
        system: Who answers.
        seed: Of its training, and of its sampling when it samples.
    """

    system: System
    seed: int = 0


@dataclass(frozen=True)
class ComparisonSide:
    """One side of a comparison.

    Attributes:
        name: Unique in a comparison.
        runs: One for each seed.
        scoring_mode: Key of ``bem_fleet.scores.metrics.READINGS``.
        shots: Solved examples (prompt, reply) that stand before each item.

    Raises:
        EvaluationError: No run.
        InvalidScoresError: The reading is unknown.
    """

    name: str
    runs: tuple[SystemRun, ...]
    scoring_mode: str
    shots: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.runs:
            raise EvaluationError(f"side {self.name!r} has no run; at least one is needed")
        score_functions(self.scoring_mode)

    @property
    def digest(self) -> str:
        """The digests of its systems in the order of its runs."""
        return ",".join(dict.fromkeys(run.system.digest for run in self.runs))

    def chat(self, item: EvaluationItem) -> Chat:
        """Return the conversation that asks for an item."""
        turns = []
        for prompt, reply in self.shots:
            turns += [Message("user", prompt), Message("assistant", reply)]
        return (*turns, Message("user", item.prompt))
