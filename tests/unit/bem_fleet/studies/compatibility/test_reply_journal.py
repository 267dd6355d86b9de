"""Replies that are kept, on the tiny model."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem_fleet.studies.compatibility import mission_items, shared_engine
from bem_fleet.studies.compatibility.arms import Arm, Cell
from bem_fleet.studies.compatibility.reply_journal import ReplyJournal, Shard
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts

from tests.support.compatibility_seed import WithholdingGuard, load_tiny, tiny_sites, write_seed

CELL = Cell(Arm(("online",)), "online", 6)


def journal(seed: SeedArtifacts, folder: Path, place: int = 0, count: int = 1) -> ReplyJournal:
    """Return the journal of a shard."""
    return ReplyJournal(
        seed, folder, load_tiny, WithholdingGuard, weights="fp32", shard=Shard(place, count)
    )


@pytest.mark.slow
def test_shards_answer_a_part_each_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a shard finds the replies of both; a mission that is idle shares them."""
    monkeypatch.setattr(shared_engine, "open_bank", tiny_sites)
    seed = write_seed(tmp_path / "seed")
    lines: list[str] = []
    for place in range(2):
        half = journal(seed, tmp_path / "kept", place, 2)
        with pytest.raises(EvaluationError, match=f"{6 - 3 * place} of online on online's set"):
            half.replies(CELL, "dev")
        half.answer([CELL], "dev", lines.append)
        half.close()
    whole = journal(seed, tmp_path / "kept")
    pair = Cell(Arm(("online", "memory")), "online", 6)
    whole.answer([CELL], "dev", lines.append)

    assert [line.rpartition(": ")[2] for line in lines] == ["3", "3"]
    assert len(whole.replies(CELL, "dev")) == 6
    assert whole.system(CELL.arm, "dev") != whole.system(pair.arm, "dev")
    key = mission_items.mission_items("online", "dev", 6)[4].key
    assert len(whole.replies(CELL, "dev", frozenset([key]))) == 1


def test_a_systems_digest_is_of_what_acts(tmp_path: Path) -> None:
    """Online without a bank changes no reply, so both arms are one system."""
    kept = journal(SeedArtifacts(0, tmp_path), tmp_path)

    assert kept.system(Arm(("online",)), "dev") == kept.system(Arm(("online", "sep")), "dev")
    assert kept.system(Arm(("router",)), "dev") != kept.system(Arm(("memory",)), "dev")
