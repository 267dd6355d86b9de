"""Fit of score weights, confidence and coverage to what sessions retrieve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from bem.memory import MemoryEncoder, SessionConfig, SessionMemory
from bem.memory.coverage import coverage_features
from bem.memory.encoder import read_document
from bem.memory.retrieval import WordRarity, score_features
from torch import Tensor, nn
from torch.nn import functional as f

from bem_fleet.data.memory_tasks import MemoryItem
from bem_fleet.scores.calibration import expected_calibration_error

_SHARPNESS = 20.0
_RIDGE = 1e-3


@dataclass(frozen=True)
class CalibrationRows:
    """Features and outcomes of a logistic model.

    Attributes:
        features: ``[N, K]``.
        right: Whether the evidence was complete, ``[N]`` of 0 and 1.
    """

    features: Tensor
    right: Tensor


def read_session(encoder: MemoryEncoder, text: str, budget_bytes: int) -> SessionMemory:
    """Return a session that has read a text."""
    session = SessionMemory(SessionConfig(budget_bytes=budget_bytes), encoder.modules)
    read_document(session, encoder, text)
    return session


def slot_texts(session: SessionMemory, encoder: MemoryEncoder, indices: np.ndarray) -> list[str]:
    """Return the texts of slots with single spaces."""
    slots = session.store.slots[indices]
    spelled = (encoder.tokenizer.text(one["ids"][: one["tokens"]].tolist()) for one in slots)
    return [" ".join(one.split()) for one in spelled]


def fit_score(
    session: SessionMemory, encoder: MemoryEncoder, items: Sequence[MemoryItem], steps: int = 200
) -> None:
    """Fit the score weights: the slots that answer are to be above all others.

    The weight of rare words stays 1; only the proportions of the weights matter.

    Args:
        session: Session that has read the items.
        encoder: Encoder with the modules to fit.
        items: Items whose first answers are looked for.
        steps: Steps of the fit.
    """
    used = session.store.used()
    kept, texts = session.store.slots[used], slot_texts(session, encoder, used)
    rarity = WordRarity(kept)
    rows, targets = [], []
    for item in items:
        right = torch.tensor([text in item.answers for text in texts])
        if bool(right.any()):
            question = encoder.question(item.question)
            features = score_features(kept, session.state, question, rarity)
            rows.append(torch.from_numpy(features))
            targets.append(right)
    if not rows:
        return
    stacked, right = torch.stack(rows), torch.stack(targets)
    generator = torch.Generator().manual_seed(0)
    weights = encoder.modules.score.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=0.02)
    for _ in range(steps):
        batch = torch.randint(len(rows), (16,), generator=generator)
        logits = _SHARPNESS * stacked[batch] @ weights
        best = logits.masked_fill(~right[batch], -torch.inf).logsumexp(1)
        optimizer.zero_grad()
        (logits.logsumexp(1) - best).mean().backward()
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=0.0)
    with torch.no_grad():
        encoder.modules.score.copy_(weights / weights[1].clamp(min=0.1))


def confidence_rows(
    session: SessionMemory, encoder: MemoryEncoder, items: Sequence[MemoryItem]
) -> CalibrationRows:
    """Return features of the confidence and whether the evidence answers.

    Args:
        session: Session that has read a text.
        encoder: Encoder of the session.
        items: Items, of which some have no answer in the text.
    """
    features, right = [], []
    for item in items:
        evidence = session.retrieve(encoder.question(item.question))
        whole = " ".join(slot_texts(session, encoder, evidence.indices))
        features.append(evidence.features)
        right.append(all(answer in whole for answer in item.answers))
    return _rows(np.stack(features), right)


def coverage_rows(
    session: SessionMemory, encoder: MemoryEncoder, items: Sequence[MemoryItem]
) -> CalibrationRows:
    """Return features of the coverage of kept slots, and whether their question finds them.

    Args:
        session: Session that has read the items.
        encoder: Encoder of the session.
        items: Items whose answers may be kept.
    """
    used = session.store.used()
    places = {
        text: index for index, text in zip(used, slot_texts(session, encoder, used), strict=True)
    }
    indices, right = [], []
    for item in items:
        evidence = set(session.retrieve(encoder.question(item.question)).indices.tolist())
        kept = [places[answer] for answer in item.answers if answer in places]
        indices += kept
        right += [int(index) in evidence for index in kept]
    return _rows(coverage_features(session, np.array(indices, np.intp)), right)


def fit_logistic(layer: nn.Linear, rows: CalibrationRows) -> None:
    """Fit a logistic model with a small ridge; without both outcomes the prior rate is its bias.

    Args:
        layer: Layer ``[K] -> [1]`` that is overwritten.
        rows: Features and outcomes.
    """
    # Laplace's rule keeps the targets off 0 and 1, where the weights would grow without bound.
    count = len(rows.right)
    targets = (rows.right * (count - 1) + 0.5) / max(count, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    if not count:
        return
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = layer(rows.features).squeeze(-1)
        loss = f.binary_cross_entropy_with_logits(logits, targets)
        loss = loss + _RIDGE * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@torch.no_grad()
def calibration_error(layer: nn.Linear, rows: CalibrationRows) -> float:
    """Return the ECE of a logistic model on other rows."""
    sure = torch.sigmoid(layer(rows.features)).squeeze(-1)
    return expected_calibration_error(sure.tolist(), rows.right.tolist())


def joined(rows: Sequence[CalibrationRows]) -> CalibrationRows:
    """Return all rows as one."""
    return CalibrationRows(
        torch.cat([one.features for one in rows]), torch.cat([one.right for one in rows])
    )


def _rows(features: np.ndarray, right: Sequence[bool]) -> CalibrationRows:
    return CalibrationRows(torch.from_numpy(features), torch.tensor(right, dtype=torch.float32))
