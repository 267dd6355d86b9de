"""Fuzz test of the guard, and growth of its run time: ``python -m benchmarks.guard_fuzz``."""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.normalization import MAX_DECODED, decode_variants, fold_confusables
from bem_fleet.guard.scoring.prefilter import invalid_text_reason, may_contain_sensitive_data
from bem_fleet.guard.scoring.response_features import helpfulness_features
from bem_fleet.guard.scoring.windows import request_windows
from bem_fleet.guard.spans import merge_spans, redact
from bem_fleet.services.safety.holdback import HoldBack
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


def check_scoring(text: str) -> None:
    """Check that variants can be windowed and encoded, and that offsets lie in the text."""
    variants = decode_variants(text)
    for variant in variants:
        variant.encode()
    request_windows(variants)
    folded = fold_confusables(text)
    assert len(folded.text) == len(folded.offsets)
    assert all(0 <= offset < len(text) for offset in folded.offsets)
    assert len(variants) <= 3 + MAX_DECODED
    may_contain_sensitive_data(text)
    invalid_text_reason(text)
    features = helpfulness_features(text, text[::-1])
    assert ((features >= 0) & (features <= 1)).all()


def check_stream(text: str, spans: list[tuple[int, int]], size: int, stride: int) -> None:
    """Check that a stream redacted in parts equals the redacted text."""
    known = [Span(a, a + n, "X", 1.0, "pii") for a, n in spans if a + n <= len(text)]
    hold_back = HoldBack(48, context=64, stride=stride)
    released = ""
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        hold_back.add(piece.encode("utf-8", "surrogatepass"), piece)
        released += _release(hold_back, known, ended=False)
    released += _release(hold_back, known, ended=True)
    assert released == redact(text, merge_spans(known))


def _release(hold_back: HoldBack, known: list[Span], *, ended: bool) -> str:
    if context := hold_back.text_to_evaluate(ended=ended):
        end, begin = len(hold_back.text), len(hold_back.text) - len(context)
        # A scorer reports a span as soon as the text contains all of it.
        new = [s for s in known if s.start >= begin and s.end <= end]
        hold_back.mark_evaluated(
            end, [Span(s.start - begin, s.end - begin, s.label, s.score, s.scorer) for s in new]
        )
    return "".join(
        redact(raw.decode("utf-8", "surrogatepass"), spans, offset)
        for raw, offset, spans in hold_back.release(ended=ended)
    )


def cpu_seconds(work: Callable[[str], object], piece: str, length: int) -> float:
    """Return the CPU seconds for one text, the best of three runs."""
    text = (piece * length)[:length]
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        work(text)
        best = min(best, time.process_time() - started)
    return best


def fuzz(examples: int) -> Counter[str]:
    """Return how many examples each property was checked on; raises at the first failure."""
    checked: Counter[str] = Counter()
    profile = settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )

    @profile
    @given(_NASTY)
    def scoring(text: str) -> None:
        checked["texts"] += 1
        check_scoring(text)

    @profile
    @given(st.text(max_size=300), _SPANS, st.integers(1, 20), st.integers(1, 30))
    def streaming(text: str, spans: list[tuple[int, int]], size: int, stride: int) -> None:
        checked["streams"] += 1
        check_stream(text, spans, size, stride)

    scoring()
    streaming()
    return checked


def main() -> None:
    """Run the fuzz test, measure the growth, and write ``results/guard_fuzz``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard_fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    checked = fuzz(parser.parse_args().examples)
    growth = {
        piece: round(
            cpu_seconds(decode_variants, piece, 80_000)
            / cpu_seconds(decode_variants, piece, 10_000),
            1,
        )
        for piece in PIECES
    }
    report = {"checked": dict(checked), "failures": 0, "time_of_8x_the_text": growth}
    OUT.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
