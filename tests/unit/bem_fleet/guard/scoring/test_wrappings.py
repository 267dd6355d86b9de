"""Text inside of wrappings."""

import json

import pytest
from bem_fleet.guard.scoring.wrappings import MAX_UNWRAPPED_CHARS, unwrap
from hypothesis import given
from hypothesis import strategies as st

REQUEST = "how deep is the harbour of the old town"


@pytest.mark.parametrize(
    "wrapped",
    [
        json.dumps({"role": "user", "content": REQUEST}),
        json.dumps({"messages": [{"content": [{"text": REQUEST}]}]}, indent=2),
        f'{{"prompt": "{REQUEST}", broken',
        f'task:\n  question: "{REQUEST}"\n',
        f"# {REQUEST}\ndef main():\n    pass",
        f"int x; \n// {REQUEST}\n",
        f"/* {REQUEST} */",
        f"<!-- {REQUEST} -->",
        f"-- {REQUEST}\nSELECT 1;",
        f'def f():\n    """{REQUEST}"""',
        f"ask('{REQUEST}')",
        f'query = "{REQUEST}"',
        f"```json\n{json.dumps({'q': REQUEST})}\n```",
        f"<question>{REQUEST}</question>",
        REQUEST.replace(" ", "%20"),
        "".join(f"\\u{ord(c):04x}" for c in REQUEST),
        "".join(f"&#{ord(c)};" for c in REQUEST),
    ],
)
def test_request_is_read_without_its_wrapping(wrapped: str) -> None:
    """One reading is the request, and little else."""
    readings = [" ".join(one.split()) for one in unwrap(wrapped)]

    assert any(REQUEST in one and len(one) < len(REQUEST) + 12 for one in readings), readings


@pytest.mark.parametrize(
    "text",
    [
        'Translate "leave the building at once, all of you" into French.',
        "He said: 'never mind what the others told you before'.",
        "Plain words without any wrapping.",
        "a < b and b > c",
    ],
)
def test_quotation_is_no_wrapping(text: str) -> None:
    """What is quoted in a sentence is judged with that sentence only."""
    assert unwrap(text) == []


@given(st.text(alphabet=st.sampled_from("{}[]\"':,#/*-<>= ab\n\\u0041%&;"), max_size=400))
def test_any_text_is_unwrapped_within_bounds(text: str) -> None:
    """Malformed wrappings raise nothing, and every reading is bounded."""
    assert all(0 < len(one) <= MAX_UNWRAPPED_CHARS for one in unwrap(text))


def test_nested_json_is_read_without_recursion() -> None:
    """A document that is nested beyond the interpreter's stack falls back to its fields."""
    deep = "[" * 100_000 + '"x"' + "]" * 100_000

    assert unwrap(deep) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "41" * 100_000,
        "x" * 200_000 + ": ",
        'a:"' + "b" * 200_000,
        'a:"\\' * 60_000,
        "a" + " " * 200_000 + 'b: "',
        "# a" + " " * 200_000 + "b",
        "/* a" + "*/ " * 60_000 + "b",
        "#" * 200_000,
        "--" * 100_000 + "\n",
        " " * 200_000,
        '"""' + "a" * 200_000,
        '="' * 100_000,
        "return" + " " * 200_000 + "x",
        "<a" * 100_000,
        "<a " + "b " * 100_000,
        "```" * 60_000,
        "%2" * 100_000,
        "&#" * 100_000,
    ],
    ids=range(18),
)
def test_work_is_linear(text: str) -> None:
    """Long runs take milliseconds; a scan from each of their places would take minutes."""
    assert all(len(one) <= MAX_UNWRAPPED_CHARS for one in unwrap(text))


@pytest.mark.parametrize("text", ["\\ud800 no, " * 4, '{"a": "\\udc00 is not a letter"}'])
def test_half_of_a_pair_is_replaced(text: str) -> None:
    """An escaped surrogate alone is no text: no encoder would take the reading."""
    readings = unwrap(text)

    assert readings
    assert all("\N{REPLACEMENT CHARACTER}" in one for one in readings if "\\u" not in one)
    assert all(one.encode() for one in readings)


@pytest.mark.parametrize("end", ["", " */", "-->", " -->  ", "*/\t"])
def test_comment_is_read_without_its_end(end: str) -> None:
    """Marks of the end and the white space around them are no words of the comment."""
    assert unwrap(f"/* {REQUEST}{end}\nint x;")[0] == REQUEST
