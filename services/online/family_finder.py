"""Family finder: which feedback would change the same thing, by the states of the prompts.

A family's center is the mean key of its first prompts. Feedback belongs to the family whose center
is nearest, if it is nearer than two unrelated prompts are with a chance of one in a thousand.
Otherwise it begins a family of its own. Centers are read anew from the events after a start and
after a user was forgotten, so that nothing of a removed prompt stays.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import torch
from bem.errors import InvalidRequestError
from bem.online.codebook import Whitening
from bem_fleet.feedback.event_store import EventStore
from bem_fleet.feedback.processor import family_by_prompt
from bem_fleet.feedback.record import FeedbackRecord
from torch import Tensor

FIRST_PROMPTS = 8
"""Prompts of a family that make its center."""
CHANCE = 0.001
_CACHED_STATES = 4096

StateOf = Callable[[tuple[int, ...]], Awaitable[Tensor]]
"""Returns the pooled state ``[D]`` of a prompt's token ids."""


class PromptKeys:
    """Keys of prompts in the whitened space; the latest are remembered.

    Args:
        state_of: Computes states.
        encode: Returns the token ids of a user message.
        whitening: Map from states to keys.
    """

    def __init__(
        self,
        state_of: StateOf,
        encode: Callable[[str], tuple[int, ...]],
        whitening: Whitening,
    ) -> None:
        self._state_of, self._encode, self._whitening = state_of, encode, whitening
        self._states: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    async def state(self, text: str) -> Tensor:
        """Return the pooled state ``[D]`` of a user message.

        Raises:
            InvalidRequestError: It does not fit the context.
        """
        ids = self._encode(text)
        if ids not in self._states:
            self._states[ids] = await self._state_of(ids)
        self._states.move_to_end(ids)
        while len(self._states) > _CACHED_STATES:
            self._states.popitem(last=False)
        return self._states[ids]

    def forget(self) -> None:
        """Forget all prompts, after a user was forgotten."""
        self._states.clear()

    async def key(self, text: str) -> Tensor:
        """Return the key ``[K]`` of a user message; errors as in ``state``."""
        return self._whitening.keys(await self.state(text))


class FamilyFinder:
    """Names the family of records, one at a time.

    Args:
        keys: Keys of prompts.
        unrelated: ``[N, K]`` keys of unrelated prompts, at least 2.
        store: Events, from which centers are read.
    """

    def __init__(self, keys: PromptKeys, unrelated: Tensor, store: EventStore) -> None:
        self.distance = join_distance(unrelated)
        self._keys, self._store = keys, store
        self._one_at_a_time = asyncio.Lock()
        self._members: dict[str, list[Tensor]] | None = None

    async def __call__(self, record: FeedbackRecord) -> str:
        """Return the family of a record."""
        async with self._one_at_a_time:
            own = family_by_prompt(record)
            if not record.prompt.strip():
                return own
            try:
                key = await self._keys.key(record.prompt)
            except InvalidRequestError:  # it does not fit the context, so it is never learned
                return own
            members = await self._read_members()
            family = self._nearest(members, key) or own
            known = members.setdefault(family, [])
            if len(known) < FIRST_PROMPTS:
                known.append(key)
            return family

    def reset(self) -> None:
        """Read the centers anew at the next record."""
        self._members = None

    def _nearest(self, members: dict[str, list[Tensor]], key: Tensor) -> str:
        """Return the nearest family within the distance; empty for none."""
        away = {
            name: float(torch.linalg.vector_norm(torch.stack(keys).mean(0) - key))
            for name, keys in members.items()
        }
        nearest = min(away, key=lambda name: (away[name], name), default="")
        return nearest if nearest and away[nearest] < self.distance else ""

    async def _read_members(self) -> dict[str, list[Tensor]]:
        if self._members is None:
            found: dict[str, list[Tensor]] = {}
            for name in await self._store.families():
                events = (await self._store.family(name)).events
                prompts = [one.content["prompt"] for one in events if one.content["prompt"].strip()]
                keys = [await self._keys.key(text) for text in prompts[:FIRST_PROMPTS]]
                if keys:
                    found[name] = keys
            self._members = found
        return self._members


def join_distance(unrelated: Tensor) -> float:
    """Return the distance below which two unrelated prompts lie with the chance ``CHANCE``.

    Args:
        unrelated: ``[N, K]`` keys of unrelated prompts, N at least 2.
    """
    return float(torch.quantile(torch.pdist(unrelated.float())[:10_000_000], CHANCE))
