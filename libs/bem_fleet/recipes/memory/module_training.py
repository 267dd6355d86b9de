"""Training of the write gate and the dense keys on cached states of sentences."""

from dataclasses import dataclass

import torch
from bem.memory import MemoryModules
from bem.memory.modules import NOVELTY_FEATURE
from bem.memory.slot_store import NOVELTY_KEYS
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as f

from bem_fleet.recipes.memory.training_sentences import TrainingSentences

TEMPERATURE = 0.05
"""Temperature of the contrastive loss (InfoNCE, arXiv 1807.03748)."""
NEIGHBOURS = (-2, -1, 1, 2)
"""Places of the hard negatives beside the right piece: they are about the same things."""
TOP = 8
"""Rank up to which a key counts as found: the slots of a first hop."""


@dataclass(frozen=True)
class ModuleTraining:
    """Settings of the training of gate and keys.

    Attributes:
        key_epochs: Passes over the questions.
        key_rate: Learning rate of the keys.
        gate_steps: Steps of the gate.
        gate_rate: Learning rate of the gate.
        batch: Questions, or sentences of either kind, of a step.
        seed: Seed of the batches.
    """

    key_epochs: int = 8
    key_rate: float = 1e-3
    gate_steps: int = 300
    gate_rate: float = 3e-3
    batch: int = 128
    seed: int = 0


def train_keys(
    modules: MemoryModules, train: TrainingSentences, dev: TrainingSentences, how: ModuleTraining
) -> dict[str, float]:
    """Train the key projection and return the recall among 8 on ``dev`` before and after.

    Each question is compared with the pieces of the other questions of its batch and with the
    neighbours of its own. The epoch that is best on ``dev`` is kept, the untrained one included.

    Args:
        modules: Modules to train, with their center and spread.
        train: Sentences and questions to learn from.
        dev: Sentences and questions to choose the epoch by.
        how: Settings of the training.
    """
    generator = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.AdamW([modules.key.weight], lr=how.key_rate, weight_decay=0.01)
    untrained = best = key_recall(modules, dev)
    kept = modules.key.weight.detach().clone()
    for _ in range(how.key_epochs):
        order = torch.randperm(len(train.rows), generator=generator)
        for batch in order.split(how.batch):
            optimizer.zero_grad()
            _key_loss(modules, train, batch).backward()
            torch.nn.utils.clip_grad_norm_([modules.key.weight], 1.0)
            optimizer.step()
        if (recall := key_recall(modules, dev)) > best:
            best, kept = recall, modules.key.weight.detach().clone()
    with torch.no_grad():
        modules.key.weight.copy_(kept)
    return {"key_recall_untrained": untrained, "key_recall": best}


@torch.no_grad()
def key_recall(modules: MemoryModules, data: TrainingSentences) -> float:
    """Return the share of questions whose piece is among the 8 nearest by key."""
    keys = modules.keys(modules.standardize(data.states))
    scores = modules.keys(modules.standardize(data.questions)) @ keys.T
    right = scores.gather(1, data.rows[:, None])
    return float(((scores > right).sum(1) < TOP).float().mean())


def train_gate(
    modules: MemoryModules, train: TrainingSentences, dev: TrainingSentences, how: ModuleTraining
) -> dict[str, float]:
    """Train the write gate and return its AUC on ``dev`` before and after.

    The loss is that of a logistic classifier plus a pairwise one: a sentence that is asked for is
    to be above one that is not. The better of the trained and the untrained gate is kept.

    Args:
        modules: Modules to train, with trained keys, from which novelty is computed.
        train: Sentences to learn from.
        dev: Sentences to measure on.
        how: Settings of the training.
    """
    generator = torch.Generator().manual_seed(how.seed)
    before = {name: one.clone() for name, one in modules.gate.state_dict().items()}
    states, surface = modules.standardize(train.states), gate_features(modules, train)
    kinds = train.asked.nonzero()[:, 0], (~train.asked).nonzero()[:, 0]
    untrained = gate_auc(modules, dev)
    optimizer = torch.optim.AdamW(modules.gate.parameters(), lr=how.gate_rate, weight_decay=0.05)
    for _ in range(how.gate_steps):
        rows = [kind[torch.randint(len(kind), (how.batch,), generator=generator)] for kind in kinds]
        asked, other = (modules.gate(states[one], surface[one]) for one in rows)
        loss = (
            f.softplus(-asked).mean() + f.softplus(other).mean() + f.softplus(other - asked).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.gate.parameters(), 1.0)
        optimizer.step()
    trained = gate_auc(modules, dev)
    if trained <= untrained:
        modules.gate.load_state_dict(before)
    return {"gate_auc_untrained": untrained, "gate_auc": max(trained, untrained)}


@torch.no_grad()
def gate_auc(modules: MemoryModules, data: TrainingSentences) -> float:
    """Return how often the gate puts a sentence that is asked for above another one, in [0, 1]."""
    logits = modules.gate(modules.standardize(data.states), gate_features(modules, data))
    return float(roc_auc_score(data.asked.numpy(), logits.numpy()))


@torch.no_grad()
def gate_features(modules: MemoryModules, data: TrainingSentences) -> Tensor:
    """Return the features of the gate ``[N, 4]`` with novelty among the 64 pieces before each."""
    keys = modules.keys(modules.standardize(data.states))
    surface = data.surface.clone()
    for row in range(len(keys)):
        before = keys[max(0, row - NOVELTY_KEYS) : row]
        nearest = float((before @ keys[row]).max()) if len(before) else 0.0
        surface[row, NOVELTY_FEATURE] = min(1.0, max(0.0, 1.0 - nearest))
    return surface


def _key_loss(modules: MemoryModules, data: TrainingSentences, batch: Tensor) -> Tensor:
    questions = modules.keys(modules.standardize(data.questions[batch]))
    rows, groups = data.rows[batch], data.groups[batch]
    keys = modules.keys(modules.standardize(data.states[rows]))
    scores = questions @ keys.T
    # Pieces that the same question asks for, and the same piece asked for twice, are no negatives.
    same = (groups[:, None] == groups) | (rows[:, None] == rows)
    scores = scores.masked_fill(same & ~torch.eye(len(batch), dtype=torch.bool), -torch.inf)
    near = rows[:, None] + torch.tensor(NEIGHBOURS)
    outside = (near < 0) | (near >= len(data.states))
    near = near.clamp(0, len(data.states) - 1)
    hard = modules.keys(modules.standardize(data.states[near]))
    beside = torch.einsum("qk,qnk->qn", questions, hard).masked_fill(outside, -torch.inf)
    logits = torch.cat([scores, beside], 1) / TEMPERATURE
    return f.cross_entropy(logits, torch.arange(len(batch)))
