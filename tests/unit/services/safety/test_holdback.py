"""What may leave, and when."""

from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.redaction import cut, merge_spans
from hypothesis import given
from hypothesis import strategies as st

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
        out += [raw for raw, _, _ in hold.releasable(ended=False)]
        assert len(b"".join(out)) <= max(0, judged - window)
    if hold.unjudged(ended=True):
        hold.passed(len(hold.text))
    out += [raw for raw, _, _ in hold.releasable(ended=True)]

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


SECRETS = ("ab@cd.ef", "12 34 56 78", "x" * 40)


@given(
    words=st.lists(st.sampled_from(["the", "boat", "lay", "still", *SECRETS]), max_size=40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    stride=st.integers(1, 20),
)
def test_no_part_of_a_span_leaves_however_the_stream_is_cut(
    words: list[str], sizes: list[int], stride: int
) -> None:
    """What leaves is the whole text with the spans cut out, one mark a span."""
    text = " ".join(words)
    hold = HoldBack(16, context=64, stride=stride)
    out, at, turn = "", 0, 0
    while at < len(text):
        piece = text[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(piece), turn + 1
        hold.add(piece.encode(), piece)
        if seen := hold.unjudged(ended=False):
            hold.passed(len(hold.text), _spans(seen))
        for raw, start, spans in hold.releasable(ended=False):
            out += cut(raw.decode(), spans, start)
    if seen := hold.unjudged(ended=True):
        hold.passed(len(hold.text), _spans(seen))
    for raw, start, spans in hold.releasable(ended=True):
        out += cut(raw.decode(), spans, start)

    assert out == cut(text, merge_spans(_spans(text)))
    assert not any(secret in out for secret in SECRETS)


def _spans(text: str) -> list[Span]:
    found = []
    for secret in SECRETS:
        place = text.find(secret)
        while place >= 0:
            found.append(Span(place, place + len(secret), "S", 1.0, "pii"))
            place = text.find(secret, place + 1)
    return found
