"""One item of any set, in the one form that every later stage takes."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from bem.errors import DataFormatError


@dataclass(frozen=True)
class Record:
    """A question, prompt or text with what is known about it.

    Attributes:
        key: Digest of passage and question, 16 hexadecimal characters.
        question: What is asked, or the text itself where nothing is asked.
        passage: What it is asked about; may be empty.
        answers: Gold answers; empty where none can be.
        category: Kind of question, harm or bias, for tables by category.
        labels: Scores and marks of the source.
    """

    key: str
    question: str
    passage: str = ""
    answers: tuple[str, ...] = ()
    category: str = ""
    labels: dict[str, float | str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return it as it is written to JSONL."""
        return {**asdict(self), "answers": list(self.answers)}


def make_record(
    question: str,
    passage: str = "",
    answers: tuple[str, ...] = (),
    *,
    category: str = "",
    labels: dict[str, float | str] | None = None,
) -> Record:
    """Make a record with its key."""
    key = hashlib.sha256(f"{passage}\n{question}".encode()).hexdigest()[:16]
    return Record(key, question, passage, answers, category, labels or {})


def parse_record(row: dict[str, Any]) -> Record:
    """Read a record back.

    Raises:
        DataFormatError: A field is missing or unknown.
    """
    try:
        return Record(**{**row, "answers": tuple(row["answers"])})
    except (TypeError, KeyError) as err:
        raise DataFormatError(f"row {str(row)[:80]!r} is no record: {err}") from err
