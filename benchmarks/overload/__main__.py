"""Command of the overload benchmark: ``python -m benchmarks.overload``.

It runs a fleet of its own with a canary whose calls are mirrored, finds the rate at which five
tenants saturate the fleet (closed loop), and then sends 0.5, 1, 2, 3 and 5 times that rate (open
loop). One tenant sends ten times the requests of each other. Figures are ratios of the same run.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bem_fleet.cli.local.plan import Plan

from benchmarks.isolation.attacks import processors
from benchmarks.isolation.keys import user_keys
from benchmarks.overload.fleet import (
    MIRRORED_PERCENT,
    ROOT,
    STABLE,
    WEIGHT,
    Orchestrator,
    mirrored_calls,
    running_fleet,
)
from benchmarks.overload.load import (
    TOKENS,
    Client,
    arrivals,
    client_of,
    closed_loop,
    open_loop,
)
from benchmarks.overload.measures import Window, completed, measured
from benchmarks.overload.report import COMMAND, write

LEVELS = (0.5, 1, 2, 3, 5)
LIGHT, HOSTILE, HOSTILE_FACTOR = ("light-1", "light-2", "light-3", "light-4"), "hostile", 10
TENANTS = (*LIGHT, HOSTILE)
# Half of the time after which common proxies give up.
DEADLINE_S = 30.0
# More than the rows of an engine, so that its queue is never empty, in the shares of the open loop.
CLOSED_CLIENTS = (*LIGHT * 3, *(HOSTILE,) * 28)
_READY_EVERY_S, _READY_LIMIT_S = 0.25, 5.0


class Readiness:
    """Asks a gateway again and again whether it is ready."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.statuses: list[int] = []

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_READY_LIMIT_S):
                    async with self._client.session.get("/readyz") as answer:
                        self.statuses.append(answer.status)
            except TimeoutError:
                self.statuses.append(0)
            await asyncio.sleep(_READY_EVERY_S)


async def _mirrored(client: Client) -> Mapping[str, float]:
    async with client.session.get("/metrics") as answer:
        return mirrored_calls(await answer.text())


async def overload(client: Client, factor: float, rate: float, window: Window) -> dict[str, Any]:
    """Send a multiple of the saturation rate and return its row.

    Args:
        client: Client of the fleet.
        factor: Multiple of the rate.
        rate: Saturation rate in requests per second.
        window: Window of the load, whose end is the last arrival.
    """
    unit = factor * rate / (len(LIGHT) + HOSTILE_FACTOR)
    rates = dict.fromkeys(LIGHT, unit) | {HOSTILE: unit * HOSTILE_FACTOR}
    schedule = arrivals(rates, window.end_s, seed=round(10 * factor))
    before, readiness = await _mirrored(client), Readiness(client)
    polling = asyncio.create_task(readiness.run())
    answers = await open_loop(client, schedule)
    polling.cancel()
    after = await _mirrored(client)
    ends = {end: after[end] - before.get(end, 0.0) for end in after}
    ran = sum(ends.get(end, 0.0) for end in ("answered", "failed"))
    row = {"load": factor, **measured(answers, window, DEADLINE_S, LIGHT)}
    return row | {
        "mirrored_calls": ends,
        "mirrored_share_of_answers": round(ran / max(1, row["answered"]), 3),
        "ready_polls": len(readiness.statuses),
        "not_ready_polls": sum(status != 200 for status in readiness.statuses),
    }


async def saturation(client: Client, clients: Sequence[str], window: Window) -> tuple[float, float]:
    """Return the rate of a closed loop in requests per second, and the share that was mirrored.

    Args:
        client: Client of the fleet.
        clients: Tenant of each client that sends a request after each answer.
        window: Window of the load.
    """
    before = await _mirrored(client)
    answers = await closed_loop(client, clients, window.end_s)
    after = await _mirrored(client)
    ran = sum(after.get(end, 0) - before.get(end, 0) for end in ("answered", "failed"))
    rate = completed(answers, window, DEADLINE_S).total() / window.seconds
    return rate, ran / max(1, len(answers))


async def measure(plan: Plan, keys: Mapping[str, str], window: Window) -> dict[str, Any]:
    """Measure all levels of a running fleet."""
    orchestrator = Orchestrator(plan)
    async with client_of(f"http://{plan.address('gateway')}", STABLE, keys) as client:
        await orchestrator.start_canary()
        await closed_loop(client, TENANTS, 3.0)  # warm-up: kernels, prefix cache, connections
        equal, _ = await saturation(client, TENANTS * 8, window)
        rate, mirrored = await saturation(client, CLOSED_CLIENTS, window)
        rows = []
        for factor in LEVELS:
            row = await overload(client, factor, rate, window)
            row["canary_phase"] = (await orchestrator.canary()).phase
            print(json.dumps(row), flush=True)
            rows.append(row)
    peak = max(rate, *(row["goodput_per_s"] for row in rows))
    for row in rows:
        row["goodput_of_peak"] = round(row["goodput_per_s"] / peak, 3)
    return {
        "saturation_per_s": round(rate, 2),
        "saturation_of_peak": round(rate / peak, 3),
        "equal_tenants_of_peak": round(equal / peak, 3),
        "saturation_mirrored_share": round(mirrored, 3),
        "rows": rows,
    }


def main() -> None:
    """Run the fleet, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each load")
    parser.add_argument("--ramp", type=float, default=6.0, help="time of it that does not count")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the report")
    given = parser.parse_args()
    window = Window(given.ramp, given.seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_fleet(Path(folder)) as plan,
        user_keys(plan.keys_file, TENANTS) as keys,
    ):
        found = asyncio.run(measure(plan, dict(zip(TENANTS, keys, strict=True)), window))
    setting = {
        "command": COMMAND,
        "processors": processors(),
        "tokens": TOKENS,
        "deadline_s": DEADLINE_S,
        "window_s": window.seconds,
        "tenants": f"{len(LIGHT)} and one with {HOSTILE_FACTOR} times the rate of each",
        "canary": f"weight {WEIGHT} %, {MIRRORED_PERCENT} % of the requests mirrored",
    }
    write(given.out, setting | found)


if __name__ == "__main__":
    main()
