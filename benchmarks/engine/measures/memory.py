"""Resident memory of an engine's process, idle after it has served 16 requests."""

import gc
import json
import subprocess
import sys
import time

import psutil
from bem.engine import LLMEngine
from bem.engine.engine import IDLE_S
from bem.engine.kv_cache import position_bytes

from benchmarks.engine.engine_fixture import ROOT, complete_all, load
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {
    f"resident / limit, {kind}": Target(1.0, True) for kind in ("fp32", "bf16", "int8", "int4")
}
ROWS, CONTEXT, SLACK_MB = 16, 512, 600


def resident_mb(kind: str) -> dict[str, float]:
    """Serve 16 requests in this process; return weights, cache, resident memory and limit in MB."""
    engine = LLMEngine(
        load(kind), max_sequences=ROWS, max_waiting=ROWS, context_tokens=CONTEXT, prefix_bytes=0
    )
    engine.start()
    complete_all(engine, [[500 + row] * (CONTEXT - 8) for row in range(ROWS)], 8)
    gc.collect()
    time.sleep(2 * IDLE_S)
    cache = ROWS * CONTEXT * position_bytes(engine.backbone) / 1e6
    weights = engine.core.decoder.weight_bytes / 1e6
    resident = psutil.Process().memory_info().rss / 1e6
    engine.close(drain=True)
    limit = 1.6 * weights + cache + SLACK_MB
    return {"weights": weights, "cache": cache, "resident": resident, "limit": limit}


def run(rounds: int) -> Measurement:
    """Measure each weight format in a process of its own; ``rounds`` is ignored."""
    del rounds
    result = Measurement()
    for kind in ("fp32", "bf16", "int8", "int4"):
        call = f"json.dumps(resident_mb({kind!r}))"
        code = f"import json; from {__name__} import resident_mb; print({call})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        sizes = json.loads(done.stdout.splitlines()[-1])
        result.figures[kind] = {name: round(value) for name, value in sizes.items()}
        result.ratios[f"resident / limit, {kind}"] = round(sizes["resident"] / sizes["limit"], 3)
    result.notes = [
        f"limit: 1.6 x weights + cache + {SLACK_MB} MB (of 10^6 bytes)",
        "weights: bytes of all matrices in their format, the embedding included",
    ]
    return result
