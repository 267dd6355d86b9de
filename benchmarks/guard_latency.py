"""What basis and sidecar add to requests of the real model: ``python -m benchmarks.guard_latency``.

Redis, the router with the packaged model, and the sidecar run as processes. A round asks one
harmless question in three ways, each round beginning with another: straight at the router with
strength 0, the same with strength 1, and through the sidecar with strength 1. The router keeps no prefixes and
no question comes twice, so nobody finds anything done. Every answer has the same number of tokens.
Rounds of several runs add up in the report.
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
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.gate_evaluation import measure_gate as measured
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.studies.guard.guard_runner import items_digest
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.testing import RedisServer, free_port
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results/safety_latency.json"
COMMAND = "python -m benchmarks.guard_latency"
# A short answer; whatever is added to a longer one is a smaller share of it.
TOKENS = 64
# <|endoftext|> and <|im_end|>: the basis would end some answers before the base does.
NEVER = {0: -100.0, 2: -100.0}
WAYS = ("neither", "basis", "both")
START_S = 180


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Run Redis, router and sidecar; yields the addresses of router and sidecar."""
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


async def ask(
    stub: "rpc.RouterServiceAsyncStub", text: str, *, stream: bool, strength: float
) -> float:
    """Return the seconds until the last token is there."""
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)])
    sampling = pb.Sampling(temperature=0, logit_bias=NEVER)
    request = pb.GenerateRequest(chat=chat, max_tokens=TOKENS, sampling=sampling)
    metadata = (("bem-safety-strength", str(strength)),)
    began = time.perf_counter()
    if stream:
        async for _ in stub.Generate(request, metadata=metadata):
            pass
    else:
        whole = pb.CompleteRequest(request=request)
        await stub.Complete(whole, metadata=metadata)
    return time.perf_counter() - began


async def rounds(router: str, sidecar: str, texts: list[str], *, stream: bool) -> list[list[float]]:
    """Return [rounds][ways], in ms."""
    async with (
        grpc.aio.insecure_channel(router) as straight,
        grpc.aio.insecure_channel(sidecar) as through,
    ):
        near, far = rpc.RouterServiceStub(straight), rpc.RouterServiceStub(through)
        ways = ((near, 0.0), (near, 1.0), (far, 1.0))
        for stub, strength in ways:
            await _ready(stub, strength)
        found = []
        for place, text in enumerate(texts):
            taken = [0.0] * len(WAYS)
            for turn in range(len(WAYS)):
                way = (place + turn) % len(WAYS)
                stub, strength = ways[way]
                taken[way] = 1e3 * await ask(stub, text, stream=stream, strength=strength)
            found.append(taken)
        return found


async def _ready(stub: "rpc.RouterServiceAsyncStub", strength: float) -> None:
    limit = time.monotonic() + START_S
    while True:
        try:
            await ask(stub, "Say hello.", stream=False, strength=strength)
        except grpc.aio.AioRpcError:
            if time.monotonic() > limit:
                raise
            await asyncio.sleep(0.5)
        else:
            return


def _added(ms: NDArray[np.float64]) -> dict[str, float]:
    p50, p95 = (float(np.percentile(ms, q)) for q in (50, 95))
    return {
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p50_ms_per_token": round(p50 / TOKENS, 2),
    }


def report(known: dict[str, Any], found: list[list[float]], keys: list[str], kind: str) -> None:
    """Add rounds to the report and write it."""
    kinds: dict[str, Any] = known.get("kinds", {})
    own = kinds.setdefault(kind, {"keys": [], **{way: [] for way in WAYS}})
    own["keys"] += keys
    for place, way in enumerate(WAYS):
        own[way] += [round(row[place], 2) for row in found]
    for one in kinds.values():
        neither, basis, both = (np.array(one[way]) for way in WAYS)
        one["figures"] = {
            "neither_p50_ms": round(float(np.median(neither)), 1),
            "ratio_of_medians": round(float(np.median(both) / np.median(neither)), 4),
            "basis_adds": _added(basis - neither),
            "sidecar_adds": _added(both - basis),
            "both_add": _added(both - neither),
        }
    unary = kinds.get("unary")
    if unary is None:
        raise SystemExit("measure unary rounds first: they are what the gate reads")
    entry = {"mission": [unary["both"]], "baseline": [unary["neither"]], "keys": unary["keys"]}
    whole = {
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
    OUT.write_text(json.dumps(whole, indent=1) + "\n")
    scores = {
        "latency_p50_ms": PairedScores(np.array(entry["mission"]), np.array(entry["baseline"]))
    }
    for one in measured(load_catalogue().gates["C.latency"].rule, scores):
        print(f"C.latency {one.figure:.4f}, 95 % {one.low} to {one.high}, p {one.p:.3g}")
    print(json.dumps({name: one["figures"] for name, one in kinds.items()}, indent=1))


def main() -> None:
    """Measure and write ``results/safety_latency.json``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--stream", action="store_true", help="streamed instead of unary requests")
    parser.add_argument("--add", action="store_true", help="to the rounds that are in the report")
    given = parser.parse_args()
    known = json.loads(OUT.read_text()) if given.add and OUT.exists() else {}
    kind = "streamed" if given.stream else "unary"
    done = set(known.get("kinds", {}).get(kind, {}).get("keys", ()))
    asked = [
        p for p in load_benign_requests("held_out", sets=("nq-open", "asdiv")) if p.key not in done
    ]
    asked = asked[: given.rounds]
    with servers() as (router, sidecar):
        found = asyncio.run(rounds(router, sidecar, [p.text for p in asked], stream=given.stream))
    report(known, found, [p.key for p in asked], kind)


if __name__ == "__main__":
    main()
