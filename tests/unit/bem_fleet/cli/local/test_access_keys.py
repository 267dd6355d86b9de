"""Keys that the local fleet makes at its start."""

from pathlib import Path

import pytest
from bem_fleet.cli.local.access_keys import prepare_keys
from bem_fleet.cli.local.plan import Plan
from fleet.access.keys import KeyEntry, KeyRing, KeysFileError, key_digest
from fleet.access.keys_editing import read_or_empty, with_key, write_keys
from fleet.access.principal import Role


def role(plan: Plan, key: Path) -> Role | None:
    """Return the role of the key in a file; None if it is unknown."""
    found = KeyRing(plan.keys_file).find(key.read_text().strip())
    return found.role if found else None


def test_operator_and_services_have_private_keys(tmp_path: Path) -> None:
    """Only the orchestrator's key is an operator's: it loads the adapters of canaries."""
    plan = Plan(run=tmp_path)
    prepare_keys(plan)
    files = [plan.operator_key, plan.keys_file, *plan.service_keys.iterdir()]

    assert role(plan, plan.operator_key) is Role.OPERATOR
    assert role(plan, plan.service_key("orchestrator")) is Role.OPERATOR
    assert role(plan, plan.service_key("gateway")) is Role.SERVICE
    assert role(plan, plan.service_key("validation")) is Role.SERVICE
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert plan.service_keys.stat().st_mode & 0o777 == 0o700


def test_next_start_keeps_people_and_renews_services(tmp_path: Path) -> None:
    """The operator's key and users' entries stay; every service gets a new key."""
    plan = Plan(run=tmp_path)
    prepare_keys(plan)
    user = KeyEntry.model_validate({"name": "web", "role": "user", "sha256": key_digest("k")})
    write_keys(plan.keys_file, with_key(read_or_empty(plan.keys_file), user))
    before = [plan.operator_key.read_text(), plan.service_key("gateway").read_text()]
    prepare_keys(plan)
    after = [plan.operator_key.read_text(), plan.service_key("gateway").read_text()]

    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]
    assert KeyRing(plan.keys_file).find("k")
    assert KeyRing(plan.keys_file).find(before[1].strip()) is None


def test_broken_keys_file_stops_the_start(tmp_path: Path) -> None:
    """It may hold users' keys, so it is never written over."""
    plan = Plan(run=tmp_path)
    plan.keys_file.write_text("keys: [")
    with pytest.raises(KeysFileError):
        prepare_keys(plan)

    assert plan.keys_file.read_text() == "keys: ["
