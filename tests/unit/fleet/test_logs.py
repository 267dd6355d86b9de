"""What a log line holds."""

import json
from collections.abc import Iterator

import pytest
import structlog
from fleet import logs


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    """Leave no logger behind that writes to this test's captured stream."""
    yield
    structlog.reset_defaults()


def test_line_is_json_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is one JSON object that names the request it belongs to."""
    logs.setup("INFO")
    token = logs.request_id.set("abc")
    logs.get("sample").info("answered", tokens=3)
    logs.request_id.reset(token)

    line = json.loads(capsys.readouterr().err.strip().splitlines()[-1])

    assert line["event"] == "answered"
    assert (line["request_id"], line["component"], line["tokens"]) == ("abc", "sample", 3)
    assert line["time"].endswith("Z")


def test_line_names_trace_and_span(capsys: pytest.CaptureFixture[str]) -> None:
    """A log line is found by the trace that it belongs to."""
    logs.setup("INFO")
    token = logs.traceparent.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    logs.get("sample").info("answered")
    logs.traceparent.reset(token)
    logs.get("sample").info("idle")

    inside, outside = map(json.loads, capsys.readouterr().err.strip().splitlines())

    assert inside["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert inside["span_id"] == "b7ad6b7169203331"
    assert not {"trace_id", "span_id"} & outside.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
def test_invalid_trace_context_is_dropped(wrong: str) -> None:
    """What W3C trace context calls invalid is not passed on."""
    logs.adopt_context("r", wrong)

    assert logs.traceparent.get() == ""


def test_line_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """The level setting is obeyed."""
    logs.setup("ERROR")
    logs.get("sample").warning("quiet")

    assert "quiet" not in capsys.readouterr().err


def test_caller_text_is_adopted_only_in_the_form_of_an_id() -> None:
    """Ids end up in logs and audit records: e-mail addresses, numbers and sentences do not."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    kept = [logs.adopt_context(text, trace) for text in ("req-42", "123456", "a.b_c")]
    traced = logs.traceparent.get()
    numbers = ("078-05-1120", "212.555.0142", "4111111111111111")
    given = ("jo@example.com", "my name is Jo", "", "x" * 129, *numbers)
    replaced = [logs.adopt_context(text, text) for text in given]

    assert kept == ["req-42", "123456", "a.b_c"]
    assert traced == trace
    assert not set(replaced) & set(given)
    assert len(set(replaced)) == len(given)
    assert logs.traceparent.get() == ""
