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


def test_line_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """The level setting is obeyed."""
    logs.setup("ERROR")
    logs.get("sample").warning("quiet")

    assert "quiet" not in capsys.readouterr().err
