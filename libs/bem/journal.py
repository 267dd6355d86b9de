"""Append-only JSONL journal that survives a killed writer.

Caches and training curves are journals. A process may be killed while it writes a line; the next
one that opens the file cuts the partial line off and continues.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError

Row = dict[str, Any]


class Journal:
    """Rows of a JSONL file in the order in which they were added; none is kept in memory.

    Opening the file removes a partial last line. A malformed line anywhere else is an error,
    because a crash cannot produce one.

    Args:
        path: File; created with its folder when the first row is added.

    Attributes:
        count: Number of rows in the file when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        if path.exists():
            self._truncate_partial_line()

    def rows(self) -> Iterator[Row]:
        """Yield the rows that the file had when it was opened.

        Raises:
            DataFormatError: A line is not a JSON object.
        """
        if not self.count:
            return
        with self.path.open("rb") as file:
            for number in range(1, self.count + 1):
                yield self._parse(number, file.readline())

    def add(self, *rows: Row) -> None:
        """Append rows; the operating system has them when this returns, without fsync."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def _truncate_partial_line(self) -> None:
        complete = 0
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(complete)
                    return
                complete += len(line)
                self.count += 1

    def _parse(self, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError as err:
            raise DataFormatError(
                f"{self.path.name}:{number} is not JSON: {err}; remove the line or the file"
            ) from err
        if not isinstance(row, dict):
            raise DataFormatError(
                f"{self.path.name}:{number} is not a JSON object; remove the line or the file"
            )
        return row
