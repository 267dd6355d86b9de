"""Continuous batching over one model owned by one thread."""

from bem.engine.offline import Generated, generate, score, stream
from bem.engine.requests import (
    GenerationRequest,
    Likely,
    Piece,
    Sampling,
    Segment,
    Ticket,
    TokenLogprob,
)
from bem.engine.scoring import ScoreRequest
from bem.engine.worker import ModelWorker

__all__ = [
    "Generated",
    "GenerationRequest",
    "Likely",
    "ModelWorker",
    "Piece",
    "Sampling",
    "ScoreRequest",
    "Segment",
    "Ticket",
    "TokenLogprob",
    "generate",
    "score",
    "stream",
]
