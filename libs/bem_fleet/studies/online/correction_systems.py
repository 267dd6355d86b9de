"""Methods that learn from corrections, behind one interface, and those that need no training."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import LLMEngine
from bem.engine.offline import generate
from bem.online.artifact import BankArtifact, BankCard
from bem.training.activation_cache import prompt_ids
from numpy.typing import NDArray
from torch import Tensor

from bem_fleet.services.online.served_codes import adapter_name, write_adapter
from bem_fleet.studies.online.correction_stream import Correction

REPLY_TOKENS = 48
_SLOTS = 4
_LEAST_OVERLAP = 0.5
_SHOWN = 2

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Returns unit vectors ``[N, D]`` of texts."""


class CorrectionSystem(Protocol):
    """A method that learns from corrections."""

    name: str

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Learn the next corrections of the stream."""

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer user messages greedily, as everything that was learned so far has it."""


class StudyEngine:
    """Engine that generates for the methods.

    Args:
        backbone: Base model.
        card: Card of the bank: sites, highest rank and feature layer.
        folder: Folder of the adapters.
    """

    def __init__(self, backbone: Backbone, card: BankCard, folder: Path) -> None:
        self.backbone, self._folder = backbone, folder
        bank = AdapterBank(
            backbone,
            layers=range(min(card.layers), len(backbone.layers)),
            rank=card.rank,
            slots=_SLOTS,
            feature_layer=card.feature_layer,
        )
        self._engine = LLMEngine(backbone, bank, max_sequences=8, prefix_bytes=0)

    def start(self) -> None:
        """Start the engine's thread."""
        self._engine.start()

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.close(drain=False)

    def install(self, artifact: BankArtifact, code: Tensor) -> str:
        """Load a code ``[P]`` as an adapter and return the adapter's name."""
        name = adapter_name(artifact, code)
        if name not in {one.name for one in self._engine.adapters()}:
            write_adapter(self._folder / name, name, artifact, code)
            self._engine.load_adapter(self._folder / name, name=name).result()
        return name

    def texts(
        self, prompts: Sequence[str], adapters: Sequence[str | None] | str | None = None
    ) -> list[str]:
        """Answer user messages greedily, each with an adapter or the base model."""
        found = generate(
            self._engine,
            [prompt_ids(self.backbone, one) for one in prompts],
            adapters,
            max_tokens=REPLY_TOKENS,
            progress=False,
        )
        return [one.text.strip() for one in found]


class BaseModel:
    """The base model, which learns nothing."""

    def __init__(self, engine: StudyEngine) -> None:
        self.name = "base model"
        self._engine = engine

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Learn nothing."""

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer as the base model."""
        return self._engine.texts(prompts)


class InContextCorrection:
    """Shows the nearest corrections as examples before a request.

    Args:
        engine: Engine of the base model.
        embed: Sentence embeddings.
        floor: Least cosine of a shown correction; below it a request stays as it is.
    """

    def __init__(self, engine: StudyEngine, embed: Embed, floor: float) -> None:
        self.name = f"in-context correction, {_SHOWN} nearest"
        self._engine, self._embed, self._floor = engine, embed, floor
        self._known: list[Correction] = []
        self._keys: list[NDArray[np.float32]] = []

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Keep the corrections."""
        self._known += corrections
        self._keys.append(self._embed([one.prompt for one in corrections]))

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer with the nearest corrections in the prompt."""
        return self._engine.texts([self._shown(one) for one in prompts])

    def _shown(self, prompt: str) -> str:
        if not self._known:
            return prompt
        near = np.concatenate(self._keys) @ self._embed([prompt])[0]
        best = [at for at in np.argsort(-near)[:_SHOWN] if near[at] >= self._floor]
        if not best:
            return prompt
        # The nearest one last, beside the request.
        examples = [self._known[at] for at in reversed(best)]
        shown = "\n\n".join(f"Request: {one.prompt}\nReply: {one.reply}" for one in examples)
        return f"{shown}\n\nRequest: {prompt}\nReply:"


class KeywordRule:
    """Replies as the correction that shares most words, with the words that differ put in.

    Words of the correction's request that the new request lacks are replaced in its reply by the
    new request's words, if both are as many: what a person writes as a rule in an afternoon.
    """

    def __init__(self, engine: StudyEngine) -> None:
        self.name = "keyword rule"
        self._engine = engine
        self._known: list[tuple[list[str], Correction]] = []

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Keep the corrections with their words."""
        self._known += [(_words(one.prompt), one) for one in corrections]

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Reply by the rule, or as the base model if no correction shares half of the words."""
        ruled = [self._ruled(_words(one)) for one in prompts]
        open_prompts = [one for one, reply in zip(prompts, ruled, strict=True) if reply is None]
        rest = iter(self._engine.texts(open_prompts) if open_prompts else [])
        return [next(rest) if one is None else one for one in ruled]

    def _ruled(self, words: list[str]) -> str | None:
        scored = [(_overlap(words, own), at) for at, (own, _) in enumerate(self._known)]
        best, at = max(scored, default=(0.0, -1))
        if best < _LEAST_OVERLAP:
            return None
        own, known = self._known[at]
        gone = [one for one in own if one not in words]
        new = [one for one in words if one not in own]
        if len(gone) != len(new):
            return known.reply
        fresh = dict(zip(gone, new, strict=True))
        return re.sub(r"\w+", lambda found: fresh.get(found.group(), found.group()), known.reply)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the Jaccard overlap of two sets of words, without regard to case."""
    a, b = {one.lower() for one in first}, {one.lower() for one in second}
    return len(a & b) / max(1, len(a | b))
