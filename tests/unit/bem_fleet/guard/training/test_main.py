"""Training command of the heads, with a training that only returns a card."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.guard.scoring.heads import ENCODER
from bem_fleet.guard.training import __main__ as command


@pytest.mark.parametrize("served", [True, False])
def test_only_served_heads_set_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, served: bool
) -> None:
    """Heads of another seed get the served encoder and keep their thresholds in their card."""
    policy, heads = tmp_path / "policy.yaml", tmp_path / "guard"
    shutil.copy(DEFAULT_POLICY, policy)
    heads.mkdir()
    (heads / ENCODER).write_bytes(b"factors")
    out = heads if served else tmp_path / "seed-1"

    def train(folder: Path, _: object, seed: int) -> dict[str, Any]:
        assert (folder, seed) == (out, 1)
        assert (folder / ENCODER).read_bytes() == b"factors"
        return {"thresholds": {"abuse": 0.9123}}

    monkeypatch.setattr(command, "HEADS", heads)
    monkeypatch.setattr(command, "DEFAULT_POLICY", policy)
    monkeypatch.setattr(command, "train_heads", train)
    monkeypatch.setattr(command, "multilingual_cache", lambda _: None)
    monkeypatch.setattr("sys.argv", ["x", "--seed", "1", "--out", str(out)])
    command.main()
    abuse = {rule.threshold for rule in load_policy(policy).rules if rule.scorer == "abuse"}

    assert (abuse == {0.9123}) == served
