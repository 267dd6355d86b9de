"""vLLM on a CPU: arguments ``MODEL THREADS``; its threads are set by the environment."""

import sys
from collections.abc import Sequence

from vllm import LLM, SamplingParams

from benchmarks.engine.peers.sides.commands import serve


def main() -> None:
    """Load the model and answer commands."""
    llm = LLM(
        model=sys.argv[1],
        dtype="bfloat16",
        max_model_len=2304,
        max_num_seqs=256,
        enable_prefix_caching=False,
    )

    def generate(prompts: list[list[int]], tokens: int) -> int:
        sampling = SamplingParams(
            temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True
        )
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        done = llm.generate(inputs, sampling, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in done)

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

    serve(generate, score)


if __name__ == "__main__":
    main()
