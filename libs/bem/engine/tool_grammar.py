"""Tool grammar: outputs in which an assistant calls tools, with the arguments under a schema.

A call is written as the templates of Qwen, Granite, SmolLM3 and others of the Hermes family teach
it::

    <tool_call>
    {"name": "lookup", "arguments": {"city": "Paris"}}
    </tool_call>

Everything outside the arguments is spelled in one way, so that a reader needs no parser.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bem.engine.grammar import JSON_OPTIONS, OutputForm

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ToolSignature:
    """What a grammar knows of a tool.

    Attributes:
        name: Letters, digits, underscores and hyphens.
        parameters: JSON Schema of the arguments; None for no arguments.
    """

    name: str
    parameters: dict[str, Any] | None = None


def tool_form(tools: Sequence[ToolSignature], *, required: bool, parallel: bool) -> OutputForm:
    """Return the form of an answer that may call tools.

    Args:
        tools: Tools that may be called; at least one.
        required: Whether the answer is calls alone; otherwise it is text, or text and then calls.
        parallel: Whether several calls may follow one another.
    """
    more = f" ({_quote(chr(10) + OPEN)} body)*" if parallel else ""
    lines = [
        f"start: {_quote(OPEN)} body{more}" if required else f"start: TEXT | opening body{more}"
    ]
    if not required:
        # The lexer ends a lazy lexeme at the first mark, so that text alone never has one.
        lines += [f"opening[lazy]: TEXT {_quote(OPEN)}", r"TEXT: /(.|\n)*/"]
    calls = " | ".join(f"call_{index}" for index in range(len(tools)))
    lines.append(f"body: {_quote(chr(10))} ({calls}) {_quote(chr(10) + CLOSE)}")
    for index, tool in enumerate(tools):
        head = f'{{"name": "{tool.name}", "arguments": '
        lines.append(f"call_{index}: {_quote(head)} %json {_schema(tool)} {_quote('}')}")
    return OutputForm("tools", "\n".join(lines) + "\n")


def _schema(tool: ToolSignature) -> str:
    own = _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    return json.dumps({**own, "x-guidance": JSON_OPTIONS})


def _quote(text: str) -> str:
    return json.dumps(text)
