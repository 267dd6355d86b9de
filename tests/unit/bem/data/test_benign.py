"""Harmless text by origin."""

from bem.data import benign


def test_strangers_are_never_learned_from() -> None:
    """No held-out text or origin is among those that heads may be trained on."""
    known, strange = benign.learned(), benign.held_out()

    assert not {one.text for one in known} & {one.text for one in strange}
    assert not {one.origin for one in known} & {one.origin for one in strange}
    assert {one.origin for one in known} & benign.CALIBRATING


def test_texts_are_whole_and_come_once() -> None:
    """Each text has something to say, and stands once."""
    known = benign.learned()

    assert len({one.text for one in known}) == len(known) > 20_000
    assert all(len(one.text) >= 8 for one in known)
    assert {one.role for one in known} == {"asked", "said"}


def test_pairs_differ_in_what_they_claim() -> None:
    """Summaries and stereotypes come with their counterparts."""
    for pairs, least in (
        (benign.summary_pairs(), 300),
        (benign.stereotype_pairs(), 4000),
        (benign.mask_pairs(), 1000),
    ):
        assert len(pairs) >= least
        assert sum(left != right for _, left, right in pairs) > 0.95 * len(pairs)
        assert all("[MASK]" not in left for _, left, _ in pairs)
