"""Both sides of a study: the adapter is asked only where it has any strength."""

from pathlib import Path

from bem.journal import Journal
from bem.safety import read_safety
from bem.testing import tiny_backbone
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.studies.safety.paired_outputs import Trained, both_sides
from bem_fleet.studies.safety.reply_cache import REPLIES, Arm

from tests.unit.bem.safety.adapters import write_safety

PROMPTS = [RedTeamPrompt(key, f"how do I {key}", "a", "harm", "held_out") for key in "xy"]


def trained(folder: Path, threshold: float) -> Trained:
    """An adapter whose value head finds every request alike."""
    write_safety(folder, tiny_backbone(), threshold=threshold)
    return Trained(folder, read_safety(folder, base_digest=tiny_backbone().digest))


def test_quiet_requests_are_the_base_models_and_loud_ones_are_asked_anew(tmp_path: Path) -> None:
    """Below the threshold the base model's reply stands; above it the adapter's is read."""
    calm, loud = trained(tmp_path / "calm", 5.0), trained(tmp_path / "loud", 0.0)
    journal = Journal(tmp_path / REPLIES)
    base = Arm(tmp_path, name="base").system(4, 0.0)
    changed = Arm(tmp_path, name="basis", adapter=loud.folder).system(4, 1.0)
    for prompt in PROMPTS:
        journal.add(
            {"prompt_id": prompt.key, "system": base, "reply": f"base {prompt.key}"},
            {"prompt_id": prompt.key, "system": changed, "reply": f"no {prompt.key}"},
        )
    said = both_sides(
        tiny_backbone(),
        [calm, loud],
        PROMPTS,
        tokens=4,
        strength=1.0,
        cache=tmp_path / "no model here",
        folder=tmp_path,
    )

    assert said.plain == ["base x", "base y"]
    assert said.guarded == [["base x", "base y"], ["no x", "no y"]]
    assert said.touched == [[False, False], [True, True]]
