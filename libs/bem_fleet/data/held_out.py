"""Held-out sets: closed to everything but a final evaluation, which is counted.

A loader asks ``require_open`` before it hands out held-out items. That fails unless the code runs
inside ``final_evaluation``, which a command opens around the one run that writes a report. The
register counts the openings of each set, and the report states them: a setting that is chosen
after the fifth look is a setting of the held-out data.

A set that was looked at too often is retired: its items are drawn anew (a higher draw, in
``HELD_OUT_SETS``) and its counter starts again.

Example: ``with final_evaluation("python -m bem_fleet.studies.guard gate") as opening: ...`` and
then ``report["held_out"] = opening.counts``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bem.errors import BemError, DataFormatError
from bem.files import write_atomic

from bem_fleet.checkout import ROOT

REGISTER = ROOT / "results/held_out_openings.json"
HELD_OUT = "held_out"

HELD_OUT_SETS: Mapping[str, int] = MappingProxyType({
    "red-team": 7,
    "benign": 7,
    "multiple-choice": 1,
    "guard-texts": 2,
    "guard-languages": 2,
    "toxicity": 1,
    "passage-qa": 1,
    "compositions": 1,
    "record-facts": 1,
    "books": 1,
    "instruction-families": 1,
})  # fmt: skip
"""Number of the draw of each held-out set; a higher one retires the older items."""


class HeldOutClosedError(BemError):
    """Held-out items were asked for outside a final evaluation."""


@dataclass
class Opening:
    """One run of a final evaluation.

    Attributes:
        command: Command line that opens the sets.
        register: File that counts the openings.
        counts: How often each set that this run read has been opened, this run included.
    """

    command: str
    register: Path
    counts: dict[str, int] = field(default_factory=dict)

    def read(self, name: str) -> None:
        """Count the opening of a set at its first reading in this run.

        The register is written before the items are handed out: a run that fails afterwards may
        have shown them.
        """
        if name in self.counts:
            return
        entries = read_register(self.register)
        entry = entries.get(name)
        if entry is None or entry["draw"] != HELD_OUT_SETS[name]:
            entry = {"draw": HELD_OUT_SETS[name], "opened": 0, "commands": {}}
        entry["opened"] += 1
        entry["commands"][self.command] = entry["commands"].get(self.command, 0) + 1
        entries[name] = entry
        text = json.dumps(entries, indent=1, sort_keys=True) + "\n"
        write_atomic(self.register, text.encode())
        self.counts[name] = entry["opened"]


_INSPECTING = Opening("inspection", Path())
_OPENING: ContextVar[Opening | None] = ContextVar("held-out opening", default=None)


@contextmanager
def final_evaluation(command: str, register: Path = REGISTER) -> Iterator[Opening]:
    """Open the held-out sets for the run that writes a report.

    Args:
        command: Command line, for the register.
        register: File that counts the openings.
    """
    opening = Opening(command, register)
    token = _OPENING.set(opening)
    try:
        yield opening
    finally:
        _OPENING.reset(token)


@contextmanager
def inspection() -> Iterator[None]:
    """Open the held-out sets without counting, for code that compares texts and scores nothing.

    The splitter and the leak audit need it, and data cards, which publish numbers of rows. Only
    modules of ``bem_fleet.data`` may use it; a test searches for others.
    """
    token = _OPENING.set(_INSPECTING)
    try:
        yield
    finally:
        _OPENING.reset(token)


def require_open(name: str, split: str = HELD_OUT) -> None:
    """Check that items of a split may be read, and count the opening of a held-out set.

    Args:
        name: Key of ``HELD_OUT_SETS``.
        split: Split that is read; only ``held_out`` is ever closed.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    if name not in HELD_OUT_SETS:
        raise DataFormatError(
            f"held-out set {name!r} is unknown; known: {', '.join(HELD_OUT_SETS)}"
        )
    if split != HELD_OUT:
        return
    opening = _OPENING.get()
    if opening is None:
        raise HeldOutClosedError(
            f"held-out set {name!r}: is closed; only the command that writes a final report opens "
            "it (bem_fleet.data.held_out.final_evaluation); use the dev split"
        )
    if opening is not _INSPECTING:
        opening.read(name)


def read_register(path: Path = REGISTER) -> dict[str, dict[str, Any]]:
    """Return the register: draw, number of openings and commands of each set that was opened.

    Raises:
        DataFormatError: The file is not a register.
    """
    if not path.exists():
        return {}
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries.values():
            entry["draw"], entry["opened"], entry["commands"].get("")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataFormatError(f"{path.name}: not a register of openings: {err!r}") from err
    return entries
