"""Tests of compressed KV caches as systems that read a long text, on the tiny model."""

import pytest
import torch
from bem.testing import tiny_backbone
from bem_fleet.studies.memory.cache_systems import (
    PART_TOKENS,
    CachedText,
    ObservedCacheSystem,
    StreamedCacheSystem,
    cache_systems,
)
from bem_fleet.studies.memory.systems import KV_TOKEN_BYTES

TEXT = "".join(f"In year {year} the town of Aster had {year * 7} people. " for year in range(40))


def cached() -> CachedText:
    """Return an empty cache of 1,024 places."""
    return CachedText(tiny_backbone(context_tokens=1024))


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [True, False])
def test_a_budget_is_a_number_of_tokens(heavy: bool) -> None:
    """The evidence is as long as the budget holds, in the order of the text."""
    system = StreamedCacheSystem("x", cached(), 100 * KV_TOKEN_BYTES, heavy_hitters=heavy)
    system.read(TEXT)
    (evidence,) = system.evidence("who?")
    places = iter(TEXT)

    assert len(evidence) == 100  # the tiny tokenizer has a token a byte
    assert all(letter in places for letter in evidence)  # a subsequence


@pytest.mark.slow
def test_h2o_keeps_the_end_of_the_text() -> None:
    """Half of the budget is recent."""
    system = StreamedCacheSystem("h2o", cached(), 60 * KV_TOKEN_BYTES, heavy_hitters=True)
    system.read(TEXT)

    assert system.evidence("")[0].endswith(TEXT[-30:])


def test_a_text_that_fits_is_kept_whole() -> None:
    """Nothing is evicted below the budget."""
    text = TEXT[: PART_TOKENS + 40]
    system = StreamedCacheSystem("x", cached(), 10_000 * KV_TOKEN_BYTES, heavy_hitters=False)
    system.read(text)

    assert system.evidence("") == [text]


def test_moved_keys_have_the_angles_of_their_new_places() -> None:
    """In the first layer, which no other token influences, they are those of the shorter text."""
    backbone = tiny_backbone(context_tokens=1024)
    ids = backbone.tokenizer.encode("the cat sat on the mat")
    moved, fresh = CachedText(backbone), CachedText(backbone)
    moved.read(ids)
    moved.keep(ids, torch.tensor([1, 4, 9, 15]))
    fresh.read(moved.ids)
    keys = [one._cache.keys[0, 0, :, :4] for one in (moved, fresh)]

    assert moved.ids == [ids[at] for at in (1, 4, 9, 15)]
    assert torch.allclose(keys[0], keys[1], atol=1e-5)


def test_snapkv_chooses_for_each_question() -> None:
    """Two questions may get other tokens of the same text; a second text replaces the first."""
    system = ObservedCacheSystem("snapkv", cached(), 50 * KV_TOKEN_BYTES)
    system.read(TEXT[:600])
    first, second = (system.evidence(one)[0] for one in ("How many people?", "zzzzzzzz"))
    system.read("short")

    assert len(first) == len(second) == 50
    assert first != second
    assert system.evidence("How many people?") == ["short"]


def test_all_systems_share_one_cache() -> None:
    """Names say policy and bytes."""
    names = [one.name for one in cache_systems(tiny_backbone(), {"same_bytes": 2**20})]

    assert names == ["h2o_same_bytes", "keydiff_same_bytes", "snapkv_same_bytes"]
