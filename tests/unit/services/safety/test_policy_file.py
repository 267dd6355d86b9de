"""Hot reload of the safety policy file."""

import shutil
from pathlib import Path

from bem_fleet.guard.policy import DEFAULT_POLICY
from bem_fleet.services.safety.policy_file import PolicyFile


def test_valid_change_is_applied_and_invalid_one_keeps_the_policy(tmp_path: Path) -> None:
    """An invalid or missing file keeps the policy in force; a valid one replaces it."""
    path = Path(shutil.copy(DEFAULT_POLICY, tmp_path / "policy.yaml"))
    file = PolicyFile(path)
    first = file.current
    path.write_text("constraints: 7")
    assert not file.refresh()
    assert file.current is first
    assert "constraints" in file.error or "version" in file.error
    path.write_text(DEFAULT_POLICY.read_text().replace('version: "1"', 'version: "2"'))
    assert file.refresh()
    assert file.error == ""
    assert file.current.version.startswith("2+")
    path.unlink()
    assert not file.refresh()
    assert file.current.version.startswith("2+")
