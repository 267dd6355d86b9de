"""Properties of random token splits: the text stays, parts are aligned, and merging restores."""

import numpy as np
import pytest
from bem.errors import InvalidSettingError
from bem.sep.retokenization import SplitTable
from hypothesis import given
from hypothesis import strategies as st

VOCABULARY = ["", "a", "b", "ab", "ba", "aba", "abab", "c", "zz"]
IDS = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=20)
TABLE = SplitTable(VOCABULARY)


def spell(ids: np.ndarray) -> str:
    """Return the text of ids."""
    return "".join(VOCABULARY[one] for one in ids)


@given(IDS, st.floats(0, 1), st.integers(0, 2**32))
def test_text_is_invariant_and_merging_restores_the_ids(
    tokens: list[int], rate: float, seed: int
) -> None:
    """decode(P x) = decode(x), and every token is found by the place of its last part."""
    ids = np.array(tokens, np.int64)
    one = TABLE.split(ids, rate, np.random.default_rng(seed))
    last = one.last_places()

    assert spell(one.ids) == spell(ids)
    assert TABLE.merge(one).tolist() == tokens
    assert len(last) == len(ids)
    assert [spell(one.ids[: place + 1]) for place in last] == [
        spell(ids[: place + 1]) for place in range(len(ids))
    ]
    assert np.array_equal(TABLE.split(ids, rate, np.random.default_rng(seed)).ids, one.ids)


def test_every_split_is_drawn_and_whole_tokens_stay() -> None:
    """At rate 1 each token with a split is split, in each of its ways; at 0 nothing changes."""
    ids = np.full(400, VOCABULARY.index("abab"))
    one = TABLE.split(ids, 1.0, np.random.default_rng(0))

    assert set(zip(one.ids[::2].tolist(), one.ids[1::2].tolist(), strict=True)) == {(3, 3), (5, 2)}
    assert len(one.ids) == 800
    whole = np.array([0, 1, 7, 8])
    assert TABLE.split(whole, 1.0, np.random.default_rng(0)).ids.tolist() == whole.tolist()
    assert TABLE.split(ids, 0.0, np.random.default_rng(0)).ids.tolist() == ids.tolist()
    with pytest.raises(InvalidSettingError, match=r"rate: 1\.5"):
        TABLE.split(ids, 1.5, np.random.default_rng(0))
