"""Missions in files: the cluster's schema holds, and what is written is never half there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.services.orchestrator.kube.api import InvalidError, ObjectNotFoundError
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.local.mission_schema import MissionSchema
from fleet.files import write_json_atomic

CRD = Path(__file__).resolve().parents[5] / "charts/crds/missions.yaml"
PATH = "/apis/fleet.bem.dev/v1alpha1/namespaces/here/missions/router"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one mission."""
    write_json_atomic(
        tmp_path / "router.json", {"metadata": {"name": "router"}, "spec": {"model": "qa"}}
    )
    return tmp_path


def files(folder: Path) -> MissionFiles:
    """Open the folder."""
    return MissionFiles(folder, MissionSchema(CRD), "here")


async def test_what_was_written_is_there_after_a_restart(folder: Path) -> None:
    """Specification and status, each by its own path; whoever listens has been told."""
    before = files(folder)
    await before.merge_patch(PATH, {"spec": {"canary": {"model": "qa-v2"}}})
    await before.merge_patch(f"{PATH}/status", {"status": {"phase": "Running"}})
    after = files(folder).get_mission("here/router")

    assert before.changed.is_set()
    assert after is not None
    assert after.canary is not None
    assert (after.model, after.canary.model, after.status) == ("qa", "qa-v2", {"phase": "Running"})


@pytest.mark.parametrize(
    ("canary", "named"),
    [
        ({"model": "b", "colour": 1}, "spec.canary: .*'colour'"),
        ({"model": "b", "steps": [{"weight": 101}]}, r"canary\.steps\[0\]\.weight: 101 .*100"),
        ({"model": "b", "steps": [{"weight": 9}, {"weight": 5}]}, "weight: must not fall"),
        ({"model": "b", "analysis": {"alpha": 0.9}}, r"spec\.canary\.analysis\.alpha: 0\.9 .*0\.5"),
        ({"model": 3}, r"spec\.canary\.model: 3 is not of type 'string'"),
        ({"image": "i"}, "needs a cluster"),
        ({"model": "b", "image": "i"}, "needs a cluster"),
    ],
)
async def test_a_wrong_canary_is_refused_by_name(
    folder: Path, canary: dict[str, Any], named: str
) -> None:
    """The message names field, value and limit, and nothing has changed."""
    before = (folder / "router.json").read_bytes()
    with pytest.raises(InvalidError, match=named):
        await files(folder).merge_patch(PATH, {"spec": {"canary": canary}})

    assert (folder / "router.json").read_bytes() == before


async def test_a_patch_of_an_unknown_mission_is_refused(folder: Path) -> None:
    """The error names the mission that does not exist."""
    with pytest.raises(ObjectNotFoundError, match="other"):
        await files(folder).merge_patch(PATH.replace("router", "other"), {})


def test_a_crash_while_writing_leaves_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is not read as a mission."""

    def crash(_descriptor: int) -> None:
        raise OSError("power is gone")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="power"):
        write_json_atomic(
            folder / "router.json", {"metadata": {"name": "router"}, "spec": {"model": "new"}}
        )

    assert [mission.model for mission in files(folder).list_missions()] == ["qa"]


@pytest.mark.parametrize("text", ["{", "[]", '{"spec": {}}', json.dumps({"metadata": {}})])
def test_a_file_that_is_no_mission_is_named(folder: Path, text: str) -> None:
    """The orchestrator does not start without saying which."""
    (folder / "broken.json").write_text(text)
    with pytest.raises(InvalidError, match=r"broken\.json"):
        files(folder)
