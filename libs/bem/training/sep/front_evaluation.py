"""Scores of a surface front on scrambled views: divergence from the clean teacher, and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bem.sep.divergences import truncated_kl
from bem.sep.surface_front import FrontFactors
from bem.training.decoder import TrainingDecoder
from bem.training.sep.front_trainer import front_code
from bem.training.sep.front_views import ScrambledView, TaughtText, batch_views


@dataclass(frozen=True)
class ViewScore:
    """Scores of the views of one text, means over its aligned tokens.

    Attributes:
        divergence: KL of the clean teacher's prediction from that of the view, nats.
        accuracy: Share of the clean text's next tokens that are the view's most likely ones.
        agreement: Share of the tokens at which view and teacher have the same most likely one.
        tokens: Number of aligned tokens with a next one.
    """

    divergence: float
    accuracy: float
    agreement: float
    tokens: int


@torch.no_grad()
def score_views(
    decoder: TrainingDecoder,
    texts: Sequence[TaughtText],
    views: Sequence[ScrambledView],
    factors: FrontFactors | None,
    *,
    scale: float = 1.0,
) -> list[ViewScore]:
    """Return the scores of each text's view; texts without an aligned token are left out.

    Args:
        decoder: The frozen base model.
        texts: Clean texts.
        views: View of each text.
        factors: Factors of a front; None for the base model.
        scale: Scale of the front.
    """
    code = None
    if factors:
        code = front_code(next(iter(factors.values()))[0].shape[0], scale)
    scores = []
    for text, view in zip(texts, views, strict=True):
        batch = batch_views([text], [view])
        kept = (batch.labels >= 0).nonzero().squeeze(1)
        if not len(kept):
            continue
        last = decoder.run_layers(
            decoder.embed(batch.ids),
            batch.lengths,
            layers=range(decoder.depth),
            factors=factors,
            code=code,
            positions=batch.places[kept],
        )
        logits, likeliest = decoder.logits(last), batch.teacher.ids[kept, 0]
        teacher = type(batch.teacher)(
            batch.teacher.ids[kept], batch.teacher.log_probabilities[kept]
        )
        own = logits.argmax(-1)
        scores.append(
            ViewScore(
                divergence=truncated_kl(logits, teacher).item(),
                accuracy=(own == batch.labels[kept]).float().mean().item(),
                agreement=(own == likeliest).float().mean().item(),
                tokens=len(kept),
            )
        )
    return scores
