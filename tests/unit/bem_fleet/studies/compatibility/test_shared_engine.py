"""Engines that missions share, on the tiny model."""

from pathlib import Path

import pytest
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.compatibility import shared_engine
from bem_fleet.studies.compatibility.request_path import RequestPath
from bem_fleet.studies.compatibility.shared_engine import EngineParts, open_shared_engine

from tests.support.compatibility_seed import (
    NAMED,
    WithholdingGuard,
    load_tiny,
    tiny_sites,
    write_seed,
)


@pytest.mark.slow
def test_front_and_basis_change_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the engine of an arm with sep and safety, and in no other."""
    monkeypatch.setattr(shared_engine, "open_bank", tiny_sites)
    seed, texts = write_seed(tmp_path), set()
    for parts in (EngineParts(), EngineParts(sep=True), EngineParts(safety=True)):
        shared = open_shared_engine(load_tiny(), seed, parts)
        missions = frozenset(["safety"] if parts.safety else [])
        texts.add(RequestPath(shared, missions, WithholdingGuard()).replies([NAMED])[0].text)
        assert bool(shared.backbone.folded) == parts.sep
        assert (shared.engine.safety is not None) == parts.safety
        assert set(shared.tasks) == set(PLAN_TASKS)
        assert (shared.reader, shared.codes) == (None, None)
        shared.close()

    assert len(texts) == 3
