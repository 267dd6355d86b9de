"""Controllers that set the rank-wise code of a skill."""

from bem.controller.controller import Controller, pool

__all__ = ["Controller", "pool"]
