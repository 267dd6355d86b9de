"""A missing tool is a skip on a desk and a failure under CI."""

from pathlib import Path

import pytest

from tests.support.requirements import find, require, unavailable

TOOL = "bem-fleet-tool-that-nobody-has"


@pytest.fixture(params=["true", "1", "", "false"])
def ci(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the environment says that this is CI."""
    monkeypatch.setenv("CI", request.param)
    return request.param in {"true", "1"}


def test_missing_tool_fails_only_under_ci(ci: bool) -> None:
    """CI=true turns the skip of a missing tool into a failure that names it."""
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match=TOOL):
        require(TOOL)


def test_missing_cluster_fails_only_under_ci(ci: bool) -> None:
    """What is no binary is treated alike."""
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match="no cluster"):
        unavailable("no cluster")


def test_missing_tool_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the target that fetches the tool."""
    monkeypatch.setenv("CI", "")
    for name in ("PATH", "KUBEBUILDER_ASSETS", "BEM_CLUSTER_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="make control-plane"):
        require("etcd")


def test_fetched_tool_is_found_before_the_one_on_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """KUBEBUILDER_ASSETS comes before the local cluster's folder, and that before PATH."""
    monkeypatch.setenv("BEM_CLUSTER_HOME", str(tmp_path))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    places = [tmp_path / "assets" / "sh", tmp_path / "bin" / "sh"]
    paths = [find("sh")]
    for place in reversed(places):
        place.parent.mkdir()
        place.touch()
        paths.append(find("sh"))

    assert paths[0]
    assert paths[1:] == [str(place) for place in reversed(places)]
