"""Typed operations and reply formats of compositional questions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ValueType = Literal["text", "number", "flag", "texts", "numbers", "flags"]
Value = str | int | bool | tuple[str, str] | tuple[int, int] | tuple[bool, bool]


@dataclass(frozen=True)
class Operation:
    """Typed operation on one value or on a pair of values.

    Attributes:
        name: Unique name.
        input_type: Type of the input; a plural type is a pair.
        output_type: Type of the output.
        instruction: Wording in a question; ``it`` is the input, ``they`` is a pair.
        apply: Function from input to output.
    """

    name: str
    input_type: ValueType
    output_type: ValueType
    instruction: str
    apply: Callable[..., Value]


def format_value(value: Value) -> str:
    """Return the text of a single value in an answer."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def parse_value(kind: str, answer: str) -> str | int | bool:
    """Return the typed value of a fact's answer."""
    if kind == "number":
        return int(answer)
    return answer == "yes" if kind == "flag" else answer


def _count_letters(text: str) -> int:
    return sum(char.isalpha() for char in text)


def _longer_text(pair: tuple[str, str]) -> str:
    return pair[0] if len(pair[0]) >= len(pair[1]) else pair[1]


_OPERATIONS = (
    Operation("upper", "text", "text", "write it in capital letters", str.upper),
    Operation("first_word", "text", "text", "take its first word", lambda t: t.split()[0]),
    Operation(
        "reverse_words",
        "text",
        "text",
        "write its words in reverse order",
        lambda t: " ".join(reversed(t.split())),
    ),
    Operation("count_words", "text", "number", "count its words", lambda t: len(t.split())),
    Operation("count_letters", "text", "number", "count its letters", _count_letters),
    Operation("plus_ten", "number", "number", "add 10 to it", lambda n: n + 10),
    Operation("double", "number", "number", "double it", lambda n: 2 * n),
    Operation("last_digit", "number", "number", "take its last digit", lambda n: n % 10),
    Operation("is_even", "number", "flag", "say whether it is even", lambda n: n % 2 == 0),
    Operation("over_hundred", "number", "flag", "say whether it is over 100", lambda n: n > 100),
    Operation("opposite", "flag", "flag", "give the opposite of it", lambda b: not b),
    Operation(
        "alphabetical_first",
        "texts",
        "text",
        "take the one that comes first in the alphabet",
        lambda p: min(p, key=str.lower),
    ),
    Operation(
        "longer", "texts", "text", "take the longer one (the first if they are equal)", _longer_text
    ),
    Operation("join", "texts", "text", "write them with ' and ' between", " and ".join),
    Operation(
        "same_initial",
        "texts",
        "flag",
        "say whether they begin with the same letter",
        lambda p: p[0][0].lower() == p[1][0].lower(),
    ),
    Operation("larger", "numbers", "number", "take the larger one", max),
    Operation("smaller", "numbers", "number", "take the smaller one", min),
    Operation("sum", "numbers", "number", "add them", sum),
    Operation(
        "difference",
        "numbers",
        "number",
        "subtract the smaller from the larger",
        lambda p: abs(p[0] - p[1]),
    ),
    Operation("both", "flags", "flag", "say whether both are yes", all),
    Operation("either", "flags", "flag", "say whether at least one is yes", any),
    Operation("agree", "flags", "flag", "say whether they are the same", lambda p: p[0] == p[1]),
)
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _OPERATIONS}

REPLY_FORMATS: dict[str, tuple[str, str]] = {
    "json": ('as JSON of the form {"answer": "<the answer>"}', '{{"answer": "{}"}}'),
    "tag": ("between <answer> and </answer>", "<answer>{}</answer>"),
    "line": ("as one line that begins with 'Answer: '", "Answer: {}"),
}
"""Reply formats by name: wording in the question, and template of the reply."""

STRICT_FORMATS: dict[str, tuple[str, str]] = {
    **REPLY_FORMATS,
    "csv": ('as the CSV row "answer","<the answer>"', '"answer","{}"'),
    "key_value": ("as ANSWER=<the answer>", "ANSWER={}"),
    "sentence": ("as the sentence 'The result is <the answer>.'", "The result is {}."),
}
"""All reply formats; questions about record facts use the six of them."""
