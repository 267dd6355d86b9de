"""Reply cache of the safety study: greedy replies of base model and safety adapters as JSONL.

Each row is one reply: ``{prompt_id, family, category, arm, strength, seed, system, reply}``.
``system`` is a digest of everything that determines the reply, so a retrained adapter never reuses
the replies of an earlier one.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.adapters import AdapterBank
from bem.adapters.artifact import ADAPTER_FORMAT
from bem.artifacts import artifact_version
from bem.backbone import PACKAGED_MODEL, load_backbone, locate_model
from bem.digests import file_digest
from bem.engine import LLMEngine
from bem.journal import Journal
from bem.safety import SafetyOverlay
from bem.safety.artifact import SAFETY_FORMAT
from bem.safety.overlay import load_overlay

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.evaluation.systems import Decoding, Message
from bem_fleet.evaluation.worker_system import WorkerSystem

FIRST_LAYER = 15
RANK = 16
REPLIES = "replies.jsonl"


@dataclass(frozen=True)
class StudyPrompt:
    """A prompt of the study, attack or harmless.

    Attributes:
        key: Key of the prompt.
        text: User message.
        family: Attack family, or the data set of a harmless prompt.
        category: Category of the attack; ``harmless`` for a harmless prompt.
        adapter: Name of the adapter that answers; empty for the base model.
    """

    key: str
    text: str
    family: str
    category: str
    adapter: str = ""


def study_prompt(prompt: RedTeamPrompt | BenignText) -> StudyPrompt:
    """Return an attack or a harmless prompt in the form of the study."""
    if isinstance(prompt, RedTeamPrompt):
        return StudyPrompt(prompt.key, prompt.text, prompt.family, prompt.category)
    return StudyPrompt(prompt.key, prompt.text, prompt.family, "harmless", prompt.adapter)


class StudyArm:
    """One arm of the study: the base model, with or without a safety adapter.

    The engine has the layers, rank and feature layer that the router serves.

    Args:
        cache: Cache folder; the base model is in its ``models``.
        name: Name of the arm in the rows.
        safety_adapter: Folder of a safety adapter; None for the base model alone.
        adapters: Folders of adapters that prompts may name.
        seed: Training seed of the safety adapter.
    """

    def __init__(
        self,
        cache: Path,
        *,
        name: str,
        safety_adapter: Path | None = None,
        adapters: Sequence[Path] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.seed = name, seed
        self._cache, self._safety_adapter = cache, safety_adapter
        self._adapters = adapters
        self._worker: LLMEngine | None = None
        self.overlay: SafetyOverlay | None = None

    def replies(
        self, prompts: Sequence[StudyPrompt], *, tokens: int, strength: float, folder: Path
    ) -> list[str]:
        """Return greedy replies, from the journal in ``folder`` if it has them.

        Args:
            prompts: Prompts to answer.
            tokens: Longest reply, tokens.
            strength: Safety strength, in [0, 1].
            folder: Folder of the journal.
        """
        journal = Journal(folder / REPLIES)
        rows = {(row["system"], row["prompt_id"]): str(row["reply"]) for row in journal.rows()}
        known: dict[str, str] = {}
        for adapter in sorted({p.adapter for p in prompts}):
            digest = self.system(tokens, strength, adapter)
            group = [p for p in prompts if p.adapter == adapter]
            known |= {p.key: rows[digest, p.key] for p in group if (digest, p.key) in rows}
            missing = [p for p in group if p.key not in known]
            if not missing:
                continue
            system = WorkerSystem(self.worker(), adapter or None, safety_strength=strength)
            chats = [(Message("user", prompt.text),) for prompt in missing]
            for index, answer in system.respond(chats, Decoding(max_tokens=tokens), 0):
                prompt = missing[index]
                known[prompt.key] = answer.text
                journal.add({
                    "prompt_id": prompt.key,
                    "family": prompt.family,
                    "category": prompt.category,
                    "arm": self.name,
                    "strength": strength,
                    "seed": self.seed,
                    "system": digest,
                    "reply": answer.text,
                })  # fmt: skip
        return [known[prompt.key] for prompt in prompts]

    def system(self, tokens: int, strength: float, adapter: str = "") -> str:
        """Return a digest of base, safety adapter, adapter, strength and length, hexadecimal."""
        parts: list[str | float] = [file_digest(locate_model(PACKAGED_MODEL)), tokens, strength]
        if self._safety_adapter:
            parts.append(artifact_version(SAFETY_FORMAT.read_card(self._safety_adapter)))
        parts += [
            artifact_version(ADAPTER_FORMAT.read_card(f))
            for f in self._adapters
            if f.name == adapter
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def worker(self) -> LLMEngine:
        """Return the engine; it loads at the first call, in float32 as it is served."""
        if self._worker is None:
            backbone = load_backbone(cache=self._cache / "models")
            bank = AdapterBank(
                backbone,
                layers=range(FIRST_LAYER, len(backbone.layers)),
                rank=RANK,
                slots=2 + len(self._adapters),
                feature_layer=8,
            )
            if self._safety_adapter:
                self.overlay = load_overlay(bank, self._safety_adapter, base_digest=backbone.digest)
            for adapter in self._adapters:
                bank.load(adapter)
            self._worker = LLMEngine(
                backbone,
                bank,
                max_sequences=32,
                max_waiting=8192,
                context_tokens=512,
                safety=self.overlay,
            )
            self._worker.start()
        return self._worker

    def close(self) -> None:
        """Close the engine, if it was loaded."""
        if self._worker:
            self._worker.close(drain=True)
            self._worker = None
