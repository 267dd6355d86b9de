"""Texts of the surface front and their views."""

import numpy as np
import pytest
import torch
from bem.testing import tiny_backbone
from bem_fleet.data.held_out import HeldOutClosedError
from bem_fleet.recipes.sep_front.surface_texts import (
    HELD_OUT_TYPOS,
    TRAINING_TYPOS,
    SurfaceText,
    ViewEncoder,
    surface_texts,
    template_parts,
)

TEXT = SurfaceText("<|im_start|>user\n", "the old ship sailed to the north", "<|im_end|>\n{}")


def encoder() -> ViewEncoder:
    """Return an encoder of one text for the tiny model, whose tokens are bytes."""
    return ViewEncoder(tiny_backbone(), [TEXT])


def test_typing_errors_of_the_training_are_not_those_held_out() -> None:
    """No kind is in both."""
    assert not set(TRAINING_TYPOS) & set(HELD_OUT_TYPOS)
    assert HELD_OUT_TYPOS


def test_template_is_what_stands_around_a_message() -> None:
    """Both parts together with a message are the rendered conversation."""
    tokenizer = tiny_backbone().tokenizer
    before, after = template_parts(tokenizer)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )

    assert f"{before}hi{after}" == rendered


def test_a_view_changes_the_text_and_not_the_template() -> None:
    """Aligned tokens have the same bytes at the ends of unchanged words and in the template."""
    one = encoder()
    (clean,) = one.clean_ids()
    view = one.view(0, ["typo-insert"], 1.0, np.random.default_rng(0))
    tokenizer = tiny_backbone().tokenizer
    text = tokenizer.decode(view.ids)
    pairs = list(zip(view.alignment.clean.tolist(), view.alignment.scrambled.tolist(), strict=True))

    assert text.startswith(TEXT.before)
    assert text.endswith(TEXT.after)
    assert len(text) > len(tokenizer.decode(clean))
    head = len(tokenizer.encode(TEXT.before, add_special_tokens=False))
    tail = len(tokenizer.encode(TEXT.after, add_special_tokens=False))
    words = TEXT.text.split()
    assert len(pairs) == head + len(words) + tail
    assert [clean[at].item() for at, _ in pairs[head : head + len(words)]] == [
        tokenizer.encode(word[-1])[0] for word in words
    ]
    assert torch.equal(clean[-tail:], view.ids[view.alignment.scrambled[-tail:]])


def test_a_seed_draws_the_same_view_and_rate_zero_changes_nothing() -> None:
    """Views depend on number, rate and seed only."""
    one = encoder()
    (clean,) = one.clean_ids()
    first, again, other = (one.training_view(0, 0.9, seed) for seed in (1, 1, 2))

    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, other.ids)
    assert torch.equal(one.training_view(0, 0.0, 1).ids, clean)


@pytest.mark.slow
def test_texts_are_of_three_kinds_and_of_open_splits() -> None:
    """Questions have a reply in JSON; the held-out split is closed."""
    tokenizer = tiny_backbone().tokenizer
    texts = surface_texts("dev", tokenizer, (2, 3, 4))

    assert len(texts) == 9
    assert all(one.after.endswith("}") for one in texts[:2])
    assert all(one.before and not one.after.endswith("}") for one in texts[2:5])
    assert all(not one.before and not one.after for one in texts[5:])
    assert texts == surface_texts("dev", tokenizer, (2, 3, 4))
    with pytest.raises(HeldOutClosedError):
        surface_texts("held_out", tokenizer, (1, 1, 1))
