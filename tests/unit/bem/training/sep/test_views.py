"""Views: seeded by the step, ciphered alike in inputs and targets, clean teachers without noise."""

import torch
from bem.sep.arms import ARMS, Arm
from bem.sep.character_model import CharacterModel
from bem.training.sep.views import (
    HIDDEN_ID,
    StepViews,
    draw_cipher,
    draw_texts,
    draw_views,
    step_generator,
)

from tests.support.tiny_character_training import TINY, tiny_text


def views_of(arm: Arm, step: int = 0, strength: float = 1.0) -> StepViews:
    """Return the views of four texts of 12 characters."""
    torch.manual_seed(0)
    generator = step_generator(5, step)
    texts = draw_texts(tiny_text(), 4, 12, generator)
    return draw_views(
        CharacterModel(TINY), arm, texts, strength=strength, seed=5, generator=generator
    )


def test_steps_are_seeded_and_differ() -> None:
    """A step repeats itself; other steps and purposes are others."""
    first, again, other = (views_of(ARMS["sep"], step) for step in (0, 0, 1))

    assert torch.equal(first.inputs, again.inputs)
    assert first.embeddings is not None
    assert again.embeddings is not None
    assert torch.equal(first.embeddings, again.embeddings)
    assert not torch.equal(first.inputs, other.inputs)
    draws = {
        torch.rand(1, generator=step_generator(*key)).item()
        for key in ((1, 2), (2, 1), (1, 3), (1, 2, 1))
    }
    assert len(draws) == 4


def test_second_view_is_the_cipher_of_the_first() -> None:
    """Inputs and targets are ciphered by one key a row; the hidden character is fixed."""
    views = views_of(ARMS["augmentation"])

    assert views.cipher is not None
    assert views.embeddings is None
    assert torch.equal(views.inputs[4:], views.cipher(views.inputs[:4]))
    assert torch.equal(views.targets[4:], views.cipher(views.targets[:4]))
    assert torch.equal(views.inputs[:, 1:], views.targets[:, :-1])
    assert views.cipher.symbols is not None
    assert views.cipher.symbols[:, HIDDEN_ID].eq(HIDDEN_ID).all()
    weak = views_of(ARMS["augmentation"], strength=0.0)
    assert torch.equal(weak.inputs[4:], weak.inputs[:4])


def test_clean_views_keep_the_learned_embeddings() -> None:
    """Random embeddings are for ciphered rows of SEP, and for every row of a lexinvariant model."""
    torch.manual_seed(0)
    learned = CharacterModel(TINY).embedding
    sep, lexinvariant = views_of(ARMS["sep"]).embeddings, views_of(ARMS["lexinvariant"]).embeddings

    assert sep is not None
    assert lexinvariant is not None
    assert (sep[:4] == learned).all()
    assert not (sep[4:] == learned).all()
    assert (lexinvariant != learned).flatten(1).any(1).all()


def test_hidden_characters_are_still_predicted() -> None:
    """Dropout hides about its share of the inputs and none of the targets."""
    views = views_of(Arm(dropout=0.5))

    assert 0.2 < views.inputs.eq(HIDDEN_ID).float().mean() < 0.8
    assert not views.targets.eq(HIDDEN_ID).any()


def test_pool_has_as_many_keys_as_it_says() -> None:
    """Keys of a pool come back in other steps; fresh ones do not."""
    keys = {
        name: {
            tuple(row)
            for step in range(20)
            for row in draw_cipher(
                Arm(keys=name, pool=3),
                8,
                30,
                strength=1.0,
                seed=1,
                generator=step_generator(1, step),
            ).symbols.tolist()  # type: ignore[union-attr]
        }
        for name in ("pool", "fresh")
    }

    assert len(keys["pool"]) == 3
    assert len(keys["fresh"]) == 160
