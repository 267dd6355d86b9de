"""One running request: its place in the cache, its prompt's progress, its skill's code."""

import time

import torch
from torch import Tensor

from bem.adapters.bank import LoadedSkill
from bem.backbone import Backbone
from bem.engine.requests import Ticket
from bem.engine.sampling import Sampler
from bem.engine.text import TextAssembler
from bem.safety import SafetyOverlay

CHUNK_TOKENS = 64


class Row:
    """State of one request between steps; only the engine's thread touches it.

    Args:
        ticket: The request.
        slot: Its place in the cache.
        backbone: Decodes its tokens.
        skill: Its leased skill, or None for the base model.
        safety: The safety adapter, or None where there is none.
    """

    def __init__(
        self,
        ticket: Ticket,
        slot: int,
        backbone: Backbone,
        skill: LoadedSkill | None,
        safety: SafetyOverlay | None = None,
    ) -> None:
        self.ticket = ticket
        self.slot = slot
        self.skill = skill
        self.safety = safety
        self.strength = 0.0
        self.sampler = Sampler(ticket.request.sampling)
        self.text = TextAssembler(backbone.tokenizer, ticket.request.stop)
        self.began = time.monotonic()
        self.generated = 0
        self.next_token = 0
        self.position = 0
        self.code: Tensor | None = None
        self._lower: list[Tensor] = []
        self._sum = torch.zeros(0)
        self._counted = 0

    @property
    def prompt(self) -> tuple[int, ...]:
        """Its prompt's token ids."""
        return self.ticket.request.prompt_ids

    @property
    def decoding(self) -> bool:
        """Whether its prompt is done."""
        return self.position >= len(self.prompt)

    def keep_lower(self, hidden: Tensor, features: Tensor) -> None:
        """Keep the lower half's result of one more piece of the prompt, ``[1, T, F]`` each."""
        self._lower.append(hidden)
        self._observe(features[0])

    @property
    def lower_tokens(self) -> int:
        """Tokens of the prompt that have passed the lower half."""
        return sum(piece.shape[1] for piece in self._lower) + self.position

    def take_lower(self) -> Tensor:
        """Return the oldest kept piece for the upper half."""
        return self._lower.pop(0)

    def begin_code(self) -> None:
        """Set the code of the prefix, and how much safety it gets, from the whole prompt."""
        if self.safety:
            knob = self.ticket.request.safety_knob
            self.strength = self.safety.strength(self._mean()[0], knob)
        if self.skill:
            self.code = self.skill.controller.prefix(self._mean())[0]
        self._reset()

    def observe_decoded(self, features: Tensor) -> None:
        """Take in ``features [F]`` of one decoded token; at a chunk's end the code moves on."""
        if self.skill is None or self.code is None:
            return
        self._observe(features.unsqueeze(0))
        if self._counted == CHUNK_TOKENS:
            self.code = self.skill.controller.chunk(self._mean(), self.code.unsqueeze(0))[0]
            self._reset()

    def _observe(self, features: Tensor) -> None:
        total = features.float().sum(0)
        self._sum = total if self._counted == 0 else self._sum + total
        self._counted += features.shape[0]

    def _mean(self) -> Tensor:
        return (self._sum / self._counted).unsqueeze(0)

    def _reset(self) -> None:
        self._counted = 0
