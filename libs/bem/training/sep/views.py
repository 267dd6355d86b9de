"""Views of a step: texts, their ciphers, and the embeddings of each row.

Everything is drawn from the seed and the number of the step, so that a resumed run repeats it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bem.sep.arms import Arm
from bem.sep.bijection_draws import draw_symbol_permutations
from bem.sep.bijections import Bijection
from bem.sep.character_model import CharacterModel

HIDDEN_ID = 0
"""Id of a hidden character; no cipher moves it."""


@dataclass(frozen=True, eq=False)
class StepViews:
    """Rows of a step: the clean views, followed by the ciphered ones of the same texts.

    Attributes:
        inputs: ``[B, T]`` ids that the model reads.
        targets: ``[B, T]`` ids that it predicts.
        embeddings: ``[B, V, F]`` embeddings of each row, or None for the learned ones.
        cipher: Cipher of the second half of the rows; None with one view.
    """

    inputs: Tensor
    targets: Tensor
    embeddings: Tensor | None
    cipher: Bijection | None


def step_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """Return the generator of a step; other purposes are independent streams."""
    # An odd factor spreads seeds over 2^63, so that streams of neighbouring steps do not meet.
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + purpose * 0x94D049BB133111EB
    return torch.Generator().manual_seed(mixed % 2**63)


def draw_texts(text: Tensor, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Return random excerpts ``[rows, length + 1]`` of a text ``[N]``, N above ``length``."""
    starts = torch.randint(len(text) - length, (rows,), generator=generator)
    return text[starts.unsqueeze(1) + torch.arange(length + 1)]


def draw_cipher(
    arm: Arm, rows: int, alphabet: int, *, strength: float, seed: int, generator: torch.Generator
) -> Bijection:
    """Return the ciphers of the rows: fresh keys, or keys of the arm's pool.

    Args:
        arm: Arm with keys.
        rows: Number of rows.
        alphabet: Number of symbols.
        strength: Share of the symbols that fresh keys move; those of a pool move all.
        seed: Seed of the pool.
        generator: Source of randomness of the step.
    """
    if arm.keys == "pool":
        pool = draw_symbol_permutations(
            arm.pool, alphabet, step_generator(seed, 0, purpose=1), fixed=(HIDDEN_ID,)
        )
        chosen = torch.randint(arm.pool, (rows,), generator=generator)
        return Bijection(symbols=None if pool.symbols is None else pool.symbols[chosen])
    return draw_symbol_permutations(
        rows, alphabet, generator, fixed=(HIDDEN_ID,), strength=strength
    )


def draw_views(
    model: CharacterModel,
    arm: Arm,
    texts: Tensor,
    *,
    strength: float,
    seed: int,
    generator: torch.Generator,
) -> StepViews:
    """Return the views of texts ``[S, T + 1]``: S rows, or 2 S with a cipher.

    Args:
        model: Model whose learned embeddings rows without random ones get.
        arm: Arm of the study.
        texts: Excerpts of the training text, one character longer than a row.
        strength: Share of the symbols that a fresh key moves, in [0, 1].
        seed: Seed of the pool of keys.
        generator: Source of randomness of the step.
    """
    alphabet, cipher = model.config.alphabet, None
    if arm.views == 2:
        cipher = draw_cipher(
            arm, len(texts), alphabet, strength=strength, seed=seed, generator=generator
        )
        texts = torch.cat((texts, cipher(texts)))
    inputs = texts[:, :-1]
    if arm.dropout:
        is_hidden = torch.rand(inputs.shape, generator=generator) < arm.dropout
        inputs = inputs.masked_fill(is_hidden, HIDDEN_ID)
    share = arm.random_embeddings
    if cipher is None or not share:
        embeddings = model.draw_embeddings(len(texts), share, generator)
    else:
        # The clean view is the teacher: it keeps the learned embeddings.
        half = len(texts) // 2
        drawn = model.draw_embeddings(half, share, generator)
        learned = model.embedding.expand(half, -1, -1)
        embeddings = None if drawn is None else torch.cat((learned, drawn))
    return StepViews(inputs, texts[:, 1:], embeddings, cipher)
