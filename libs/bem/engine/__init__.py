"""Continuous batching over one model owned by one thread."""

from bem.engine.requests import GenerationRequest, Piece, Sampling, Ticket
from bem.engine.worker import ModelWorker

__all__ = ["GenerationRequest", "ModelWorker", "Piece", "Sampling", "Ticket"]
