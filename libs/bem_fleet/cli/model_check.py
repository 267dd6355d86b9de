"""Check of a base model: what a mission would serve, how fast, and in how much memory.

The model is loaded and set up as a mission does it: compared with transformers, its weight format
selected, adapter bank and safety adapter installed. A few requests are then timed on this machine.
"""

import json
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bem.backbone import load_backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.engine.native import KernelPreference
from bem.engine.verification import TOLERANCE, verify_backbone
from bem.engine.weight_autotune import WantedFormat, select_format

from bem_fleet.cli.tables import format_table
from bem_fleet.serving.model_loading import install_safety_adapter, model_warnings, open_bank

ROWS = 16
"""Requests that run at once in the second measurement, as in a mission by default."""
_RANK, _SLOTS = 16, 16
_PROMPT_TOKENS, _OUTPUT_TOKENS = 128, 16
_GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class ModelOptions:
    """Settings that a mission would have.

    Attributes:
        cache: Folder of prepared models and of remembered comparisons.
        safety: Folder of the safety adapter.
        weights: Weight format; ``auto`` measures.
        kernels: Kernels of ``int8`` and ``int4``.
        context_tokens: Limit of prompt and output together; None for the model's own.
    """

    cache: Path
    safety: Path
    weights: WantedFormat = "auto"
    kernels: KernelPreference = "auto"
    context_tokens: int | None = None


@dataclass(frozen=True)
class Speed:
    """Tokens a second on this machine, of one process.

    Attributes:
        prefill: Prompt tokens of one request.
        decode: Output tokens of one request.
        batch_decode: Output tokens of ``ROWS`` requests together.
    """

    prefill: float
    decode: float
    batch_decode: float


@dataclass(frozen=True)
class ModelCheck:
    """What a mission would serve.

    Attributes:
        name: Name that users see.
        digest: SHA-256 of the model.
        family: Family of the model.
        beyond_llama: What its layers compute beside Llama's.
        layers: Number of layers.
        first_adapter_layer: Lowest layer with adapter sites; None without room for any.
        context_tokens: Limit of prompt and output together.
        window: Tokens that layers with a sliding window attend to; None without any.
        logit_difference: Largest difference from transformers' float32 logits.
        weights: Weight format that is served.
        kernels: Kernels that multiply the weights, and why.
        perplexity_ratios: Perplexity of the formats that were considered, relative to float32.
        weight_bytes: Memory of all matrices and the embedding in this format.
        kv_token_bytes: Memory of a token's keys and values.
        kv_request_bytes: Memory of a request's keys and values at the full context.
        peak_bytes: Largest resident memory of this process, transformers' comparison included.
        speed: Tokens a second.
        warnings: What is served without.
    """

    name: str
    digest: str
    family: str
    beyond_llama: list[str]
    layers: int
    first_adapter_layer: int | None
    context_tokens: int
    window: int | None
    logit_difference: float
    weights: str
    kernels: str
    perplexity_ratios: dict[str, float]
    weight_bytes: int
    kv_token_bytes: int
    kv_request_bytes: int
    peak_bytes: int
    speed: Speed
    warnings: list[str]

    def as_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(asdict(self), indent=2)

    def as_table(self) -> str:
        """Return the fields as lines for people."""
        window = "" if self.window is None else f"; sliding window {self.window} tokens"
        ratios = ", ".join(f"{kind} {ratio:.4f}" for kind, ratio in self.perplexity_ratios.items())
        per_request = f"{self.kv_request_bytes:,} bytes a request at the full context"
        exact = f"logits within {self.logit_difference:.2g} of transformers' (limit {TOLERANCE:g})"
        together = f"{self.speed.batch_decode:,.1f} tokens/s in {ROWS} rows"
        rows = [
            ("served", f"{self.name} ({self.family}, {self.layers} layers), {self.digest[:12]}"),
            ("layers", ", ".join(self.beyond_llama) or "as Llama's"),
            ("context", f"{self.context_tokens} tokens{window}"),
            ("exactness", exact),
            ("weights", self.weights + (f"; perplexity / float32: {ratios}" if ratios else "")),
            ("kernels", self.kernels),
            ("adapters", _adapter_text(self.first_adapter_layer, self.layers)),
            ("weight memory", f"{self.weight_bytes:,} bytes"),
            ("KV memory", f"{self.kv_token_bytes:,} bytes a token, {per_request}"),
            ("peak memory", f"{self.peak_bytes:,} bytes of this process, loading included"),
            ("prefill", f"{self.speed.prefill:,.0f} tokens/s"),
            ("decode", f"{self.speed.decode:,.1f} tokens/s alone, {together}"),
            *(("warning", text) for text in self.warnings),
        ]
        return format_table(rows)


def check_model(source: str, options: ModelOptions) -> ModelCheck:
    """Load, compare and time a base model; blocks for as long as a mission's start.

    Args:
        source: Model folder, ``.gguf`` file, or name of a model, as ``bem.backbone`` takes it.
        options: Settings that the mission would have.

    Raises:
        BemError: The model would not be served; the text says why.
    """
    loaded = load_backbone(source, cache=options.cache)
    context = min(options.context_tokens or loaded.context_tokens, loaded.context_tokens)
    difference = verify_backbone(loaded, context_tokens=context, cache=options.cache)
    backbone, choice = select_format(
        loaded,
        options.weights,
        options.kernels,
        perplexity_memo=options.cache / "perplexity.json",
    )
    bank = open_bank(backbone, first_layer=None, feature_layer=None, rank=_RANK, slots=_SLOTS)
    _, unsafe = install_safety_adapter(backbone, bank, options.safety)
    measured = min(context, _PROMPT_TOKENS + _OUTPUT_TOKENS)
    engine = LLMEngine(backbone, bank, max_sequences=ROWS, context_tokens=measured, prefix_bytes=0)
    speed = measure_speed(engine)
    family, config = backbone.family, backbone.model.config
    token_bytes = engine.core.kv_cache.position_bytes
    return ModelCheck(
        name=backbone.name,
        digest=backbone.digest,
        family=family.label,
        beyond_llama=family.beyond_llama(config),
        layers=len(backbone.layers),
        first_adapter_layer=engine.core.decoder.split if bank else None,
        context_tokens=context,
        window=family.window(config),
        logit_difference=difference,
        weights=choice.kind,
        kernels=choice.kernels,
        perplexity_ratios={str(kind): ratio for kind, ratio in choice.perplexity_ratios.items()},
        weight_bytes=engine.core.decoder.weight_bytes,
        kv_token_bytes=token_bytes,
        kv_request_bytes=token_bytes * context,
        peak_bytes=_peak_bytes(),
        speed=speed,
        warnings=model_warnings(backbone, unsafe),
    )


def measure_speed(engine: LLMEngine) -> Speed:
    """Return the speed of an engine that was not started, by requests of random tokens."""
    _time_requests(engine, 1, seed=0)  # the first pass allocates memory
    prefill, decode = _time_requests(engine, 1, seed=1)
    return Speed(prefill, decode, _time_requests(engine, ROWS, seed=2)[1])


def _time_requests(engine: LLMEngine, rows: int, *, seed: int) -> tuple[float, float]:
    """Return prompt tokens and output tokens a second of some requests at once."""
    vocabulary = engine.backbone.model.config.vocab_size
    output = min(_OUTPUT_TOKENS, engine.context_tokens // 4)
    draw = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(rows):
        ids = tuple(draw.randrange(vocabulary) for _ in range(engine.context_tokens - output))
        request = GenerationRequest(ids, _GREEDY, max_tokens=output, min_tokens=output)
        engine.submit(request, _raise_error)
    began, computed = time.perf_counter(), engine.counters.prompt_tokens
    prompts = rows * (engine.context_tokens - output)
    while engine.counters.prompt_tokens < computed + prompts:
        engine.turn()
    prefilled, steps = time.perf_counter(), engine.counters.steps
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    decoded = rows * (engine.counters.steps - steps)
    return prompts / (prefilled - began), decoded / (time.perf_counter() - prefilled)


def _raise_error(output: OutputDelta | Exception) -> None:
    if isinstance(output, Exception):
        raise output


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _adapter_text(first: int | None, layers: int) -> str:
    if first is None:
        return "none: the model has one layer"
    return f"o_proj and down_proj of layers {first} to {layers - 1}"
