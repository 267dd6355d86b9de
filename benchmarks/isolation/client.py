"""Client whose latency is measured: completions of 16 tokens, one after the other."""

import itertools
import statistics
import time
from dataclasses import dataclass

import httpx

TOKENS, TIMEOUT_S = 16, 120.0


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
        self._http = httpx.Client(base_url=gateway, timeout=TIMEOUT_S, headers=headers)
        self._model = model
        self._numbers = itertools.count()

    def run(self, requests: int, seconds: float) -> Latency:
        """Send requests until both a number and a time are reached, and return their latency.

        Args:
            requests: Fewest requests.
            seconds: Shortest time, in seconds.
        """
        began, times, failed = time.perf_counter(), list[float](), 0
        while len(times) < requests or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            failed += not self._ask()
            times.append(time.perf_counter() - started)
        ordered = sorted(times)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return Latency(statistics.median(times), p95, failed, len(times))

    def _ask(self) -> bool:
        """Send one request; no two are equal, so that no verdict comes from a cache."""
        body = {
            "model": self._model,
            "prompt": f"Note {next(self._numbers)}: on a quiet morning in early spring",
            "max_tokens": TOKENS,
            "temperature": 0,
        }
        try:
            return self._http.post("/v1/completions", json=body).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
