"""Tests of paired replies: the safety adapter answers only where it can act."""

from pathlib import Path

from bem.journal import Journal
from bem.safety import read_safety
from bem.testing import tiny_backbone
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.studies.safety.paired_outputs import TrainedAdapter, paired_replies
from bem_fleet.studies.safety.reply_cache import REPLIES, StudyArm

from tests.support.random_safety_adapters import write_safety

PROMPTS = [RedTeamPrompt(key, f"how do I {key}", "a", "harm", "held_out") for key in "xy"]


def trained(folder: Path, threshold: float) -> TrainedAdapter:
    """Return a safety adapter whose value head scores every request alike."""
    write_safety(folder, tiny_backbone(), threshold=threshold)
    return TrainedAdapter(folder, read_safety(folder, base_digest=tiny_backbone().digest))


def test_only_prompts_above_the_threshold_are_generated_again(tmp_path: Path) -> None:
    """Below the threshold the base model's reply is used, above it that of the adapter."""
    inactive, active = trained(tmp_path / "inactive", 5.0), trained(tmp_path / "active", 0.0)
    journal = Journal(tmp_path / REPLIES)
    base = StudyArm(tmp_path, name="base").system(4, 0.0)
    changed = StudyArm(tmp_path, name="basis", safety_adapter=active.folder).system(4, 1.0)
    for prompt in PROMPTS:
        journal.add(
            {"prompt_id": prompt.key, "system": base, "reply": f"base {prompt.key}"},
            {"prompt_id": prompt.key, "system": changed, "reply": f"no {prompt.key}"},
        )
    replies = paired_replies(
        tiny_backbone(),
        [inactive, active],
        PROMPTS,
        tokens=4,
        strength=1.0,
        cache=tmp_path / "no model here",
        folder=tmp_path,
    )

    assert replies.baseline == ["base x", "base y"]
    assert replies.with_safety == [["base x", "base y"], ["no x", "no y"]]
    assert replies.above_threshold == [[False, False], [True, True]]
