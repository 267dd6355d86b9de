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
