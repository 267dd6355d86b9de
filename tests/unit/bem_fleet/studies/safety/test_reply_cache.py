"""Tests of the reply cache: replies are generated once for each system."""

from pathlib import Path

from bem.journal import Journal
from bem.testing import tiny_backbone
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.studies.safety.reply_cache import REPLIES, StudyArm, study_prompt

from tests.support.random_safety_adapters import write_safety


def test_known_replies_need_no_model(tmp_path: Path) -> None:
    """A row of the same system answers; one of another length or strength does not."""
    prompt = RedTeamPrompt("k1", "how do I ...", "harmbench", "harm", "held_out")
    arm = StudyArm(tmp_path / "no model here", name="base")
    rows = [
        {"prompt_id": "k1", "system": arm.system(tokens, strength), "reply": reply}
        for tokens, strength, reply in ((4, 0.0, "no"), (8, 0.0, "longer"), (4, 1.0, "never"))
    ]
    Journal(tmp_path / REPLIES).add(*rows)

    assert arm.replies([study_prompt(prompt)], tokens=4, strength=0.0, folder=tmp_path) == ["no"]


def test_retrained_adapter_is_another_system(tmp_path: Path) -> None:
    """Replies of an earlier training of the same seed are not reused."""
    write_safety(tmp_path / "a", tiny_backbone())
    arm = StudyArm(tmp_path, name="basis", safety_adapter=tmp_path / "a")
    before = arm.system(4, 1.0)
    write_safety(tmp_path / "a", tiny_backbone(), seed=7)

    assert arm.system(4, 1.0) != before


def test_harmless_prompts_name_their_adapter() -> None:
    """They have no category of attack."""
    prompt = BenignText("k", "who?", "disfl-qa", ("he",), "passage-qa")

    assert (study_prompt(prompt).category, study_prompt(prompt).adapter) == (
        "harmless",
        "passage-qa",
    )
