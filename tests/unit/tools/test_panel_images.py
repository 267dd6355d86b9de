"""Pictures of the dashboards' panels, from canned answers of Prometheus' API."""

from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import pytest
from matplotlib.image import imread

from tools.panel_images import COLUMNS, DPI, PANEL_INCHES, PanelSource, draw

mpl.use("agg")
POINTS = [[1_700_000_000 + 5 * step, str(step)] for step in range(4)]
ANSWERS: dict[str, list[dict[str, Any]]] = {
    'up{namespace="local"}': [
        {"metric": {"pod": "a"}, "values": POINTS},
        {"metric": {"pod": "b"}, "values": POINTS[1:]},
    ],
    "absent": [],
}


def panel(expression: str) -> dict[str, Any]:
    """Return a panel as the dashboards have it."""
    target = {"expr": expression, "legendFormat": "pod {{pod}}"}
    return {
        "title": "t",
        "targets": [target],
        "fieldConfig": {"defaults": {"unit": "s"}},
    }


def answer(request: httpx.Request) -> httpx.Response:
    """Answer as Prometheus does; an unknown query is invalid."""
    found = ANSWERS.get(request.url.params["query"])
    if found is None:
        return httpx.Response(400, json={"status": "error"})
    return httpx.Response(200, json={"data": {"result": found}})


@pytest.fixture
def source() -> PanelSource:
    """A source of canned data."""
    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://p/api/v1")
    return PanelSource(client, "local", 60)


def test_lines_have_the_names_of_the_legend(source: PanelSource) -> None:
    """The namespace stands in the query, labels in the names."""
    found = source.series(panel('up{namespace="$namespace"}')["targets"][0])

    assert [name for name, _ in found] == ["pod a", "pod b"]
    assert [value for _, value in found[0][1]] == [0.0, 1.0, 2.0, 3.0]
    starts = [points[0][0] for _, points in found]
    assert starts[1] - starts[0] == pytest.approx(5 / 60)
    assert starts[0] < 0


@pytest.mark.slow
def test_all_panels_are_in_one_picture(source: PanelSource, tmp_path: Path) -> None:
    """Panels without data are drawn, and not counted."""
    panels = [panel('up{namespace="$namespace"}')] * 4 + [panel("absent")]
    shown = draw({"title": "board", "panels": panels}, source, tmp_path / "board.png")
    height, width, _ = imread(tmp_path / "board.png").shape

    assert shown == 4
    assert (width, height) == (
        round(PANEL_INCHES[0] * COLUMNS * DPI),
        round(2 * PANEL_INCHES[1] * DPI),
    )


def test_refused_query_is_an_error(source: PanelSource) -> None:
    """A picture with a panel that cannot be queried is none."""
    with pytest.raises(httpx.HTTPStatusError):
        source.series(panel("bad(")["targets"][0])
