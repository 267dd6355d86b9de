"""Hosts and desks for the tests of planned calls."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bem.engine import GenerationRequest, OutputDelta
from bem.policy.artifact import PolicyArtifact, save_policy
from bem.policy.hysteresis import PlanHysteresis
from bem.prompt_encoding import PromptEncoder
from bem.testing import tiny_backbone
from bem_fleet.services.router.planning import PlanDesk
from bem_fleet.services.router.policy_store import CURRENT, PolicyStore

DIGEST = tiny_backbone().digest
TASKS = ("retrieve", "reason", "formalize", "general")
MESSAGES = [
    {
        "role": "user",
        "content": "The river is 12 miles long.\n\nHow long is it? Then double it. Reply briefly.",
    }
]


@dataclass
class ScriptedHost:
    """Answers steps with given texts, in order, and records their requests.

    Attributes:
        texts: Texts of the steps; the probe of the planner takes none.
        names: Names of the loaded adapters.
        requests: Requests that arrived.
        closed: Number of streams that were closed before their end.
    """

    texts: Sequence[str] = ("12", "24", "It is 24.")
    names: Sequence[str] = TASKS
    requests: list[GenerationRequest] = field(default_factory=list)
    closed: int = 0

    def adapters(self) -> list[Any]:
        """Return the loaded adapters."""
        return [SimpleNamespace(name=name) for name in self.names]

    async def complete(self, request: GenerationRequest) -> OutputDelta:
        """Return the next text whole; a probe gets a state."""
        self.requests.append(request)
        if request.pools_prompt:
            return OutputDelta("x", 1, "length", cached_tokens=4, prompt_state=torch.ones(32))
        return OutputDelta(self._next(), 2, "stop", cached_tokens=3, adapter_version="a" * 64)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[OutputDelta]:
        """Yield the next text in two deltas."""
        self.requests.append(request)
        text = self._next()
        middle = len(text) // 2
        ended = False
        try:
            yield OutputDelta(text[:middle], 1, adapter_version="b" * 64, cached_tokens=5)
            ended = True
            yield OutputDelta(text[middle:], 2, "stop", adapter_version="b" * 64, cached_tokens=5)
        finally:
            self.closed += not ended

    def _next(self) -> str:
        steps = [one for one in self.requests if not one.pools_prompt]
        return self.texts[len(steps) - 1]


def install(folder: Path, artifact: PolicyArtifact) -> None:
    """Write a policy as the current version of a folder."""
    save_policy(folder / str(artifact.card.version), artifact)
    (folder / CURRENT).write_text(f"{artifact.card.version}\n")


def open_store(folder: Path) -> PolicyStore:
    """Return the store of a folder for the tiny model."""
    return PolicyStore(folder, base_digest=DIGEST, state_width=32)


def open_desk(host: Any, folder: Path, prefix: str = "") -> PlanDesk:
    """Return a desk for the tiny model."""
    encoder = PromptEncoder(tiny_backbone().tokenizer)
    return PlanDesk(host, encoder, open_store(folder), PlanHysteresis(), prefix)
