"""Evaluation of a character model: bits a character by position, on clean and on ciphered text."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.sep.bijections import Bijection
from bem.sep.character_model import CharacterModel

AFTER = 256
"""Ciphered characters after which next characters are counted as right or wrong."""


@dataclass(frozen=True)
class CharacterScores:
    """Scores of a model on excerpts.

    Attributes:
        bits: Bits a character in each bucket of positions.
        edges: First position of each bucket.
        accuracy: Share of right next characters after 256 of them; NaN for shorter excerpts.
        rows: Bits a character of each excerpt, for paired statistics.
    """

    bits: tuple[float, ...]
    edges: tuple[int, ...]
    accuracy: float
    rows: tuple[float, ...]


@torch.no_grad()
def score_characters(
    model: CharacterModel,
    texts: Tensor,
    *,
    cipher: Bijection | None = None,
    edges: tuple[int, ...] = (0, 64, 256, 512, 1024),
    batch: int = 16,
    generator: torch.Generator | None = None,
) -> CharacterScores:
    """Return the scores of a model with its learned embeddings, or with random ones.

    Args:
        model: Model to score.
        texts: Excerpts ``[N, T + 1]``.
        cipher: Cipher of each excerpt; None for clean text.
        edges: First position of each bucket, ascending; buckets beyond T are left out.
        batch: Excerpts in one forward pass.
        generator: Source of random embeddings of each excerpt, which a lexinvariant model needs;
            None for the learned ones.
    """
    model.eval()
    texts = texts if cipher is None else cipher(texts)
    losses, hits = [], []
    for part in texts.split(batch):
        drawn = None if generator is None else model.draw_embeddings(len(part), 1.0, generator)
        logits, targets = model(part[:, :-1], embeddings=drawn).logits, part[:, 1:]
        losses.append(f.cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
        hits.append(logits.argmax(-1) == targets)
    bits = torch.cat(losses).double() / math.log(2)
    length = bits.shape[1]
    used = [edge for edge in edges if edge < length]
    late = torch.cat(hits)[:, AFTER:].double()
    return CharacterScores(
        bits=tuple(
            float(bits[:, begin:end].mean())
            for begin, end in zip(used, [*used[1:], length], strict=True)
        ),
        edges=tuple(used),
        accuracy=float(late.mean()) if late.numel() else math.nan,
        rows=tuple(bits.mean(1).tolist()),
    )
