"""Whole requests with a LoRA each, beside vLLM's: ``make bench-engine PEERS="vllm-bfloat16"``.

Both sides load the same PEFT folders of random factors, get the same token ids and lengths, and
run in turn. vLLM is the only peer of the catalogue that batches requests with different LoRAs.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bem.adapters.bank import AdapterBank
from bem.adapters.peft_folder import import_lora
from bem.backbone import Backbone, load_backbone
from bem.engine import LLMEngine
from peft import LoraConfig, get_peft_model

from benchmarks.engine.engine_fixture import CACHE, FIRST_LAYER, LAYERS, RANK, load
from benchmarks.engine.measurement import (
    Measurement,
    Rates,
    Target,
    alternating_rates,
    medians,
    not_measured,
    ratio,
)
from benchmarks.engine.peers.catalogue import WITH_ADAPTERS, chosen
from benchmarks.engine.peers.peer_process import PeerProcess, running
from benchmarks.engine.timed_engine import TimedEngine, rate_of_requests

TARGETS = {
    "16 LoRAs / vLLM": Target(5.0),
    "16 all-linear LoRAs / vLLM": Target(3.0),
    "16 all-linear LoRAs / none": Target(0.8),
}
ROWS, PROMPT, NEW = 16, 16, 48
MODULES = {
    "16 LoRAs": LoraConfig(
        r=RANK,
        target_modules=["o_proj", "down_proj"],
        layers_to_transform=list(range(FIRST_LAYER, LAYERS)),
        init_lora_weights=False,
    ),
    "16 all-linear LoRAs": LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False),
}
"""What the LoRAs of each cell adapt."""


def write_loras(folder: Path) -> dict[str, list[Path]]:
    """Write random LoRAs as PEFT folders and return those of each cell."""
    base = load_backbone(cache=CACHE).model
    found: dict[str, list[Path]] = {}
    for cell, config in MODULES.items():
        torch.manual_seed(0)
        # Peft removes the name wherever it stands in a key: no part of one may look like it.
        first, *others = names = [f"lora{number:02}" for number in range(ROWS)]
        model = get_peft_model(base, config, adapter_name=first)
        for name in others:
            model.add_adapter(name, config)
        model.save_pretrained(folder / cell)
        found[cell] = [folder / cell / name for name in names]
        base = model.unload()
    return found


def run(rounds: int) -> Measurement:
    """Measure each cell in turn with vLLM if ``PEERS`` has it; none by default."""
    if WITH_ADAPTERS.environment not in [
        peer.environment for peer in chosen(os.environ.get("PEERS", "")).values()
    ]:
        return not_measured(TARGETS, "PEERS does not name vLLM")
    result = Measurement()
    with ExitStack() as stack:
        folders = write_loras(Path(stack.enter_context(TemporaryDirectory())))
        peer = stack.enter_context(running(WITH_ADAPTERS, torch.get_num_threads()))
        backbone = load()
        engine = _engine(backbone, folders, Path(stack.enter_context(TemporaryDirectory())))
        engine.start()
        stack.callback(engine.close, drain=False)
        cells: dict[str, list[Path]] = {"none": [], **folders}
        rates = {
            cell: alternating_rates(_sides(TimedEngine(engine), peer, paths), rounds)
            for cell, paths in cells.items()
        }
    result.figures |= {
        "weights": backbone.weight_format,
        "tokens/s": {cell: medians(found) for cell, found in rates.items()},
    }
    result.ratios = _ratios(rates)
    result.notes = [
        f"rank {RANK}, {ROWS} requests of {PROMPT} prompt and {NEW} new tokens, a LoRA each",
        "vLLM computes in bfloat16; none: its base model in the process that takes LoRAs",
    ]
    return result


def _ratios(rates: dict[str, Rates]) -> dict[str, float | None]:
    """Return our rates over vLLM's, and over ours without adapters."""
    found: dict[str, float | None] = {}
    for cell in MODULES:
        found[f"{cell} / vLLM"] = ratio(rates[cell]["ours"], rates[cell]["vLLM"])
        found[f"{cell} / none"] = ratio(rates[cell]["ours"], rates["none"]["ours"])
        found[f"{cell} / none, vLLM"] = ratio(rates[cell]["vLLM"], rates["none"]["vLLM"])
    return found


def _engine(backbone: Backbone, folders: dict[str, list[Path]], scratch: Path) -> LLMEngine:
    """Return an engine with all LoRAs, each by the name of its folder."""
    paths = [path for some in folders.values() for path in some]
    for path in paths:
        import_lora(
            path,
            scratch / _name(path),
            backbone=backbone,
            name=_name(path),
            feature_layer=FIRST_LAYER - 1,
            other_base=True,  # they name the folder of transformers' form
        )
    bank = AdapterBank(
        backbone,
        layers=range(FIRST_LAYER, LAYERS),
        rank=RANK,
        slots=len(paths),
        feature_layer=FIRST_LAYER - 1,
        linear=True,
    )
    for path in paths:
        bank.load(scratch / _name(path))
    return LLMEngine(
        backbone, bank, max_sequences=ROWS, max_waiting=ROWS, context_tokens=256, prefix_bytes=0
    )


def _name(path: Path) -> str:
    return f"{path.parent.name}-{path.name}".replace(" ", "-").lower()


def _sides(
    engine: TimedEngine, peer: PeerProcess, paths: Sequence[Path]
) -> dict[str, Callable[[], float]]:
    names = [_name(path) for path in paths]
    return {
        "ours": lambda: rate_of_requests(engine, ROWS, PROMPT, NEW, names),
        "vLLM": lambda: peer.rate(ROWS, PROMPT, NEW, paths),
    }
