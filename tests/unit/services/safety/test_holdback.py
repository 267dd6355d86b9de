"""Hold-back buffer: what may be released, and when."""

from collections.abc import Callable

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.secret_patterns import find_secrets
from bem_fleet.guard.spans import merge_spans, redact
from bem_fleet.services.safety.holdback import HoldBack
from hypothesis import given, settings
from hypothesis import strategies as st

PIECES = st.lists(st.text(alphabet="ab ", max_size=9), max_size=30)


@given(pieces=PIECES, window=st.integers(0, 20), stride=st.integers(1, 10))
def test_only_evaluated_text_is_released_in_order(
    pieces: list[str], window: int, stride: int
) -> None:
    """Released text ends at least one window before the evaluated text, until the stream ends."""
    hold = HoldBack(window, context=5, stride=stride)
    out: list[bytes] = []
    evaluated = 0
    for piece in pieces:
        hold.add(piece.encode(), piece)
        if hold.text_to_evaluate(ended=False):
            evaluated = len(hold.text)
            hold.mark_evaluated(evaluated)
        out += [raw for raw, _, _ in hold.release(ended=False)]
        assert len(b"".join(out)) <= max(0, evaluated - window)
    if hold.text_to_evaluate(ended=True):
        hold.mark_evaluated(len(hold.text))
    out += [raw for raw, _, _ in hold.release(ended=True)]

    assert out == [piece.encode() for piece in pieces]
    assert hold.pending_count == 0


@given(pieces=PIECES)
def test_each_evaluation_includes_preceding_text(pieces: list[str]) -> None:
    """Evaluations overlap, so no span falls between two of them."""
    hold = HoldBack(4, context=6, stride=1)
    evaluated = 0
    for piece in pieces:
        hold.add(b"", piece)
        if text := hold.text_to_evaluate(ended=False):
            assert hold.text.endswith(text)
            assert len(hold.text) - len(text) == max(0, evaluated - 6)
            evaluated = len(hold.text)
            hold.mark_evaluated(evaluated)


SECRETS = ("ab@cd.ef", "12 34 56 78", "x" * 40)


@given(
    words=st.lists(st.sampled_from(["the", "boat", "lay", "still", *SECRETS]), max_size=40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    stride=st.integers(1, 20),
)
def test_no_part_of_a_span_is_released_however_the_stream_is_split(
    words: list[str], sizes: list[int], stride: int
) -> None:
    """The released text is the redacted text, with one placeholder per span."""
    text = " ".join(words)
    out = released(text, sizes, HoldBack(16, context=64, stride=stride), _spans)

    assert out == redact(text, merge_spans(_spans(text)))
    assert not any(secret in out for secret in SECRETS)


KEY_LINE = "Qm9hdHMgbGF5IHN0aWxsIGluIHRoZSBoYXJib3Vy9x"


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(5, 60), min_size=1, max_size=8),
    width=st.integers(16, len(KEY_LINE)),
    stride=st.integers(8, 40),
)
def test_key_that_is_longer_than_the_context_stays_whole(
    sizes: list[int], width: int, stride: int
) -> None:
    """Wherever an evaluation begins, no line of the key leaves."""
    lines = ["-----BEGIN PRIVATE KEY-----", *[KEY_LINE[:width]] * 30]
    text = "Here it is:\n" + "\n".join(lines) + " .\nIt ends."
    out = released(text, sizes, HoldBack(64, context=512, stride=stride), _secrets)

    assert out.startswith("Here it is:\n[PRIVATE_KEY]")
    assert out.endswith(".\nIt ends.")
    assert KEY_LINE[:6] not in out


def released(text: str, sizes: list[int], hold: HoldBack, find: Callable[[str], list[Span]]) -> str:
    """Stream a text in pieces of these sizes, in turn; return what is released of it, redacted."""
    out, at, turn = "", 0, 0
    while at < len(text):
        piece = text[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(piece), turn + 1
        hold.add(piece.encode(), piece)
        if seen := hold.text_to_evaluate(ended=False):
            hold.mark_evaluated(len(hold.text), find(seen))
        for raw, start, spans in hold.release(ended=False):
            out += redact(raw.decode(), spans, start)
    if seen := hold.text_to_evaluate(ended=True):
        hold.mark_evaluated(len(hold.text), find(seen))
    for raw, start, spans in hold.release(ended=True):
        out += redact(raw.decode(), spans, start)
    return out


def _secrets(text: str) -> list[Span]:
    return [Span(*match, 1.0, "secrets") for match in find_secrets(text)]


def _spans(text: str) -> list[Span]:
    found = []
    for secret in SECRETS:
        place = text.find(secret)
        while place >= 0:
            found.append(Span(place, place + len(secret), "S", 1.0, "pii"))
            place = text.find(secret, place + 1)
    return found
