"""LLM inference engine: continuous batching, prefix cache, adapters, quantised weights."""

from bem.engine.api import (
    GenerationRequest,
    OutputDelta,
    RequestHandle,
    Sampling,
    Segment,
    TokenLogprob,
    TopLogprob,
)
from bem.engine.engine import LLMEngine
from bem.engine.grammar import OutputForm
from bem.engine.offline import Completion, generate, score, stream
from bem.engine.scoring import ScoreRequest

__all__ = [
    "Completion",
    "GenerationRequest",
    "LLMEngine",
    "OutputDelta",
    "OutputForm",
    "RequestHandle",
    "Sampling",
    "ScoreRequest",
    "Segment",
    "TokenLogprob",
    "TopLogprob",
    "generate",
    "score",
    "stream",
]
