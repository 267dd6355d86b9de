"""Methods that train, on the tiny model with a random bank."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.online.artifact import BankArtifact
from bem.online.learner import LearnerSettings
from bem.online.natural_gradient import StepSettings
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.data.instruction_families import instruction_families
from bem_fleet.studies.online.correction_stream import correction_stream
from bem_fleet.studies.online.correction_systems import StudyEngine
from bem_fleet.studies.online.trained_systems import (
    FineTunedLora,
    LearnedCodes,
    LoraSize,
    without_penalty,
    without_replay,
)

from tests.support.online_bank import write_online_bank

pytestmark = pytest.mark.slow
STREAM = correction_stream(instruction_families("dev")[:1], 8, 0.0, seed=0)
OTHER = "zzzzzzzz qqqqqq zzzzz"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[StudyEngine, BankArtifact]]:
    """Return a started engine and the bank."""
    artifact = write_online_bank(tmp_path / "bank")
    engine = StudyEngine(tiny_backbone(), artifact.card, tmp_path / "adapters")
    engine.start()
    yield engine, artifact
    engine.close()


def test_codes_change_their_condition_alone(parts: tuple[StudyEngine, BankArtifact]) -> None:
    """Corrected prompts meet the condition and are answered otherwise; another one is not."""
    engine, artifact = parts
    model = DecoderLikelihood(engine.backbone, artifact.bank, feature_layer=0)
    settings = LearnerSettings(step=StepSettings(steps=2))
    system = LearnedCodes("codes", engine, model, artifact, settings=settings, batch=4)
    prompts = [one.prompt for one in STREAM]
    system.learn(STREAM[:3])
    unlearned = system.conditions(prompts)
    system.learn(STREAM[3:])
    met, base = system.conditions(prompts), engine.texts(prompts)

    assert set(unlearned) == {""}
    assert met.count(STREAM[0].family) > len(met) / 2
    assert system.conditions([OTHER]) == [""]
    assert system.answers([OTHER]) == engine.texts([OTHER])
    assert system.answers(prompts) != base


def test_lora_answers_everything_and_is_trained_anew(
    parts: tuple[StudyEngine, BankArtifact], tmp_path: Path
) -> None:
    """Before corrections it is the base model; new ones give another adapter."""
    engine, artifact = parts
    size = LoraSize(rank=4, epochs=2, learning_rate=0.1)
    system = FineTunedLora("lora", engine, artifact, size, tmp_path / "lora")
    before = system.answers([OTHER])
    system.learn(STREAM[:4])
    first = system.answers([OTHER])
    system.learn(STREAM[4:])

    assert before == engine.texts([OTHER])
    assert first != before
    assert system.answers([OTHER]) != first


def test_ablations_change_one_setting() -> None:
    """Everything else stays."""
    full = LearnerSettings(seed=5)

    assert without_replay(full).replay == 0
    assert without_replay(full).penalty == full.penalty
    assert without_penalty(full).penalty.kind == "none"
    assert without_penalty(full).replay == full.replay
