"""Latency overhead of safety basis and sidecar: ``python -m benchmarks.guard_latency``.

Redis, the router with the packaged model, and the sidecar run as processes. A round sends one
benign question in three variants: to the router with strength 0, to the router with strength 1,
and through the sidecar with strength 1. The order of the variants rotates from round to round.
The router's prefix cache is off and no question is repeated, so that no variant profits from
another. All responses have the same number of tokens. ``--add`` appends rounds to the report.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from bem.digests import file_digest
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.gate_evaluation import measure_gate
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.data.held_out import final_evaluation
from bem_fleet.studies.guard.outcomes import items_digest
from bem_fleet.studies.signed_report import write_signed_report
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.testing import RedisServer, free_port
from fleet.wire import SAFETY_STRENGTH
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results/safety_latency.json"
COMMAND = "python -m benchmarks.guard_latency"
# Short responses: the relative overhead is largest for them.
TOKENS = 64
ARTIFACTS = {"safety": "adapters/safety/safety.json", "guard": "adapters/guard/heads.json"}
# <|endoftext|> and <|im_end|>: with the basis some responses would end earlier.
BANNED_TOKENS = {0: -100.0, 2: -100.0}
VARIANTS = ("neither", "basis", "both")
# 50 rounds leave an interval of 0.043 on each side: the margin needs three times less.
ROUNDS = 420
START_TIMEOUT_S = 180


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Run Redis, router and sidecar; yield the addresses of router and sidecar."""
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        router, sidecar, pages = f"unix:{folder}/r.sock", free_port(), free_port()
        environment = {
            "BEM_ROUTER_ADDRESS": router,
            "BEM_ROUTER_REDIS_URL": redis.url,
            "BEM_ROUTER_PREFIX_MIB": "0",
            "BEM_SAFETY_ADDRESS": f"127.0.0.1:{sidecar}",
            "BEM_SAFETY_UPSTREAM": router,
            "BEM_SAFETY_PAGES_ADDRESS": f"127.0.0.1:{pages}",
            "BEM_SAFETY_REDIS_URL": redis.url,
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **environment},
                stderr=subprocess.DEVNULL,
            )
            for module in ("bem_fleet.services.router", "bem_fleet.services.safety")
        ]
        try:
            yield router, f"127.0.0.1:{sidecar}"
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            redis.kill()


def artifact_digests() -> dict[str, str]:
    """Return the SHA-256 of the cards of the served artifacts."""
    return {name: file_digest(ROOT / path) for name, path in ARTIFACTS.items()}


async def measure_request(
    stub: "rpc.RouterServiceAsyncStub", text: str, *, stream: bool, strength: float
) -> float:
    """Return the seconds until the last token has arrived."""
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)])
    sampling = pb.Sampling(temperature=0, logit_bias=BANNED_TOKENS)
    request = pb.GenerateRequest(chat=chat, max_tokens=TOKENS, sampling=sampling)
    metadata = ((SAFETY_STRENGTH, str(strength)),)
    started = time.perf_counter()
    if stream:
        async for _ in stub.Generate(request, metadata=metadata):
            pass
    else:
        await stub.Complete(pb.CompleteRequest(request=request), metadata=metadata)
    return time.perf_counter() - started


async def run_rounds(
    router: str, sidecar: str, texts: list[str], *, stream: bool
) -> list[list[float]]:
    """Return the latencies [rounds][variants], in ms."""
    async with (
        grpc.aio.insecure_channel(router) as direct,
        grpc.aio.insecure_channel(sidecar) as proxied,
    ):
        router_stub, sidecar_stub = rpc.RouterServiceStub(direct), rpc.RouterServiceStub(proxied)
        variants = ((router_stub, 0.0), (router_stub, 1.0), (sidecar_stub, 1.0))
        for stub, strength in variants:
            await _wait_ready(stub, strength)
        latencies = []
        for number, text in enumerate(texts):
            row = [0.0] * len(VARIANTS)
            for turn in range(len(VARIANTS)):
                variant = (number + turn) % len(VARIANTS)
                stub, strength = variants[variant]
                row[variant] = 1e3 * await measure_request(
                    stub, text, stream=stream, strength=strength
                )
            latencies.append(row)
        return latencies


async def _wait_ready(stub: "rpc.RouterServiceAsyncStub", strength: float) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            await measure_request(stub, "Say hello.", stream=False, strength=strength)
        except grpc.aio.AioRpcError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
        else:
            return


def _overhead(ms: NDArray[np.float64]) -> dict[str, float]:
    p50, p95 = (float(np.percentile(ms, q)) for q in (50, 95))
    return {
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p50_ms_per_token": round(p50 / TOKENS, 2),
    }


def _figures(rounds: dict[str, Any]) -> dict[str, Any]:
    """Return the medians of all rounds of a kind, and what basis and sidecar add to them."""
    neither, basis, both = (np.array(rounds[variant]) for variant in VARIANTS)
    return {
        "neither_p50_ms": round(float(np.median(neither)), 1),
        "ratio_of_medians": round(float(np.median(both) / np.median(neither)), 4),
        "basis_adds": _overhead(basis - neither),
        "sidecar_adds": _overhead(both - basis),
        "both_add": _overhead(both - neither),
    }


def write_report(
    previous: dict[str, Any], latencies: list[list[float]], keys: list[str], kind: str
) -> None:
    """Add rounds to the report and write it.

    Args:
        previous: Report that the rounds are added to; empty for a new one.
        latencies: Latencies [rounds][variants], in ms.
        keys: Key of each round's question.
        kind: ``unary`` or ``streamed``.
    """
    kinds: dict[str, Any] = previous.get("kinds", {})
    own = kinds.setdefault(kind, {"keys": [], **{variant: [] for variant in VARIANTS}})
    own["keys"] += keys
    for column, variant in enumerate(VARIANTS):
        own[variant] += [round(row[column], 2) for row in latencies]
    for one in kinds.values():
        one["figures"] = _figures(one)
    unary = kinds.get("unary")
    if unary is None:
        raise SystemExit("--stream: no unary rounds yet; the gate needs them; run without it first")
    entry = {"mission": [unary["both"]], "baseline": [unary["neither"]], "keys": unary["keys"]}
    document = {
        "id": "safety_latency",
        "mission": {
            "name": "router with the basis at strength 1, behind the sidecar",
            "digest": "served",
        },
        "baseline": {"name": "router alone, strength 0", "digest": "served"},
        "metrics": {"latency_p50_ms": entry},
        "n_items": len(unary["keys"]),
        "seeds": [0],
        "data": {"name": "harmless held-out questions", "digest": items_digest(unary["keys"])},
        "command": COMMAND,
        "tokens": TOKENS,
        "kinds": kinds,
    }
    write_signed_report(document, OUT, artifacts=artifact_digests())
    scores = {
        "latency_p50_ms": PairedScores(np.array(entry["mission"]), np.array(entry["baseline"]))
    }
    for one in measure_gate(load_catalogue().gates["C.latency"].rule, scores):
        print(f"C.latency {one.figure:.4f}, 95 % {one.low} to {one.high}, p {one.p:.3g}")
    print(json.dumps({name: one["figures"] for name, one in kinds.items()}, indent=1))


def main() -> None:
    """Measure and write ``results/safety_latency.json``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--stream", action="store_true", help="use streaming requests")
    parser.add_argument("--add", action="store_true", help="append to the existing report")
    options = parser.parse_args()
    previous = json.loads(OUT.read_text()) if options.add and OUT.exists() else {}
    kind = "streamed" if options.stream else "unary"
    done = set(previous.get("kinds", {}).get(kind, {}).get("keys", ()))
    with final_evaluation(COMMAND):
        questions = load_benign_requests("held_out", sets=("nq-open", "asdiv"))
    prompts = [p for p in questions if p.key not in done]
    prompts = prompts[: options.rounds]
    with servers() as (router, sidecar):
        latencies = asyncio.run(
            run_rounds(router, sidecar, [p.text for p in prompts], stream=options.stream)
        )
    write_report(previous, latencies, [p.key for p in prompts], kind)


if __name__ == "__main__":
    main()
