"""Figures of a process from two readings of its metrics page."""

import pytest
from bem_fleet.services.gateway.metrics_samples import PageSamples, parse_page, process_point

GENERATE = "/bemfleet.router.v1.RouterService/Generate"
HEALTH = "/grpc.health.v1.Health/Check"
LIST = "/bemfleet.mission.v1.MissionService/ListAdapters"


def mission_page(unix_s: float, done: int, failed: int, slow: int, tokens: int) -> PageSamples:
    """Return the page of a mission: ``done`` fast calls, ``slow`` ones between 1 and 2 s."""
    series = 'bem_fleet_rpc_seconds_count{{code="{}",method="{}"}} {}'
    bucket = f'bem_fleet_rpc_seconds_bucket{{{{code="OK",le="{{}}",method="{GENERATE}"}}}} {{}}'
    lines = [
        "# TYPE bem_fleet_rpc_seconds histogram",
        series.format("OK", GENERATE, done + slow),
        series.format("UNAVAILABLE", GENERATE, failed),
        series.format("NOT_FOUND", GENERATE, 0),
        series.format("OK", HEALTH, 1000 * unix_s),
        series.format("OK", LIST, 1000 * unix_s),
        bucket.format("1.0", done),
        bucket.format("2.0", done + slow),
        bucket.format("+Inf", done + slow),
        f"bem_router_generated_tokens_total {tokens}",
        "bem_router_requests_running 2.0",
        "bem_router_requests_waiting 3.0",
        'bem_safety_verdicts_total{action="allow",constraint="",side="request"} 7',
        f'bem_safety_verdicts_total{{action="block",constraint="harm",side="request"}} {failed}',
        f"process_cpu_seconds_total {unix_s / 4}",
        "process_resident_memory_bytes 1e+06",
        'something_else{le="no number"} 4',
    ]
    return parse_page("\n".join(lines), unix_s)


def test_rates_are_between_the_last_two_readings() -> None:
    """Probes of health and calls of the mission contract are no requests."""
    before = mission_page(0, 10, 2, 0, 100)
    point = process_point([before, mission_page(2, 16, 4, 2, 140)])

    assert point.unix_ms == 2000
    assert point.requests_per_s == pytest.approx(5)  # 8 done and 2 failed in 2 s
    assert point.errors_per_s == pytest.approx(1)
    assert point.tokens_per_s == pytest.approx(20)
    assert point.withheld_per_s == pytest.approx(1)
    assert point.cpu_cores == pytest.approx(0.25)
    assert (point.running, point.waiting, point.memory_bytes) == (2, 3, 1e6)
    assert point.cache_hit_ratio is None


def test_percentile_is_of_what_was_counted_meanwhile() -> None:
    """0.95 of 10 calls is the middle of a bucket with one call; older calls do not count."""
    old = mission_page(0, 1000, 0, 50, 0)
    point = process_point([old, mission_page(30, 1009, 0, 51, 0)])

    assert point.latency_p95_s == pytest.approx(1.5)
    assert process_point([old, mission_page(30, 1000, 0, 50, 0)]).latency_p95_s is None


def test_first_reading_has_levels_and_no_rates() -> None:
    """A rate needs two readings."""
    point = process_point([mission_page(5, 10, 2, 1, 100)])

    assert point.running == 2
    assert (point.requests_per_s, point.cpu_cores, point.latency_p95_s) == (None, None, None)


def test_restarted_process_counts_from_zero() -> None:
    """A counter that fell is not negative work."""
    point = process_point([mission_page(10, 500, 0, 0, 900), mission_page(12, 4, 0, 0, 8)])

    assert point.requests_per_s == pytest.approx(2)
    assert point.tokens_per_s == pytest.approx(4)


def test_gateway_counts_its_clients_requests() -> None:
    """Requests of health, of metrics and of the page itself are left out."""

    def page(unix_s: float, chats: int, broken: int) -> PageSamples:
        series = 'bem_gateway_requests_total{{code="{}",route="{}"}} {}'
        rows = [
            ("200", "/v1/chat/completions", chats),
            ("503", "/v1/chat/completions", broken),
            ("200", "/readyz", 1000 * unix_s),
            ("200", "/metrics", 1000 * unix_s),
            ("200", "/v1/fleet/events", 1000 * unix_s),
            ("200", "/", 1000 * unix_s),
        ]
        return parse_page("\n".join(series.format(*row) for row in rows), unix_s)

    point = process_point([page(0, 0, 0), page(10, 30, 20)])

    assert point.requests_per_s == pytest.approx(5)
    assert point.errors_per_s == pytest.approx(2)


def test_counter_without_a_series_has_counted_nothing() -> None:
    """A sidecar that withheld nothing has rate 0; a process without a sidecar has none."""
    allow = 'bem_safety_verdicts_total{action="allow",constraint="",side="request"} 7'
    sidecar = [parse_page(allow, at) for at in (0.0, 2.0)]
    other = [parse_page("process_resident_memory_bytes 5", at) for at in (0.0, 2.0)]

    assert process_point(sidecar).withheld_per_s == 0
    assert process_point(other).withheld_per_s is None
