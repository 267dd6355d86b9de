"""What may leave, and when."""

from hypothesis import given
from hypothesis import strategies as st

from services.safety.holdback import HoldBack

PIECES = st.lists(st.text(alphabet="ab ", max_size=9), max_size=30)


@given(pieces=PIECES, window=st.integers(0, 20), stride=st.integers(1, 10))
def test_nothing_unjudged_leaves_and_all_leaves_in_order(
    pieces: list[str], window: int, stride: int
) -> None:
    """Released text always lies the window before what was judged, until the end."""
    hold = HoldBack(window, context=5, stride=stride)
    out: list[bytes] = []
    judged = 0
    for piece in pieces:
        hold.add(piece.encode(), piece)
        if hold.unjudged(ended=False):
            judged = len(hold.text)
            hold.passed(judged)
        out += hold.releasable(ended=False)
        assert len(b"".join(out)) <= max(0, judged - window)
    if hold.unjudged(ended=True):
        hold.passed(len(hold.text))
    out += hold.releasable(ended=True)

    assert out == [piece.encode() for piece in pieces]
    assert hold.held == 0


@given(pieces=PIECES)
def test_each_verdict_sees_the_text_before_it(pieces: list[str]) -> None:
    """What is judged overlaps what was judged, so no span falls between two verdicts."""
    hold = HoldBack(4, context=6, stride=1)
    judged = 0
    for piece in pieces:
        hold.add(b"", piece)
        if text := hold.unjudged(ended=False):
            assert hold.text.endswith(text)
            assert len(hold.text) - len(text) == max(0, judged - 6)
            judged = len(hold.text)
            hold.passed(judged)
