"""A fuzz run over the guard, and how its time grows: ``python -m benchmarks.guard_fuzz``."""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.normalization import MAX_DECODED, fold_confusables, decode_variants
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data, invalid_text_reason
from bem_fleet.guard.scoring.response_features import helpfulness_features
from bem_fleet.guard.scoring.windows import request_windows
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.redaction import cut, merge_spans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OUT = Path(__file__).resolve().parents[1] / "results/guard_fuzz"
PIECES = ("a ", "a.", "A", "1a", "$a", "aA1 ", "ab:", "=", "а", "\u0301", "1 ", "1.1.", "-----B")  # noqa: RUF001
_NASTY = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=st.sampled_from("aе\u200b01@$=+/ .-A\u0301\u202e"), max_size=300),  # noqa: RUF001
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", errors="replace")),
    st.lists(
        st.sampled_from(("QUFB" * 8, "41" * 12, "f u c k", "zber", "\ufdfa")), max_size=30
    ).map(" ".join),
)
_SPANS = st.lists(st.tuples(st.integers(0, 290), st.integers(1, 40)), max_size=6)


def read(text: str) -> None:
    """Every reading can be cut into windows and encoded; places lie in the text."""
    found = decode_variants(text)
    for reading in found:
        reading.encode()
    request_windows(found)
    first = fold_confusables(text)
    assert len(first.text) == len(first.places)
    assert all(0 <= place < len(text) for place in first.places)
    assert len(found) <= 3 + MAX_DECODED
    may_contain_sensitive_data(text)
    invalid_text_reason(text)
    features = helpfulness_features(text, text[::-1])
    assert ((features >= 0) & (features <= 1)).all()


def stream(text: str, spans: list[tuple[int, int]], size: int, stride: int) -> None:
    """A stream that is cut piece by piece says what the whole text says when it is cut."""
    known = [Span(a, a + n, "X", 1.0, "pii") for a, n in spans if a + n <= len(text)]
    hold = HoldBack(48, context=64, stride=stride)
    out = ""
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        hold.add(piece.encode("utf-8", "surrogatepass"), piece)
        out += _released(hold, known, ended=False)
    out += _released(hold, known, ended=True)
    assert out == cut(text, merge_spans(known))


def _released(hold: HoldBack, known: list[Span], *, ended: bool) -> str:
    if seen := hold.unjudged(ended=ended):
        end, begin = len(hold.text), len(hold.text) - len(seen)
        # A scorer sees a span as soon as all of it is there.
        new = [s for s in known if s.start >= begin and s.end <= end]
        hold.passed(end, [Span(s.start - begin, s.end - begin, *_rest(s)) for s in new])
    found = hold.releasable(ended=ended)
    return "".join(cut(raw.decode("utf-8", "surrogatepass"), s, at) for raw, at, s in found)


def _rest(span: Span) -> tuple[str, float, str]:
    return span.label, span.score, span.scorer


def seconds(work: Callable[[str], object], piece: str, length: int) -> float:
    """Return the processor's seconds of one text, the best of three."""
    text = (piece * length)[:length]
    best = 1e9
    for _ in range(3):
        began = time.process_time()
        work(text)
        best = min(best, time.process_time() - began)
    return best


def fuzz(examples: int) -> Counter[str]:
    """Return how many texts each property was tried on; raises at the first that breaks one."""
    tried: Counter[str] = Counter()
    calm = settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )

    @calm
    @given(_NASTY)
    def reading(text: str) -> None:
        tried["decode_variants"] += 1
        read(text)

    @calm
    @given(st.text(max_size=300), _SPANS, st.integers(1, 20), st.integers(1, 30))
    def streaming(text: str, spans: list[tuple[int, int]], size: int, stride: int) -> None:
        tried["streams"] += 1
        stream(text, spans, size, stride)

    reading()
    streaming()
    return tried


def main() -> None:
    """Fuzz, time, and write ``results/guard_fuzz``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard_fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    tried = fuzz(parser.parse_args().examples)
    growth = {
        piece: round(seconds(decode_variants, piece, 80_000) / seconds(decode_variants, piece, 10_000), 1)
        for piece in PIECES
    }
    found = {"tried": dict(tried), "broken": 0, "time_of_8x_the_text": growth}
    OUT.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
