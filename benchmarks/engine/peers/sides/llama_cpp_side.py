"""llama.cpp's server in this process: arguments ``MODEL THREADS``."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import xllamacpp

from benchmarks.engine.peers.sides.commands import serve

SLOTS, CONTEXT = 256, 24_576


def main() -> None:
    """Load the model with one KV cache for all slots, and answer commands."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(sys.argv[2])
    parameters.n_parallel, parameters.n_ctx, parameters.kv_unified = SLOTS, CONTEXT, True
    parameters.n_batch, parameters.cache_prompt = 2048, False
    server = xllamacpp.Server(parameters)

    def complete(prompt: list[int], tokens: int) -> int:
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
        answer = server.handle_completions({**request, "cache_prompt": False})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        return int(answer["usage"]["completion_tokens"])

    def generate(prompts: list[list[int]], tokens: int) -> int:
        with ThreadPoolExecutor(len(prompts)) as requests:
            return sum(requests.map(complete, prompts, [tokens] * len(prompts)))

    # Its server does not score prompts: the bench reads the weights of its file instead.
    serve(generate, lambda _: None)


if __name__ == "__main__":
    main()
