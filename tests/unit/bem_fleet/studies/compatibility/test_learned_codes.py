"""Codes that online has learned before the study, on the tiny model with a random bank."""

from pathlib import Path

import pytest
import torch
from bem_fleet.studies.compatibility import learned_codes, shared_engine
from bem_fleet.studies.compatibility.request_path import RequestPath
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts
from bem_fleet.studies.compatibility.shared_engine import EngineParts, open_shared_engine

from tests.support.compatibility_seed import ITEM, load_tiny, tiny_sites
from tests.support.online_bank import write_online_bank


def test_without_a_bank_nothing_is_learned(tmp_path: Path) -> None:
    """The mission serves the base model then."""
    seed = SeedArtifacts(0, tmp_path)

    assert learned_codes.learn_codes(load_tiny(), seed, "dev", tmp_path) is None


@pytest.mark.slow
def test_codes_are_learned_once_and_answer_their_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run reads the kept codebook; a prompt that meets a condition has its code."""
    monkeypatch.setattr(shared_engine, "open_bank", tiny_sites)
    monkeypatch.setattr(learned_codes, "CORRECTIONS", 8)
    write_online_bank(tmp_path / "online")
    seed = SeedArtifacts(0, tmp_path)
    codes = learned_codes.learn_codes(load_tiny(), seed, "dev", tmp_path / "kept")
    again = learned_codes.learn_codes(load_tiny(), seed, "dev", tmp_path / "kept")
    assert codes is not None
    assert again is not None
    assert codes.version == again.version

    shared = open_shared_engine(load_tiny(), seed, EngineParts(), codes=codes)
    first = codes.codebook.conditions[0]
    monkeypatch.setattr(codes.codebook, "match", lambda _: first)
    (coded,) = RequestPath(shared, frozenset(["online"])).replies([ITEM])
    (base,) = RequestPath(shared, frozenset(["router"])).replies([ITEM])
    monkeypatch.setattr(codes.codebook, "match", lambda _: None)
    (unmet,) = RequestPath(shared, frozenset(["online"])).replies([ITEM])
    shared.close()

    assert (coded.source, base.source, unmet.source) == ("code", "plan", "base")
    assert codes.adapter_for(torch.zeros(32)) is None
