"""Replies of the base model and of safety adapters, cached as JSONL that others can join.

One row a reply: ``{prompt_id, family, category, arm, strength, seed, system, reply}``; ``system`` is a
digest of all that made it, so that a retrained adapter is asked anew.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.adapters import AdapterBank
from bem.adapters.artifact import FOLDER as ADAPTERS
from bem.adapters.folder import version_of
from bem.backbone import PACKAGED, load_backbone, locate
from bem.digests import file_digest
from bem.engine import LLMEngine
from bem.journal import Journal
from bem.safety import SafetyOverlay
from bem.safety.artifact import FOLDER as SAFETY
from bem.safety.overlay import load_overlay

from bem_fleet.data.harmless import HarmlessPrompt
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.evaluation.in_process import WorkerSystem
from bem_fleet.evaluation.systems import Decoding, Message

FIRST_LAYER = 15
RANK = 16
REPLIES = "replies.jsonl"


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        key: Of the prompt.
        text: The user's message.
        family: Way of asking, or the set.
        category: Of the attack; ``harmless`` where there is none.
        adapter: Adapter that is asked, or empty.
    """

    key: str
    text: str
    family: str
    category: str
    adapter: str = ""


def asked(prompt: RedTeamPrompt | HarmlessPrompt) -> Asked:
    """Return an attack or a harmless prompt as it is asked."""
    if isinstance(prompt, RedTeamPrompt):
        return Asked(prompt.key, prompt.text, prompt.family, prompt.category)
    return Asked(prompt.key, prompt.text, prompt.family, "harmless", prompt.adapter)


class Arm:
    """One side of a comparison: the model with the served layout of sites, and one strength.

    Args:
        cache: With ``models``.
        adapter: Folder of a safety adapter; None for the base model alone.
        adapters: Folders of adapters to load.
        name: What the rows call it.
        seed: Of the adapter's training.
    """

    def __init__(
        self,
        cache: Path,
        *,
        name: str,
        adapter: Path | None = None,
        adapters: Sequence[Path] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.seed = name, seed
        self._cache, self._adapter, self._adapters = cache, adapter, adapters
        self._worker: LLMEngine | None = None
        self.overlay: SafetyOverlay | None = None

    def replies(
        self, prompts: Sequence[Asked], *, tokens: int, strength: float, folder: Path
    ) -> list[str]:
        """Return greedy replies, from the journal of ``folder`` where it has them."""
        journal = Journal(folder / REPLIES)
        rows = {(row["system"], row["prompt_id"]): str(row["reply"]) for row in journal.rows()}
        known: dict[str, str] = {}
        for adapter in sorted({p.adapter for p in prompts}):
            mine = self.system(tokens, strength, adapter)
            own = [p for p in prompts if p.adapter == adapter]
            known |= {p.key: rows[mine, p.key] for p in own if (mine, p.key) in rows}
            missing = [p for p in own if p.key not in known]
            if not missing:
                continue
            system = WorkerSystem(self.worker(), adapter or None, strength=strength)
            chats = [(Message("user", prompt.text),) for prompt in missing]
            for place, answer in system.answer(chats, Decoding(max_tokens=tokens), 0):
                one = missing[place]
                known[one.key] = answer.text
                journal.add({
                    "prompt_id": one.key,
                    "family": one.family,
                    "category": one.category,
                    "arm": self.name,
                    "strength": strength,
                    "seed": self.seed,
                    "system": mine,
                    "reply": answer.text,
                })  # fmt: skip
        return [known[prompt.key] for prompt in prompts]

    def system(self, tokens: int, strength: float, adapter: str = "") -> str:
        """Return a digest of base, adapter, adapter, strength and length of a reply, hexadecimal."""
        made: list[str | float] = [file_digest(locate(PACKAGED)), tokens, strength]
        if self._adapter:
            made.append(version_of(SAFETY.read_card(self._adapter)))
        made += [version_of(ADAPTERS.read_card(f)) for f in self._adapters if f.name == adapter]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]

    def worker(self) -> LLMEngine:
        """Return the engine, loaded when it is first needed; float32, as it is served."""
        if self._worker is None:
            backbone = load_backbone(cache=self._cache / "models")
            bank = AdapterBank(
                backbone,
                layers=range(FIRST_LAYER, len(backbone.layers)),
                rank=RANK,
                slots=2 + len(self._adapters),
                feature_layer=8,
            )
            if self._adapter:
                self.overlay = load_overlay(bank, self._adapter, base_digest=backbone.digest)
            for adapter in self._adapters:
                bank.load(adapter)
            self._worker = LLMEngine(
                backbone, bank, max_sequences=32, max_waiting=8192, context_tokens=512, safety=self.overlay
            )
            self._worker.start()
        return self._worker

    def close(self) -> None:
        """End the engine, if it was needed."""
        if self._worker:
            self._worker.close(drain=True)
            self._worker = None
