"""Cache of window embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bem_fleet.guard.training import embedding_cache
from bem_fleet.guard.training.embedding_cache import EmbeddingCache
from numpy.typing import NDArray


class CountingModel:
    """Embeds a text as its length, and counts the texts."""

    embedded: list[str]

    def __init__(self) -> None:
        CountingModel.embedded = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors [n, 2]."""
        CountingModel.embedded += texts
        return np.array([[len(text), 0] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the embedding model."""
    monkeypatch.setattr(embedding_cache, "MiniLM", CountingModel)
    return CountingModel


def test_stored_embeddings_are_read_by_the_next_cache(tmp_path: Path) -> None:
    """Only new windows are embedded, in the order of the call."""
    path = tmp_path / "cache.npz"
    EmbeddingCache(path).embed_and_store(["a", "bb"])
    vectors = EmbeddingCache(path).embed_and_store(["bb", "ccc", "a"])

    assert vectors[:, 0].tolist() == [2, 3, 1]
    assert CountingModel.embedded == ["ccc"]


def test_embed_does_not_write(tmp_path: Path) -> None:
    """Embeddings of evaluations stay in memory; an empty call has no rows."""
    cache = EmbeddingCache(tmp_path / "cache.npz")

    assert cache.embed(["a"]).shape == (1, 2)
    assert cache.embed([]).shape[0] == 0
    assert not (tmp_path / "cache.npz").exists()
