"""Client whose latency is measured: completions of 16 tokens, one after the other."""

import itertools
import statistics
import time
from dataclasses import dataclass

import httpx

TOKENS = 16
# A round ends after this time, whatever the fleet does; a request that it cuts off has failed.
ROUND_S = 90.0


@dataclass(frozen=True)
class Latency:
    """Latency of a series of requests.

    Attributes:
        p50: Median, in seconds.
        p95: 95th percentile, in seconds.
        failed: Requests that were not answered with 200.
        requests: All requests.
    """

    p50: float
    p95: float
    failed: int
    requests: int


class MeasuredClient:
    """Sends completions of 16 tokens.

    Args:
        gateway: Base URL of the gateway.
        model: Model that requests name.
        key: API key; empty for none.
    """

    def __init__(self, gateway: str, model: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=gateway, timeout=ROUND_S, headers=headers)
        self._model = model
        self._numbers = itertools.count()

    def run(self, requests: int, seconds: float) -> Latency:
        """Send requests until both a number and a time are reached, and return their latency.

        A round that takes longer than ``ROUND_S`` ends before.

        Args:
            requests: Fewest requests.
            seconds: Shortest time, in seconds.
        """
        began, times, failed = time.perf_counter(), list[float](), 0
        while len(times) < requests or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            left_s = began + ROUND_S - started
            if left_s <= 0:
                break
            failed += not self._ask(left_s)
            times.append(time.perf_counter() - started)
        ordered = sorted(times)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return Latency(statistics.median(times), p95, failed, len(times))

    def _ask(self, timeout_s: float) -> bool:
        """Send one request; no two are equal, so that no verdict comes from a cache."""
        body = {
            "model": self._model,
            "prompt": f"Note {next(self._numbers)}: on a quiet morning in early spring",
            "max_tokens": TOKENS,
            "temperature": 0,
        }
        try:
            return self._http.post("/v1/completions", json=body, timeout=timeout_s).is_success
        except httpx.TransportError:
            return False
