"""Artifacts of one training seed: what each mission has learned, and what it does without.

A seed is a folder that is laid out as ``adapters/``: ``retrieve``, ``reason``, ``formalize``,
``general`` and ``policy`` (router), ``online`` (a bank), ``safety`` and ``guard``, ``sep`` (a
front), ``memory`` (modules) and ``reader``, and ``passage-qa``, which clients name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.adapters.artifact import ADAPTER_FORMAT, CARD_FILE
from bem.artifacts import ArtifactFormat, artifact_version
from bem.digests import file_digest
from bem.errors import EvaluationError
from bem.memory.artifact import MEMORY_FORMAT
from bem.online.artifact import BANK_FORMAT
from bem.policy.artifact import POLICY_FORMAT
from bem.safety.artifact import SAFETY_FORMAT
from bem.sep.front_artifact import FRONT_FORMAT

from bem_fleet.guard.scoring.heads import CARD as HEADS_CARD
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.compatibility.mission_items import PASSAGE_ADAPTER

READER = "reader"
ADAPTERS = (*PLAN_TASKS, PASSAGE_ADAPTER, READER)
"""Folders of adapters; those of the router's tasks have the tasks' names."""

_LEARNED: Mapping[str, tuple[str, ArtifactFormat[Any], str]] = {
    "router": ("policy", POLICY_FORMAT, "no policy; the fixed plan of three steps runs"),
    "online": ("online", BANK_FORMAT, "no bank; nothing is learned and the base model answers"),
    "safety": ("safety", SAFETY_FORMAT, "no safety adapter; only the sidecar's scorers act"),
    "sep": ("sep", FRONT_FORMAT, "no front; the base model is served as it is"),
    "memory": ("memory", MEMORY_FORMAT, "no modules; untrained ones choose sentences"),
}


@dataclass(frozen=True)
class SeedArtifacts:
    """Artifacts of a training seed.

    Attributes:
        seed: Number of the training seed.
        folder: Folder that is laid out as ``adapters/``.
    """

    seed: int
    folder: Path

    def has(self, mission: str) -> bool:
        """Return whether a mission has learned something."""
        name, form, _ = _LEARNED[mission]
        return (self.folder / name / form.card_file).is_file()

    def path(self, mission: str) -> Path:
        """Return the folder of what a mission has learned."""
        return self.folder / _LEARNED[mission][0]

    @property
    def guard(self) -> Path:
        """Folder of the sidecar's heads, without which the sidecar cannot start."""
        return self.folder / "guard"

    def adapters(self) -> list[Path]:
        """Return the folders of the adapters that are there."""
        found = [self.folder / name for name in ADAPTERS]
        return [one for one in found if (one / CARD_FILE).is_file()]

    def absences(self) -> dict[str, str]:
        """Return what each mission does that has learned nothing, or not all, by mission."""
        missing = {name: _LEARNED[name][2] for name in _LEARNED if not self.has(name)}
        names = {one.name for one in self.adapters()}
        if tasks := [task for task in PLAN_TASKS if task not in names]:
            missing["router"] = f"no adapter {', '.join(tasks)}; the base model does their steps"
        if READER not in names:
            own = missing.get("memory")
            text = "no reader; the base model answers from the evidence"
            missing["memory"] = f"{own}; {text}" if own else text
        return missing

    def versions(self) -> dict[str, str]:
        """Return the SHA-256 of each artifact that is there, by name."""
        found = {
            one.name: artifact_version(ADAPTER_FORMAT.read_card(one)) for one in self.adapters()
        }
        for mission, (name, form, _) in _LEARNED.items():
            if self.has(mission):
                found[name] = artifact_version(form.read_card(self.folder / name))
        if (self.guard / HEADS_CARD).is_file():
            found["guard"] = file_digest(self.guard / HEADS_CARD)
        return found


def check_seeds(seeds: Sequence[SeedArtifacts]) -> None:
    """Check that the seeds are different trainings of the same missions.

    Raises:
        EvaluationError: Two seeds share an artifact, or one lacks what another has.
    """
    first, *others = [one.versions() for one in seeds]
    known = {name: {version} for name, version in first.items()}
    for seed, versions in zip(seeds[1:], others, strict=True):
        if set(versions) != set(first):
            apart = ", ".join(sorted(set(versions) ^ set(first)))
            raise EvaluationError(
                f"seeds: {seed.folder} and {seeds[0].folder} differ in {apart}; all seeds need "
                "the same artifacts"
            )
        for name, version in versions.items():
            if version in known[name]:
                raise EvaluationError(
                    f"seeds: {seed.folder / name} is that of an earlier seed; a copy is no "
                    "further training"
                )
            known[name].add(version)
