"""Controllers that set the code (rank-wise gate vector) of an adapter."""

from bem.controller.controller import Controller, mean_pool

__all__ = ["Controller", "mean_pool"]
