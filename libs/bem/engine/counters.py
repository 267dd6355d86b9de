"""Counters of the engine."""

from dataclasses import dataclass, field

from bem.engine.latencies import Latencies


@dataclass
class EngineCounters:
    """Counters that the engine's thread writes and any thread may read.

    Attributes:
        running: Requests in the batch now.
        waiting: Requests in the queue now.
        steps: Decode steps.
        passes: Forward passes of any kind, prefill chunks included.
        prompt_tokens: Prompt tokens computed.
        reused_tokens: Prompt tokens whose keys and values came from the prefix cache.
        reused_lower_tokens: Prompt tokens whose lower half, which all adapters share, came from
            the prefix cache.
        generated_tokens: Tokens generated.
        dropped: Requests that were cancelled or missed their deadline.
        evicted_tokens: Positions that the cache policy has evicted.
        kv_bytes: Bytes of the keys and values that running requests store now.
        page_ins: Adapters copied into a slot of the adapter bank.
        composed: Requests admitted with two or more adapters at once.
        scaled_codes: Codes of compositions that the trust region scaled at some site.
        latencies: Latencies of requests and tokens.
    """

    running: int = 0
    waiting: int = 0
    steps: int = 0
    passes: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    reused_lower_tokens: int = 0
    generated_tokens: int = 0
    dropped: int = 0
    evicted_tokens: int = 0
    kv_bytes: int = 0
    page_ins: int = 0
    composed: int = 0
    scaled_codes: int = 0
    latencies: Latencies = field(default_factory=Latencies)
