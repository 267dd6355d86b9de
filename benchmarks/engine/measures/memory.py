"""Memory of an engine's process, idle after it has served 16 requests."""

import gc
import json
import subprocess
import sys
import time

import psutil
from bem.engine import LLMEngine
from bem.engine.engine import IDLE_S
from bem.engine.kv_cache import head_dim

from benchmarks.engine.engine_fixture import ROOT, backbone, serve
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {
    f"resident / limit, {kind}": Target(1.0, True) for kind in ("fp32", "bf16", "int8", "int4")
}
ROWS, CONTEXT, SLACK_MB = 16, 512, 600


def resident(kind: str) -> dict[str, float]:
    """Serve 16 requests in this process and return megabytes."""
    worker = LLMEngine(
        backbone(kind), max_sequences=ROWS, max_waiting=ROWS, context_tokens=CONTEXT, prefix_bytes=0
    )
    worker.start()
    serve(worker, [[500 + row] * (CONTEXT - 8) for row in range(ROWS)], 8)
    gc.collect()
    time.sleep(2 * IDLE_S)
    config = worker.backbone.model.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config)
    kept = ROWS * CONTEXT * token * worker.backbone.model.dtype.itemsize / 1e6
    held = worker.core.decoder.weight_bytes / 1e6
    used = psutil.Process().memory_info().rss / 1e6
    worker.close(drain=True)
    limit = 1.6 * held + kept + SLACK_MB
    return {"weights": held, "cache": kept, "resident": used, "limit": limit}


def run(rounds: int) -> Measurement:
    """Measure each kind in a process of its own."""
    del rounds
    found = Measurement()
    for kind in ("fp32", "bf16", "int8", "int4"):
        code = (
            f"import json; from {__name__} import resident; print(json.dumps(resident({kind!r})))"
        )
        shown = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        sizes = json.loads(shown.stdout.splitlines()[-1])
        found.figures[kind] = {name: round(value) for name, value in sizes.items()}
        found.ratios[f"resident / limit, {kind}"] = round(sizes["resident"] / sizes["limit"], 3)
    found.notes = [
        f"limit: 1.6 x weights + cache + {SLACK_MB} MB (of 10^6 bytes)",
        "weights are the bytes of all matrices as they are held, the embedding included",
    ]
    return found
