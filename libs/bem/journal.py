"""A JSONL file that is only added to and survives the death of its writer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError

Row = dict[str, Any]


class Journal:
    """Rows on disk in the order in which they were added.

    Opening cuts off a last line that a killed writer left unfinished; a broken line elsewhere is
    an error, since no crash makes one.

    Args:
        path: Made with its folder at the first row.

    Raises:
        DataFormatError: A line before the last is not a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []
        if path.exists():
            self._read()

    def rows(self) -> Iterator[Row]:
        """Yield what the file held when it was opened."""
        yield from self._rows

    @property
    def count(self) -> int:
        """How many rows the file held when it was opened."""
        return len(self._rows)

    def add(self, *rows: Row) -> None:
        """Append rows; they are with the operating system when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError as err:
                raise DataFormatError(f"{self.path.name}:{number} is not JSON: {err}") from err
            if not isinstance(row, dict):
                raise DataFormatError(f"{self.path.name}:{number} is not a JSON object")
            self._rows.append(row)
