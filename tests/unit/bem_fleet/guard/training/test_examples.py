"""Examples of encoder and perceptrons."""

import random

from bem_fleet.guard.training.examples import surround


def test_surroundings_keep_the_text() -> None:
    """Most texts stay; the others keep their words, whatever is around them."""
    rng = random.Random(0)
    texts = [surround("Where is the harbour?", rng) for _ in range(300)]

    assert 0.6 < texts.count("Where is the harbour?") / 300 < 0.8
    assert all("where is the harbour" in text.lower() for text in texts)
    assert len(set(texts)) > 20
