"""A JSONL file that is only added to and survives the death of its writer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError

Row = dict[str, Any]


class Journal:
    """Rows on disk in the order in which they were added; none is held in memory.

    Opening cuts off a last line that a killed writer left unfinished; a broken line elsewhere is
    an error, since no crash makes one.

    Args:
        path: Made with its folder at the first row.

    Attributes:
        count: How many rows the file held when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        if path.exists():
            self._cut()

    def rows(self) -> Iterator[Row]:
        """Yield what the file held when it was opened.

        Raises:
            DataFormatError: A line is not a JSON object.
        """
        if not self.count:
            return
        with self.path.open("rb") as file:
            for number in range(1, self.count + 1):
                yield self._parse(number, file.readline())

    def add(self, *rows: Row) -> None:
        """Append rows; they are with the operating system when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def _cut(self) -> None:
        whole = 0
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(whole)
                    return
                whole += len(line)
                self.count += 1

    def _parse(self, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError as err:
            raise DataFormatError(f"{self.path.name}:{number} is not JSON: {err}") from err
        if not isinstance(row, dict):
            raise DataFormatError(f"{self.path.name}:{number} is not a JSON object")
        return row
