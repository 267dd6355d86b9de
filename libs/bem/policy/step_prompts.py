"""Step prompts: what each step of a plan reads, and the typed value that it passes on.

A request has passages and a question. The question's sentences that begin with "Then" say what to
do with the retrieved values, those that begin with "Reply" say in which format; what remains says
what to retrieve. Each step reads its own part alone: the passages never reach ``reason``, and
``formalize`` sees a value and a format.

Example: for ``Take the answer to this question: How tall is it? Then double it. Reply only with the
result, as JSON.`` the step ``reason`` reads ``Values: 12`` and ``Then double it.``
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bem.errors import InvalidRequestError
from bem.policy.actions import MacroAction

RESULT_SEPARATOR = ";"
"""Separates the results of a chain of operations; the last one is the value."""
VALUE_SEPARATOR = "|"
"""Separates two retrieved values."""
MAX_VALUE_CHARS = 512

ValueKind = Literal["text", "number", "flag"]
Message = Mapping[str, str]
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=(?:Then|Reply)\b)")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class QuestionParts:
    """Parts of a question.

    Attributes:
        retrieval: What to retrieve; the whole question if it has no other part.
        operation: What to do with the values; the whole question if it does not say.
        reply_format: How to reply; the whole question if it does not say.
    """

    retrieval: str
    operation: str
    reply_format: str


@dataclass(frozen=True)
class PlanInput:
    """Input of a plan.

    Attributes:
        passages: Text from which values are retrieved; may be empty.
        question: Question about it.
        history: Earlier messages of the conversation, which steps with passages see.
    """

    passages: str
    question: str
    history: tuple[Message, ...] = ()


@dataclass(frozen=True)
class StepPrompt:
    """Prompt of a step as a conversation.

    Attributes:
        messages: Messages, the step's own one last.
        shared: Messages whose rendering is a common prefix of all steps that see the passages;
            empty for a step that does not.
    """

    messages: tuple[Message, ...]
    shared: tuple[Message, ...] = field(default=())


@dataclass(frozen=True)
class TypedValue:
    """Value that one step passes to the next.

    Attributes:
        kind: ``number``, ``flag`` (yes or no) or ``text``; of a pair, that of both values.
        parts: One value, or two.
    """

    kind: ValueKind
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The values in one line."""
        return f" {VALUE_SEPARATOR} ".join(self.parts)


def split_question(question: str) -> QuestionParts:
    """Return the parts of a question."""
    retrieval, operations, formats = [], [], []
    for sentence in _SENTENCE.split(question.strip()):
        if sentence.startswith("Then"):
            operations.append(sentence)
        elif sentence.startswith("Reply"):
            formats.append(sentence)
        else:
            retrieval.append(sentence)
    return QuestionParts(
        " ".join(retrieval) or question,
        " ".join(operations) or question,
        " ".join(formats) or question,
    )


def split_input(messages: Sequence[Message]) -> PlanInput:
    """Return passages and question of a conversation.

    The last paragraph of the last message is the question, the text before it the passages.

    Args:
        messages: Messages with ``role`` and ``content``; the last one is the user's.

    Raises:
        InvalidRequestError: The last message is not the user's, or has no text.
    """
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise InvalidRequestError(
            "chat.messages", "a plan answers a user message with text; let it be the last message"
        )
    passages, _, question = messages[-1]["content"].strip().rpartition("\n\n")
    return PlanInput(passages.strip(), question.strip(), tuple(messages[:-1]))


def step_prompt(action: MacroAction, request: PlanInput, value: TypedValue | None) -> StepPrompt:
    """Return the prompt of a step.

    Args:
        action: Step of the plan.
        request: Input of the plan.
        value: Value of the step before it; None for the first step.
    """
    task = _task_text(action, request, value)
    if action.scope == "values" or not request.passages:
        history = request.history if action.scope != "values" else ()
        return StepPrompt((*history, {"role": "user", "content": task}))
    shared = (*request.history, {"role": "user", "content": request.passages})
    own = {"role": "user", "content": f"{request.passages}\n\n{task}"}
    return StepPrompt((*request.history, own), shared)


def parse_value(task: str, text: str) -> TypedValue | None:
    """Return the typed value of an intermediate step's output; None if it has none.

    Args:
        task: Task of the step, ``retrieve`` or ``reason``.
        text: Output of the step; only its first line counts.
    """
    line = text.strip().partition("\n")[0].strip()[:MAX_VALUE_CHARS]
    if task == "reason":
        line = line.rpartition(RESULT_SEPARATOR)[2].strip()
    parts = tuple(part.strip() for part in line.split(VALUE_SEPARATOR))
    if not all(parts):
        return None
    return TypedValue(_kind_of(parts), parts)


def _task_text(action: MacroAction, request: PlanInput, value: TypedValue | None) -> str:
    if value is None:
        question = request.question
        return split_question(question).retrieval if action.adapter == "retrieve" else question
    parts = split_question(request.question)
    if action.adapter == "reason":
        return f"Values: {value.text}\n{parts.operation}"
    if action.adapter == "formalize":
        return f"Value: {value.text}\n{parts.reply_format}"
    # dict.fromkeys: a question without parts is not repeated.
    tasks = dict.fromkeys((parts.operation, parts.reply_format))
    return f"Values: {value.text}\n{' '.join(tasks)}"


def _kind_of(parts: Sequence[str]) -> ValueKind:
    if all(_NUMBER.fullmatch(part) for part in parts):
        return "number"
    if all(part.lower() in ("yes", "no") for part in parts):
        return "flag"
    return "text"
