"""Record type shared by all datasets and pipeline stages."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from bem.errors import DataFormatError


@dataclass(frozen=True)
class Record:
    """Question, prompt or text with its gold answers and labels.

    Attributes:
        key: Digest of passage and question, 16 hexadecimal characters.
        question: Question, or the text itself in datasets without questions.
        passage: Passage of the question; may be empty.
        answers: Gold answers; empty in datasets without answers.
        category: Kind of question, harm or bias, for tables by category.
        labels: Scores and labels of the source.
    """

    key: str
    question: str
    passage: str = ""
    answers: tuple[str, ...] = ()
    category: str = ""
    labels: dict[str, float | str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {**asdict(self), "answers": list(self.answers)}


def make_record(
    question: str,
    passage: str = "",
    answers: tuple[str, ...] = (),
    *,
    category: str = "",
    labels: dict[str, float | str] | None = None,
) -> Record:
    """Return a record with its key computed from passage and question."""
    key = hashlib.sha256(f"{passage}\n{question}".encode()).hexdigest()[:16]
    return Record(key, question, passage, answers, category, labels or {})


def parse_record(row: dict[str, Any]) -> Record:
    """Return the record of a JSON object, the inverse of ``Record.row``.

    Raises:
        DataFormatError: A field is missing or unknown.
    """
    try:
        return Record(**{**row, "answers": tuple(row["answers"])})
    except (TypeError, KeyError) as err:
        raise DataFormatError(f"row {str(row)[:80]!r}: not a record: {err}") from err
