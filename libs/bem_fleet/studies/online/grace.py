"""GRACE (Hartvigsen et al. 2022, 2211.11031): a codebook of states at one late layer.

A key is the state of an edited prompt at the layer, a value the state that makes the model reply as
corrected. A prompt whose state lies within the radius of a key continues with the value in the
place of its last token. Radii grow over keys with the same reply and are split between others, as
in the paper. The key is the state of the last token, as published, or the mean state of the
prompt, which paraphrases keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from bem.backbone import Backbone
from bem.training.activation_cache import EncodedExample, encode_sequences, prompt_ids, tokenise
from bem.training.decoder import TrainingDecoder
from bem.training.packing import pack_row
from torch import Tensor

from bem_fleet.data.instruction_families import FamilyItem
from bem_fleet.studies.online.correction_stream import Correction
from bem_fleet.studies.online.correction_systems import REPLY_TOKENS

KeyKind = Literal["last token", "sentence"]


@dataclass(frozen=True)
class GraceSettings:
    """Settings of the codebook; those of EasyEdit, but for the radius in units of the states.

    Attributes:
        key: State that is compared.
        layers_below_top: Layers above the edited one.
        radius: First radius, as a share of the median distance of two edited prompts.
        steps: Steps that find a value.
        learning_rate: Rate of these steps.
    """

    key: KeyKind
    layers_below_top: int = 3
    radius: float = 0.3
    steps: int = 50
    learning_rate: float = 1.0


@dataclass
class _Entry:
    key: Tensor
    value: Tensor
    reply: str
    radius: float


class Grace:
    """GRACE with one codebook.

    Args:
        backbone: Base model, without active adapters.
        settings: Settings of the codebook.
    """

    def __init__(self, backbone: Backbone, settings: GraceSettings) -> None:
        self.name = f"GRACE, {settings.key} key"
        self.entries: list[_Entry] = []
        self._backbone, self._settings = backbone, settings
        self._first = len(backbone.layers) - settings.layers_below_top
        self._decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
        self._unit: float | None = None

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Add one entry for each correction that no entry gives already."""
        pairs = [
            tokenise(self._backbone, FamilyItem(one.family, "", one.prompt, one.reply))
            for one in corrections
        ]
        encoded = self._encode(pairs)
        keys = [
            self._key(one, len(prompt)) for one, (prompt, _) in zip(encoded, pairs, strict=True)
        ]
        if self._unit is None:
            away = torch.pdist(torch.stack(keys)) if len(keys) > 1 else torch.ones(1)
            self._unit = float(away.median())
        for one, state, key, (prompt, _) in zip(corrections, encoded, keys, pairs, strict=True):
            self._add(one, state, key, len(prompt))

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer greedily, each prompt that meets an entry with its value."""
        return [self._answer(prompt_ids(self._backbone, one)) for one in prompts]

    def nearest(self, key: Tensor) -> _Entry | None:
        """Return the nearest entry whose radius covers a key, or None."""
        if not self.entries:
            return None
        away = [float(torch.linalg.vector_norm(one.key - key)) for one in self.entries]
        at = min(range(len(away)), key=away.__getitem__)
        return self.entries[at] if away[at] <= self.entries[at].radius else None

    def _add(self, one: Correction, state: EncodedExample, key: Tensor, length: int) -> None:
        first = self._settings.radius * (self._unit or 1.0)
        met = self.nearest(key)
        if met is not None:
            away = float(torch.linalg.vector_norm(met.key - key))
            if met.reply == one.reply:
                met.radius = max(met.radius, away + first)
                return
            # The older ball ends half way, where the new one begins.
            met.radius = first = away / 2
        self.entries.append(_Entry(key, self._value(state, length), one.reply, first))

    def _value(self, state: EncodedExample, length: int) -> Tensor:
        """Return the state of the last prompt token that makes the reply likely."""
        row = pack_row([state])
        value = state.hidden[length - 1].float().clone().requires_grad_()
        optimizer = torch.optim.Adam([value], lr=self._settings.learning_rate)
        for _ in range(self._settings.steps):
            logits = self._logits(_replaced(state.hidden, length, value), row.positions)
            loss = torch.nn.functional.cross_entropy(logits, row.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return value.detach()

    @torch.no_grad()
    def _answer(self, prompt: list[int]) -> str:
        ids: list[int] = []
        entry: _Entry | None = None
        for step in range(REPLY_TOKENS):
            (state,) = self._encode([(prompt, ids)])
            if step == 0:
                entry = self.nearest(self._key(state, len(prompt)))
            hidden = state.hidden.float()
            if entry is not None:
                hidden = _replaced(hidden, len(prompt), entry.value)
            logits = self._logits(hidden, torch.tensor([len(hidden) - 1]))
            chosen = int(logits[0].argmax())
            if chosen in self._backbone.end_token_ids:
                break
            ids.append(chosen)
        return str(self._backbone.tokenizer.decode(ids)).strip()

    def _logits(self, hidden: Tensor, positions: Tensor) -> Tensor:
        layers = range(self._first, len(self._backbone.layers))
        out = self._decoder.run_layers(hidden, [len(hidden)], layers=layers, positions=positions)
        return self._decoder.logits(out)

    def _key(self, state: EncodedExample, length: int) -> Tensor:
        prompt = state.hidden[:length].float()
        return prompt[-1] if self._settings.key == "last token" else prompt.mean(0)

    def _encode(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[EncodedExample]:
        return encode_sequences(
            self._backbone,
            list(pairs),
            first_layer=self._first,
            feature_layer=0,
            compute_dtype="float32",
            progress=False,
        )


def _replaced(hidden: Tensor, length: int, value: Tensor) -> Tensor:
    """Return states with another one in the place of the last prompt token."""
    return torch.cat([hidden[: length - 1].float(), value[None], hidden[length:].float()])
