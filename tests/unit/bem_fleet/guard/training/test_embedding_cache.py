"""Cache of window embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bem_fleet.guard.training import embedding_cache
from bem_fleet.guard.training.embedding_cache import (
    EmbeddingCache,
    StoringEmbedder,
    tuned_cache,
)
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


def test_stored_embeddings_are_read_by_the_next_cache(tmp_path: Path) -> None:
    """Only new windows are embedded, in the order of the call."""
    path = tmp_path / "cache.npz"
    EmbeddingCache(path, CountingModel).embed_and_store(["a", "bb"])
    vectors = EmbeddingCache(path, CountingModel).embed_and_store(["bb", "ccc", "a"])

    assert vectors[:, 0].tolist() == [2, 3, 1]
    assert CountingModel.embedded == ["ccc"]


def test_embed_does_not_write(tmp_path: Path) -> None:
    """Embeddings of evaluations stay in memory; an empty call has no rows."""
    cache = EmbeddingCache(tmp_path / "cache.npz", CountingModel)

    assert cache.embed(["a"]).shape == (1, 2)
    assert cache.embed([]).shape[0] == 0
    assert not (tmp_path / "cache.npz").exists()


def test_another_adapter_has_another_cache(tmp_path: Path) -> None:
    """Embeddings of one adapter are never read as those of another."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    first, again, second = (tuned_cache(tmp_path, tmp_path / n) for n in ("one", "one", "two"))

    assert first.path == again.path != second.path


class FailingModel(CountingModel):
    """Embeds two texts and fails at the next."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors [n, 2].

        Raises:
            KeyboardInterrupt: Two texts were embedded before.
        """
        if len(CountingModel.embedded) == 2:
            raise KeyboardInterrupt
        return super().embed(texts)


def test_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written while many windows are embedded, not only at their end."""
    monkeypatch.setattr(embedding_cache, "_STORED_AT_ONCE", 2)
    path, windows = tmp_path / "cache.npz", ["a", "bb", "ccc", "dddd"]
    with pytest.raises(KeyboardInterrupt):
        StoringEmbedder(EmbeddingCache(path, FailingModel)).embed(windows)
    vectors = StoringEmbedder(EmbeddingCache(path, CountingModel)).embed(windows)

    assert CountingModel.embedded == ["ccc", "dddd"]
    assert vectors[:, 0].tolist() == [1, 2, 3, 4]
