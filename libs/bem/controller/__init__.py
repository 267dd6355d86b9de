"""Controllers that set the rank-wise code of an adapter."""

from bem.controller.controller import Controller, pool

__all__ = ["Controller", "pool"]
