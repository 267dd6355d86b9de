"""Training of the entity state's decay on labels of the memory, without backpropagation in time.

After every write it is known what the state should return for each entity: the signature of its
latest sentence. The state before a write is a rollout of the parameters as they are, without a
gradient; the loss of one more write has the gradient (Supervised Memory Training).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from bem.memory import MemoryModules, delta_state
from bem.memory.entity_state import HEADS, EntityState, entity_keys, slot_signatures
from torch import Tensor
from torch.nn import functional as f

CURRICULUM = (1, 2, 3, 5, 10, 20, 40)
"""Entities of a rollout, stage by stage."""
TEMPERATURE = 0.1


@dataclass(frozen=True)
class StateTraining:
    """Settings of the training of the decay.

    Attributes:
        steps: Steps of each stage of the curriculum.
        rate: Learning rate.
        repeats: Most mentions of an entity.
        others: Most mentions of other entities in a rollout.
        seed: Seed of the rollouts.
    """

    steps: int = 20
    rate: float = 0.03
    repeats: int = 4
    others: int = 600
    seed: int = 0


@dataclass(frozen=True)
class Strengths:
    """Strengths of writes that the gate gives, of which rollouts draw.

    Attributes:
        asked: Strengths of sentences that some question asks for, 1 or more.
        others: Strengths of other sentences, 1 or more.
    """

    asked: Sequence[float]
    others: Sequence[float]


@dataclass(frozen=True)
class _Rollout:
    """Mentions in their order.

    Attributes:
        mentions: Hash, write number and strength of each.
        entities: Hashes of the entities that are asked for.
        latest: Write number of the latest mention of each.
    """

    mentions: list[tuple[int, int, float]]
    entities: np.ndarray
    latest: np.ndarray


def train_state(
    modules: MemoryModules, strengths: Strengths, how: StateTraining
) -> dict[str, float]:
    """Train the decay and return the share of right reads before and after.

    The better of the trained and the untrained decay is kept.

    Args:
        modules: Modules whose decay is trained.
        strengths: Strengths of writes, as the gate gives them.
        how: Settings of the training.
    """
    generator = np.random.default_rng(how.seed)
    before = modules.decay_logits.detach().clone()
    untrained = state_accuracy(modules, strengths, how)
    optimizer = torch.optim.AdamW([modules.decay_logits], lr=how.rate, weight_decay=0.0)
    for entities in CURRICULUM:
        for _ in range(how.steps):
            rollout = _rollout(generator, strengths, entities, how)
            optimizer.zero_grad()
            f.cross_entropy(*_reads(modules, rollout)).backward()
            torch.nn.utils.clip_grad_norm_([modules.decay_logits], 1.0)
            optimizer.step()
    trained = state_accuracy(modules, strengths, how)
    if trained <= untrained:
        with torch.no_grad():
            modules.decay_logits.copy_(before)
    return {"state_accuracy_untrained": untrained, "state_accuracy": max(trained, untrained)}


@torch.no_grad()
def state_accuracy(
    modules: MemoryModules, strengths: Strengths, how: StateTraining, rollouts: int = 20
) -> float:
    """Return the share of entities for which the state points at their latest sentence."""
    generator = np.random.default_rng(how.seed + 1)
    right = []
    for _ in range(rollouts):
        logits, labels = _reads(modules, _rollout(generator, strengths, CURRICULUM[-1], how))
        right.append((logits.argmax(1) == labels).float().mean())
    return float(torch.stack(right).mean())


def _rollout(
    generator: np.random.Generator, strengths: Strengths, entities: int, how: StateTraining
) -> _Rollout:
    """Return mentions of entities among those of others, the last one of an entity."""
    hashes = generator.choice(np.arange(1, 2**16), entities + how.others, replace=False)
    own = np.repeat(hashes[:entities], generator.integers(1, how.repeats + 1, entities))
    others = hashes[entities : entities + int(generator.integers(0, how.others + 1))]
    mixed = generator.permutation(np.concatenate([own, others]))
    last = np.flatnonzero(np.isin(mixed, hashes[:entities]))[-1]
    mixed = mixed[: last + 1]
    orders = np.arange(1, len(mixed) + 1)
    drawn = np.where(
        np.isin(mixed, hashes[:entities]),
        generator.choice(strengths.asked, len(mixed)),
        generator.choice(strengths.others, len(mixed)),
    )
    mentions = [
        (int(one), int(order), float(strength))
        for one, order, strength in zip(mixed, orders, drawn, strict=True)
    ]
    latest = {int(one): int(order) for one, order in zip(mixed, orders, strict=True)}
    asked = hashes[:entities]
    return _Rollout(mentions, asked, np.array([latest[int(one)] for one in asked]))


def _reads(modules: MemoryModules, rollout: _Rollout) -> tuple[Tensor, Tensor]:
    """Return logits over all sentences ``[E, N]`` and the right ones ``[E]``."""
    decay = modules.decay()
    earlier = EntityState(decay.detach())
    earlier.write(rollout.mentions[:-1])
    word, order, strength = rollout.mentions[-1]
    state = delta_state.step(
        earlier.state,
        entity_keys(np.array([word]))[:, 0],
        slot_signatures(np.array([order])).expand(HEADS, -1),
        decay,
        torch.minimum(torch.full((HEADS,), strength), decay),
    )
    returned = delta_state.read(state, entity_keys(rollout.entities)).mean(0)
    signatures = slot_signatures(np.arange(1, len(rollout.mentions) + 1))
    return returned @ signatures.T / TEMPERATURE, torch.from_numpy(rollout.latest - 1)
