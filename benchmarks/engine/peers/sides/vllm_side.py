"""vLLM on a CPU: arguments ``MODEL THREADS ADAPTERS``; the environment sets its threads."""

import sys
from collections.abc import Iterator, Sequence

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from benchmarks.engine.peers.sides.commands import (
    Arrival,
    Generate,
    Score,
    Trace,
    by_steps,
    serve,
)


def greedy(tokens: int) -> SamplingParams:
    """Return the settings of a request for exactly as many new tokens."""
    return SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True)


def generator(llm: LLM) -> Generate:
    """Return a function that runs prompts at once."""
    numbers: dict[str, int] = {}

    def lora(folder: str) -> LoRARequest:
        return LoRARequest(folder, numbers.setdefault(folder, len(numbers) + 1), folder)

    def generate(prompts: list[list[int]], tokens: int, adapters: list[str]) -> int:
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        loras = list(map(lora, adapters)) or None
        done = llm.generate(inputs, greedy(tokens), use_tqdm=False, lora_request=loras)
        return sum(len(one.outputs[0].token_ids) for one in done)

    return generate


def scorer(llm: LLM) -> Score:
    """Return a function that scores windows."""

    def score(windows: Sequence[Sequence[int]]) -> float:
        sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        inputs = [{"prompt_token_ids": list(window)} for window in windows]
        nats: list[float] = [
            -found[token].logprob
            for one, window in zip(
                llm.generate(inputs, sampling, use_tqdm=False), windows, strict=True
            )
            for token, found in zip(window, one.prompt_logprobs, strict=True)
            if found  # there is none for the first token
        ]
        return sum(nats) / len(nats)

    return score


def tracer(llm: LLM) -> Trace:
    """Return a function that runs requests as they arrive."""

    def trace(arrivals: list[Arrival]) -> list[list[float]]:
        counts = [0] * len(arrivals)

        def add(row: int, prompt: list[int], tokens: int) -> None:
            inputs = {"prompt_token_ids": prompt}
            llm.llm_engine.add_request(str(row), inputs, greedy(tokens))

        def step() -> Iterator[tuple[int, int, bool]]:
            for one in llm.llm_engine.step():
                row, total = int(one.request_id.split("-")[0]), len(one.outputs[0].token_ids)
                yield row, total - counts[row], one.finished
                counts[row] = total

        return by_steps(arrivals, add, step)

    return trace


def main() -> None:
    """Load the model and answer commands."""
    slots = int(sys.argv[3])
    lora = {"enable_lora": True, "max_loras": slots, "max_lora_rank": 8} if slots else {}
    llm = LLM(
        model=sys.argv[1],
        dtype="bfloat16",
        max_model_len=2304,
        max_num_seqs=256,
        enable_prefix_caching=False,
        **lora,
    )
    serve(generator(llm), scorer(llm), tracer(llm))


if __name__ == "__main__":
    main()
