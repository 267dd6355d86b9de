"""Live version of online: codes that are learned from a stream of corrections before anything else.

The stream is that of the set's families in the wordings of feedback; the items of the set have
other wordings. A bank is needed; without one nothing is learned.
"""

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bem.backbone import Backbone
from bem.engine import LLMEngine
from bem.online.artifact import (
    BankArtifact,
    CodebookCard,
    read_bank,
    read_codebook,
    save_codebook,
)
from bem.online.codebook import Codebook
from bem.online.learner import LearnerSettings
from bem.training.online.code_likelihood import DecoderLikelihood
from torch import Tensor

from bem_fleet.data.instruction_families import instruction_families
from bem_fleet.services.online.served_codes import adapter_name, write_adapter
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts
from bem_fleet.studies.online.correction_stream import correction_stream
from bem_fleet.studies.online.correction_systems import StudyEngine
from bem_fleet.studies.online.trained_systems import LearnedCodes

CORRECTIONS = 32
"""Corrections of each family."""

_WRONG, _BATCH = 0.1, 8


@dataclass(eq=False)
class LiveCodes:
    """What online serves.

    Attributes:
        artifact: Bank of the codes.
        codebook: Conditions with their codes.
        version: SHA-256 of the codebook's card.
        adapters: Adapter of each condition, filled in by ``install``.
    """

    artifact: BankArtifact
    codebook: Codebook
    version: str
    adapters: dict[str, str] = field(default_factory=dict)

    def install(self, engine: LLMEngine) -> None:
        """Load the codes into an engine, as the mission does with a version."""
        with tempfile.TemporaryDirectory() as folder:
            for one in self.codebook.conditions:
                name = adapter_name(self.artifact, one.code)
                write_adapter(Path(folder) / name, name, self.artifact, one.code)
                engine.load_adapter(Path(folder) / name, name=name).result()
                self.adapters[one.name] = name

    def adapter_for(self, state: Tensor) -> str | None:
        """Return the adapter of the condition that a prompt's state ``[D]`` meets, or None."""
        met = self.codebook.match(state)
        return self.adapters[met.name] if met else None


def learn_codes(
    backbone: Backbone, seed: SeedArtifacts, split: str, folder: Path
) -> LiveCodes | None:
    """Return what online has learned for the families of a split; None without a bank.

    Args:
        backbone: Base model without sites; it must not be used for anything else.
        seed: Artifacts of the training seed.
        split: ``dev`` or ``held_out``.
        folder: Folder in which the codebook is kept for later runs.

    Raises:
        BemError: The bank is malformed or belongs to another base model.
    """
    if not seed.has("online"):
        return None
    artifact = read_bank(seed.path("online"), base_digest=backbone.digest)
    kept = folder / f"codebook-{split}-{artifact.card.sha256[:16]}"
    if not kept.exists():
        _learn(backbone, artifact, seed.seed, split, kept)
    codebook, card = read_codebook(kept, artifact)
    return LiveCodes(artifact, codebook, card.sha256)


def _learn(backbone: Backbone, artifact: BankArtifact, seed: int, split: str, folder: Path) -> None:
    """Learn the families of a split and keep the codebook; another process may do so at once."""
    model = DecoderLikelihood(backbone, artifact.bank, feature_layer=artifact.card.feature_layer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        learner = LearnedCodes(
            "online",
            StudyEngine(backbone, artifact.card, Path(made)),
            model,
            artifact,
            settings=LearnerSettings(seed=seed),
            batch=_BATCH,
        )
        learner.learn(correction_stream(instruction_families(split), CORRECTIONS, _WRONG, seed))
        bank = artifact.card
        card = CodebookCard(
            base_name=bank.base_name,
            base_digest=bank.base_digest,
            feature_layer=bank.feature_layer,
            command="python -m bem_fleet.studies.compatibility",
            data_digest=bank.data_digest,
            seed=seed,
            version=1,
            bank=bank.sha256,
        )
        save_codebook(Path(made) / "codebook", card, learner.codebook)
        with contextlib.suppress(OSError):
            (Path(made) / "codebook").rename(folder)
