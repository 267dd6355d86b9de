"""What mission C adds to a request, on the real model: ``python -m benchmarks.safety_latency``.

Two missions run beside each other: one without a safety adapter, asked directly, and one with the
adapter at the default knob, asked through its sidecar. Each round asks both the same question, in
an order that alternates; neither has a prefix cache, so that none profits from the other's visit.
Every fourth question is an attack that the sidecar lets through, so that the adapter's own cost is
in the figure; its answers are cut where both sides still speak. Rounds are kept in a journal: a run
may be split (``--rounds``), and the report is of all of them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from bem.data.harmless import SUITE, load_harmless
from bem.data.red_team import load_red_team, sample
from bem.digests import file_digest
from bem.evaluation.report import as_json
from bem.journal import Journal
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.testing import RedisServer, free_port
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/results/safety_latency.json"
JOURNAL = ROOT / ".cache/safety/latency.jsonl"
BASE, SKILL = "smollm2-135m-instruct", "passage-qa"
TOKENS, TOKENS_OF_ATTACK = 24, 8
# Attacks that the sidecar refuses take another's place.
SPARE = 6


@contextmanager
def fleets() -> Iterator[tuple[Any, Any]]:
    """Run both; yields the stubs of the bare mission and of the sidecar of the other one."""
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        port = free_port()
        bare, guarded = (f"unix:{folder}/{name}.sock" for name in ("bare", "guarded"))
        common = {
            "BEM_ROUTER_CACHE": str(ROOT / ".cache/models"),
            "BEM_ROUTER_PREFIX_MIB": "0",
            "BEM_SAFETY_UPSTREAM": guarded,
            "BEM_SAFETY_ADDRESS": f"127.0.0.1:{port}",
            "BEM_SAFETY_REDIS_URL": redis.url,
            "BEM_SAFETY_DEEP_TIMEOUT_S": "60",
        }
        programs = [
            ("services.router", {"BEM_ROUTER_ADDRESS": bare, "BEM_ROUTER_SAFETY": folder}),
            ("services.router", {"BEM_ROUTER_ADDRESS": guarded}),
            ("services.safety", {}),
        ]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **common, **own},
                stderr=subprocess.DEVNULL,
            )
            for module, own in programs
        ]
        try:
            yield _stub(bare), _stub(f"127.0.0.1:{port}")
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
            redis.kill()


def _stub(address: str) -> Any:
    """Return a stub as soon as the mission behind the address serves."""
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=120)
    health, name = health_pb2_grpc.HealthStub(channel), "bemfleet.router.v1.RouterService"
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        except grpc.RpcError:
            answer = health_pb2.HealthCheckResponse()
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return rpc.RouterServiceStub(channel)
        time.sleep(0.2)
    raise TimeoutError(f"{address} does not serve after 240 s")


def requests() -> list[tuple[str, str, pb.CompleteRequest]]:
    """Return key, kind and request: three harmless questions, then attacks for one round."""
    asked = [
        (one.key, one.family, _request(one.text, SKILL if one.skill else BASE, TOKENS))
        for one in load_harmless("held_out", sets=SUITE)
    ]
    attacks = [
        (one.key, "attack", _request(one.text, BASE, TOKENS_OF_ATTACK))
        for one in sample(load_red_team(), "held_out", 400, longest=400)
    ]
    rounds = []
    for place in range(len(attacks) // SPARE):
        rounds += asked[3 * place : 3 * place + 3]
        rounds += attacks[SPARE * place : SPARE * (place + 1)]
    return rounds


def _request(text: str, model: str, tokens: int) -> pb.CompleteRequest:
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)])
    return pb.CompleteRequest(
        request=pb.GenerateRequest(
            model=model, chat=chat, sampling=pb.Sampling(temperature=0), max_tokens=tokens
        )
    )


def ask(stub: Any, request: pb.CompleteRequest) -> float | None:
    """Return the milliseconds of a request; None where the sidecar refuses it."""
    began = time.perf_counter()
    try:
        stub.Complete(request, timeout=120)
    except grpc.RpcError as err:
        if err.code() == grpc.StatusCode.PERMISSION_DENIED:
            return None
        raise
    return 1000 * (time.perf_counter() - began)


def run(rounds: int) -> None:
    """Add rounds to the journal."""
    journal = Journal(JOURNAL)
    known = {row["key"] for row in journal.rows()}
    with fleets() as (bare, guarded):
        for stub in (bare, guarded):
            ask(stub, _request("What is the capital of France?", BASE, TOKENS))  # warm-up
        done = attacks = harmless = 0
        for key, kind, request in requests():
            if done == rounds:
                break
            hostile = kind == "attack"
            # One attack for every three harmless questions.
            if key in known or (hostile and 3 * attacks >= harmless):
                continue
            pair = [bare, guarded] if done % 2 else [guarded, bare]
            took = {id(stub): ask(stub, request) for stub in pair}
            row = {"key": key, "kind": kind, "with": took[id(guarded)], "without": took[id(bare)]}
            if row["with"] is None:
                continue
            journal.add(row)
            attacks, harmless, done = attacks + hostile, harmless + (not hostile), done + 1


def report() -> dict[str, Any]:
    """Return the report of all rounds in the journal."""
    rows = list(Journal(JOURNAL).rows())
    kinds = sorted({row["kind"] for row in rows})
    return {
        "id": "safety_latency",
        "mission": {
            "name": "with adapter and sidecar",
            "digest": file_digest(ROOT / "adapters/safety/safety.json"),
        },
        "baseline": {"name": "the same mission without either", "digest": BASE},
        "metrics": {
            "latency_p50_ms": {
                "mission": [[row["with"] for row in rows]],
                "baseline": [[row["without"] for row in rows]],
                "keys": [row["key"] for row in rows],
            }
        },
        "seeds": [0],
        "data": {"name": "held-out questions and attacks", "digest": file_digest(JOURNAL)},
        "command": "python -m benchmarks.safety_latency",
        "tokens": {"harmless": TOKENS, "attack": TOKENS_OF_ATTACK},
        "kinds": [row["kind"] for row in rows],
        "p50": {
            kind: {
                side: round(
                    statistics.median(
                        row[side] for row in rows if kind in (row["kind"], "all")
                    ),
                    1,
                )
                for side in ("without", "with")
            }
            for kind in ("all", *kinds)
        },
    }  # fmt: skip


def main() -> None:
    """Measure, and write the report of all rounds so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--fresh", action="store_true", help="forget earlier rounds")
    given = parser.parse_args()
    if given.fresh:
        JOURNAL.unlink(missing_ok=True)
    run(given.rounds)
    found = report()
    OUT.write_text(as_json(found), encoding="utf-8")
    print(found["p50"])


if __name__ == "__main__":
    main()
