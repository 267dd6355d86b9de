"""Answers: the base model, or the code of the condition that a prompt meets.

A request begins as one of the base model, and its first delta carries the prompt's state. If the
state meets no condition, the request goes on: the answer is that of the base model, bit for bit. If
it meets one, the request is dropped after its first token and begins again with the condition's
adapter; the lower half of the prompt comes from the prefix cache.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from bem.engine import GenerationRequest, OutputDelta, Sampling
from bem.errors import AdapterNotFoundError
from bem.online.codebook import Codebook, Condition
from bem_fleet.services.online.answer_ids import answer_id
from bem_fleet.services.online.metrics import ANSWERS
from bem_fleet.services.online.served_codes import Served
from bem_fleet.serving import EngineHost
from bem_fleet.serving.engine_host import GeneratedText
from fleet.errors import UnavailableError
from torch import Tensor

_LEARNER = "online-learner"
"""Client whose share of the engine the learner's own passes take."""


@dataclass(frozen=True)
class Answer:
    """An answer and where it came from.

    Attributes:
        text: Whole answer.
        completion_tokens: Tokens generated.
        model_version: Digest of the base model, and of the adapter that answered.
        answer_id: Id of the answer.
        version: Version that was live; 0 is the base model.
        condition: Condition that the prompt met; empty where the base model answered.
    """

    text: str
    completion_tokens: int
    model_version: str
    answer_id: str
    version: int = 0
    condition: str = ""


Observer = Callable[[Condition, float], None]
"""Receives the condition of an answer and its mean log-probability a token, in nats."""


class Answering:
    """Answers user messages with the version that is served.

    Args:
        engine: Engine host.
        served: What is served at first.

    Attributes:
        engine: Engine host.
        served: What is served; another object after each change.
        observe: Receives every answer that a condition gave.
    """

    def __init__(self, engine: EngineHost, served: Served | None = None) -> None:
        self.engine, self.served = engine, served
        self.observe: Observer = lambda condition, likelihood: None  # noqa: ARG005

    async def answer(
        self, prompt: str, *, model: str = "", max_tokens: int = 64, deadline: float | None = None
    ) -> Answer:
        """Answer one user message greedily.

        Args:
            prompt: Text of the user message.
            model: Adapter; empty, or the base model's name, is the base model with what was
                learned.
            max_tokens: Most tokens to generate.
            deadline: Value of ``time.monotonic()`` after which the request is dropped, or None.

        Raises:
            InvalidRequestError: The prompt is empty or does not fit the context.
            AdapterNotFoundError: The model is not loaded.
        """
        host, served = self.engine, self.served
        request = host.request(prompt, model=model, max_tokens=max_tokens, deadline=deadline)
        if request.adapter is not None or served is None or not served.codebook.conditions:
            done = await host.run(request)
            version = served.version if served and request.adapter is None else 0
            return _answer(done, version, None)
        done, met = await self._learned(request, served)
        ANSWERS.labels("learned" if met else "base").inc()
        return _answer(done, served.version, met)

    async def state(self, prompt_ids: tuple[int, ...]) -> Tensor:
        """Return the pooled state ``[D]`` of a prompt, as requests are matched by it."""
        request = GenerationRequest(
            prompt_ids, Sampling(temperature=0.0), 1, client=_LEARNER, pools_prompt=True
        )
        async with aclosing(self.engine.stream(request)) as deltas:
            async for delta in deltas:
                if delta.prompt_state is not None:
                    return delta.prompt_state.float().cpu()
        raise UnavailableError("the engine ended before it had read the prompt")

    def matched(self, codebook: Codebook, delta: OutputDelta) -> Condition | None:
        """Return the condition that the prompt of a first delta meets, or None."""
        if delta.prompt_state is None:
            return None
        return codebook.match(delta.prompt_state.float().cpu())

    async def _learned(
        self, request: GenerationRequest, served: Served
    ) -> tuple[GeneratedText, Condition | None]:
        deltas: list[OutputDelta] = []
        async with aclosing(self.engine.stream(replace(request, pools_prompt=True))) as stream:
            async for delta in stream:
                met = None if deltas else self.matched(served.codebook, delta)
                if met is not None:
                    break
                deltas.append(delta)
            else:
                return self.engine.joined(deltas), None
        adapter = served.adapters[met.name]
        coded = replace(request, adapter=adapter, sampling=replace(request.sampling, logprobs=0))
        try:
            found = [delta async for delta in self.engine.stream(coded)]
        except AdapterNotFoundError:  # an operator has unloaded it
            return await self.engine.run(request), None
        likelihoods = [one.logprob for delta in found for one in delta.logprobs]
        if likelihoods:
            self.observe(met, sum(likelihoods) / len(likelihoods))
        return self.engine.joined(found), met


class AnsweringHolder:
    """Answering of a service that is reachable before its model is loaded."""

    def __init__(self) -> None:
        self.answering: Answering | None = None

    def get(self) -> Answering:
        """Return the answering.

        Raises:
            UnavailableError: The model is still loading.
        """
        if self.answering is None:
            raise UnavailableError("the model is still loading; retry later", retry_after_s=2.0)
        return self.answering


def _answer(done: GeneratedText, version: int, met: Condition | None) -> Answer:
    condition = met.name if met else ""
    return Answer(
        done.text,
        done.completion_tokens,
        done.model_version,
        answer_id(version, condition),
        version,
        condition,
    )
