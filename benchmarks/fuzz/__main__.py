"""Fuzz test of a whole fleet: ``python -m benchmarks.fuzz --inputs 200000``.

Starts a local fleet with a tiny model, sends inputs to every RPC of every gRPC server and to every
route of the gateway, and fails if one of them causes an internal error, gets no answer, or ends a
process. Writes ``results/fuzz.json`` and ``results/fuzz.md``.
"""

import argparse
import asyncio
import math
import signal
import sys
import tempfile
import time
from pathlib import Path

from bem_fleet.checkout import ROOT

from benchmarks.fuzz.grpc_fuzzer import GrpcFuzzer
from benchmarks.fuzz.http_fuzzer import HttpFuzzer
from benchmarks.fuzz.outcomes import Outcomes
from benchmarks.fuzz.report import Run, write
from benchmarks.fuzz.schemathesis_run import run_schemathesis
from benchmarks.fuzz.tiny_fleet import TinyFleet, tiny_fleet

# Inputs of a server beside the others'. A sidecar scores every text, which takes most of the time.
_SIDECAR_WEIGHT, _WEIGHT = 1, 2


async def fuzz(
    fleet: TinyFleet, outcomes: Outcomes, inputs: int, *, key: str, seed: int, concurrency: int
) -> None:
    """Send the inputs to all servers of a fleet.

    Args:
        fleet: Running fleet.
        outcomes: Receives the outcomes.
        inputs: Number of inputs to all servers together.
        key: Key of an operator; empty to send none.
        seed: Seed of all inputs.
        concurrency: Calls in flight at once, for each server.
    """
    servers: list[tuple[str, GrpcFuzzer | HttpFuzzer]] = [
        (name, GrpcFuzzer(name, address, outcomes, key=key, seed=seed))
        for name, address in fleet.grpc_servers.items()
    ]
    servers.append(("gateway", HttpFuzzer(fleet.http, outcomes, key=key, seed=seed)))

    weights = {name: _SIDECAR_WEIGHT if "sidecar" in name else _WEIGHT for name, _ in servers}

    async def run(name: str, fuzzer: GrpcFuzzer | HttpFuzzer) -> None:
        began = time.monotonic()
        share = math.ceil(inputs * weights[name] / sum(weights.values()))
        await fuzzer.run(share, concurrency)
        print(f"{name}: {share} inputs in {time.monotonic() - began:.0f} s", flush=True)

    async with asyncio.TaskGroup() as group:
        for name, fuzzer in servers:
            group.create_task(run(name, fuzzer))


def _run_schemathesis(
    arguments: argparse.Namespace, url: str, outcomes: Outcomes, key: str
) -> None:
    """Check the gateway by Schemathesis too, with about as many requests."""
    checked = run_schemathesis(
        arguments.schemathesis,
        url,
        key=key,
        max_examples=max(10, arguments.inputs // 500),
        seed=arguments.seed,
    )
    outcomes.add_many("gateway (Schemathesis)", checked.generated, checked.passed)
    print(checked.output[-2_000:])


def main() -> int:
    """Run the fuzz test and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--key", help="operator's key; by default the one that the fleet wrote")
    parser.add_argument("--schemathesis", help="path of its command, to run it as well")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz")
    arguments = parser.parse_args()
    outcomes = Outcomes()
    # The fleet is stopped when the run is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder, tiny_fleet(Path(folder)) as fleet:
        before, began = fleet.processes(), time.monotonic()
        print(f"fleet of {len(before)} processes is ready", flush=True)
        key = fleet.operator_key if arguments.key is None else arguments.key
        asyncio.run(
            fuzz(
                fleet,
                outcomes,
                arguments.inputs,
                key=key,
                seed=arguments.seed,
                concurrency=arguments.concurrency,
            )
        )
        if arguments.schemathesis:
            _run_schemathesis(arguments, fleet.http, outcomes, key)
        seconds, after = time.monotonic() - began, fleet.processes()
    restarts = sorted(name for name, pid in before.items() if after.get(name) != pid)
    run = Run(outcomes, restarts, seconds, arguments.seed)
    write(run, arguments.out)
    return 0 if run.passed else 1


if __name__ == "__main__":
    sys.exit(main())
