"""Chosen replies without and with safety adapters, by a tiny model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.engine import LLMEngine
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone
from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.studies.safety import choice_suite
from bem_fleet.studies.safety.choice_suite import choice_scores, paired_choices

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.support.safety_study import trained_adapter

OPTIONS = ("a red one", "take it out", "no", "never, ever")
QUESTIONS = [
    ChoiceQuestion(f"k{n}", f"what is it {n}?", "piqa", OPTIONS, n % 4, f"c{n}") for n in range(12)
]


class TinyArm:
    """Arm of the study with the tiny base model."""

    def __init__(self, cache: Path, *, name: str, safety_adapter: Path | None = None) -> None:
        del cache, name
        backbone = tiny_backbone()
        bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
        overlay = None
        if safety_adapter:
            overlay = load_overlay(bank, safety_adapter, base_digest=backbone.digest)
        self._engine = LLMEngine(backbone, bank, max_sequences=4, safety=overlay)
        self._engine.start()

    def worker(self) -> LLMEngine:
        """Return the engine."""
        return self._engine

    def close(self) -> None:
        """Close the engine."""
        self._engine.close(drain=True)


def test_an_adapter_changes_choices_only_where_it_can_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions below the threshold keep the base model's choice; the others are scored again."""
    trained = [trained_adapter(tmp_path / "safety")]
    monkeypatch.setattr(choice_suite, "StudyArm", TinyArm)
    # The value head lets the adapter act on every second question.
    margins = torch.tensor([1.0, -1.0] * 6)
    monkeypatch.setattr(choice_suite, "risk_margins", lambda *_: [margins])

    def choices(strength: float) -> Any:
        return paired_choices(
            tiny_backbone(), trained, QUESTIONS, strength=strength, cache=tmp_path, folder=tmp_path
        )

    found, off = choices(1.0), choices(0.0)
    (run,) = found.with_safety

    assert set(found.baseline) <= set(OPTIONS)
    assert off.with_safety == [found.baseline] == [off.baseline]
    assert run[1::2] == found.baseline[1::2]
    assert run[::2] != found.baseline[::2]
    assert found.above_threshold == [[True, False] * 6]


def test_no_question_needs_no_model(tmp_path: Path) -> None:
    """A re-run of other items asks nothing."""
    nothing: Any = SimpleNamespace()
    found = paired_choices(
        nothing, [nothing, nothing], [], strength=1.0, cache=tmp_path, folder=tmp_path
    )

    assert (found.baseline, found.with_safety) == ([], [[], []])


def test_a_withheld_reply_scores_nothing() -> None:
    """Only the right reply matches; a wrong one may share words with it."""
    question = ChoiceQuestion("k", "q", "mmlu", ("a big dog", "a big cat"), 1, "c")

    assert choice_scores(question, "a big cat") == {"exact_match": 1.0, "f1": 1.0}
    assert choice_scores(question, "")["f1"] == choice_scores(question, "")["exact_match"] == 0.0
    assert choice_scores(question, "a big dog")["exact_match"] == 0.0
    assert 0 < choice_scores(question, "a big dog")["f1"] < 1
