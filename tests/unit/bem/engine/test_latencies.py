"""Tests of the engine's latency histograms."""

from itertools import pairwise
from pathlib import Path

import pytest
from bem.engine import GenerationRequest
from bem.engine.latencies import Durations, Latencies, RequestTimes
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import ENDLESS, complete, encode, make_engine, submit


def test_durations_are_counted_by_upper_bound() -> None:
    """A duration that equals a bound belongs to its bucket; the last bucket has no bound."""
    durations = Durations((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 70.0):
        durations.observe(seconds)

    assert durations.cumulative() == [(0.1, 2), (1.0, 3), (float("inf"), 4)]
    assert durations.count == 4
    assert durations.sum_s == pytest.approx(70.65)


def test_latencies_follow_the_moments_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens at 2, 3 and 5 s and an end at 6 s give the latencies that their differences say."""
    moments = iter((2.0, 3.0, 5.0, 6.0))
    monkeypatch.setattr("bem.engine.latencies.time.monotonic", lambda: next(moments))
    latencies, times = Latencies(), RequestTimes(arrived_at=0.5)
    for _ in range(3):
        latencies.observe_token(times)
    latencies.observe_end(times, "stop")

    assert (latencies.first_token.count, latencies.first_token.sum_s) == (1, 1.5)
    assert (latencies.inter_token.count, latencies.inter_token.sum_s) == (2, 3.0)
    assert (latencies.output_token.count, latencies.output_token.sum_s) == (1, 1.5)
    assert (latencies.request.count, latencies.request.sum_s) == (1, 5.5)
    assert latencies.finished == {"stop": 1, "length": 0}


def test_engine_observes_complete_requests_only(tmp_path: Path) -> None:
    """A complete request has all latencies; one that is cancelled in the queue has none."""
    engine = make_engine(tiny_backbone(), tmp_path, adapters=())
    complete(engine, GenerationRequest(encode("time me"), ENDLESS, max_tokens=5))
    submit(engine, GenerationRequest(encode("not me"), ENDLESS, max_tokens=5))[1].cancel()
    engine.turn()
    latencies = engine.counters.latencies

    assert (latencies.first_token.count, latencies.inter_token.count) == (1, 4)
    assert (latencies.output_token.count, latencies.request.count) == (1, 1)
    assert latencies.finished == {"stop": 0, "length": 1}
    assert latencies.request.sum_s >= latencies.first_token.sum_s + latencies.inter_token.sum_s


@pytest.mark.parametrize("name", ["first_token", "inter_token", "output_token", "request"])
def test_bounds_rise(name: str) -> None:
    """Each histogram has rising bounds, as Prometheus demands."""
    bounds = [bound for bound, _ in getattr(Latencies(), name).cumulative()]

    assert all(low < high for low, high in pairwise(bounds))
