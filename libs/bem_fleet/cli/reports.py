"""Reports of commands: lines and tables for people, or JSON with ``--json``.

On a terminal, tables are drawn with lines and colours; elsewhere they are plain columns that do not
depend on a width, for ``grep`` and ``awk``. JSON is one object or list, on one line.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, ParamSpec, get_type_hints

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bem_fleet.cli.application import YES
from bem_fleet.cli.tables import format_table

P = ParamSpec("P")
JSON = Parameter(
    "as_json",
    Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="print JSON")],
)
"""Option of every command that prints a report."""


@dataclass(frozen=True)
class Table:
    """Rows of equally many cells; the first row is the heading."""

    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """What a command has found or done.

    Attributes:
        data: The same as JSON; a message becomes its JSON form, with the proto's names.
        parts: Lines and tables in order.
        code: Exit code.
    """

    data: Message | Mapping[str, Any] | Sequence[Any]
    parts: Sequence[str | Table]
    code: int = YES


def print_report(report: Report, *, as_json: bool) -> int:
    """Print a report and return its exit code."""
    if as_json:
        print(json.dumps(data_of(report.data)))
        return report.code
    for part in report.parts:
        if isinstance(part, str):
            print(part)
        else:
            print_table(part.rows)
    return report.code


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of which is the heading."""
    if not sys.stdout.isatty():
        print(format_table(rows))
        return
    heading, *others = rows
    table = RichTable(header_style="bold")
    for cell in heading:
        table.add_column(Text(cell))
    for row in others:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def data_of(data: Any) -> Any:
    """Return messages in their JSON form, in mappings and lists too."""
    if isinstance(data, Message):
        return MessageToDict(
            data, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    if isinstance(data, Mapping):
        return {key: data_of(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [data_of(one) for one in data]
    return data


def prints_report(command: Callable[P, Report]) -> Callable[P, int]:
    """Give a command the option ``--json``; its report is printed, and its exit code returned."""

    def run(*arguments: P.args, **options: P.kwargs) -> int:
        as_json = bool(options.pop("as_json", False))
        return print_report(command(*arguments, **options), as_json=as_json)

    return with_options(command, run, JSON)


def with_options(
    command: Callable[..., Any], run: Callable[P, int], *added: Parameter
) -> Callable[P, int]:
    """Return ``run`` with the parameters of a command and further options, as typer reads them.

    Args:
        command: Function whose name, help and parameters are taken.
        run: Function that is called; it takes the added options out of its keywords.
        added: Keyword-only parameters with typer's annotations.
    """
    hints = get_type_hints(command, include_extras=True)
    own = [
        one.replace(annotation=hints[one.name]) for one in signature(command).parameters.values()
    ]
    wrapped = wraps(command)(run)
    wrapped.__signature__ = signature(command).replace(  # type: ignore[attr-defined] # PEP 362
        parameters=[*own, *added], return_annotation=int
    )
    wrapped.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return wrapped
