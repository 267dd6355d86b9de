"""Replies of an arm: cached once, in the form that others join."""

from pathlib import Path

from bem.data.harmless import HarmlessPrompt
from bem.data.red_team import RedTeamPrompt
from bem.journal import Journal
from bem.training.safety.replies import REPLIES, Arm, asked


def test_known_replies_need_no_model(tmp_path: Path) -> None:
    """A row with arm, knob and seed answers; another arm's does not."""
    prompt = RedTeamPrompt("k1", "how do I ...", "harmbench", "harm", "held_out")
    row = {
        "prompt_id": "k1",
        "family": "harmbench",
        "category": "harm",
        "arm": "basis",
        "knob": 1.0,
        "seed": 2,
        "reply": "no",
    }
    Journal(tmp_path / REPLIES).add(row, {**row, "arm": "base", "knob": 0.0, "reply": "yes"})
    arm = Arm(tmp_path / "no model here", name="basis", seed=2)

    assert arm.replies([asked(prompt)], tokens=4, knob=1.0, folder=tmp_path) == ["no"]


def test_harmless_prompts_are_asked_of_their_skill() -> None:
    """They have no category of attack."""
    prompt = HarmlessPrompt("k", "who?", "disfl-qa", ("he",), "passage-qa")

    assert (asked(prompt).category, asked(prompt).skill) == ("harmless", "passage-qa")
