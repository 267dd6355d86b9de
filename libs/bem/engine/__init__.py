"""LLM inference engine: continuous batching, prefix cache, adapters, quantised weights."""

from bem.engine.api import (
    GenerationRequest,
    OutputDelta,
    RequestHandle,
    Sampling,
    ScaledAdapter,
    Segment,
    TokenLogprob,
    TopLogprob,
)
from bem.engine.cache_compression import CacheSetting
from bem.engine.engine import LLMEngine
from bem.engine.grammar import OutputForm
from bem.engine.offline import Completion, generate, score, stream
from bem.engine.scoring import ScoreRequest

__all__ = [
    "CacheSetting",
    "Completion",
    "GenerationRequest",
    "LLMEngine",
    "OutputDelta",
    "OutputForm",
    "RequestHandle",
    "Sampling",
    "ScaledAdapter",
    "ScoreRequest",
    "Segment",
    "TokenLogprob",
    "TopLogprob",
    "generate",
    "score",
    "stream",
]
