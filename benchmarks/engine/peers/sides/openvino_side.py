"""OpenVINO GenAI's continuous batching: arguments ``MODEL THREADS``."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import openvino
import openvino_genai as genai

from benchmarks.engine.peers.sides.commands import Arrival, Generate, Score, Trace, by_steps, serve


def scorer(folder: str, threads: int) -> Score:
    """Return a function that scores windows by the model without the pipeline."""
    compiled: list[openvino.CompiledModel] = []

    def score(windows: Sequence[Sequence[int]]) -> float:
        if not compiled:
            settings = {"INFERENCE_NUM_THREADS": threads}
            model = openvino.Core().read_model(f"{folder}/openvino_model.xml")
            compiled.append(openvino.Core().compile_model(model, "CPU", settings))
        total, count = 0.0, 0
        for window in windows:
            request = compiled[0].create_infer_request()
            ids = np.array([window], dtype=np.int64)
            inputs = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.arange(ids.size)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            logits = request.infer(inputs)["logits"][0, :-1].astype(np.float64)
            largest = logits.max(-1)
            sums = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
            total += float((sums - logits[np.arange(len(logits)), ids[0, 1:]]).sum())
            count += len(logits)
        return total / count

    return score


def greedy(tokens: int) -> genai.GenerationConfig:
    """Return the settings of a request for exactly as many new tokens."""
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = tokens
    config.ignore_eos, config.do_sample = True, False
    return config


def prompt_tensor(prompt: list[int]) -> openvino.Tensor:
    """Return a prompt as the pipeline takes it, ``[1, T]``."""
    return openvino.Tensor(np.array([prompt], dtype=np.int64))


def generator(pipe: genai.ContinuousBatchingPipeline) -> Generate:
    """Return a function that runs prompts at once."""

    def generate(prompts: list[list[int]], tokens: int, _: list[str]) -> int:
        done = pipe.generate(list(map(prompt_tensor, prompts)), [greedy(tokens)] * len(prompts))
        return sum(len(one.m_generation_ids[0]) for one in done)

    return generate


def tracer(pipe: genai.ContinuousBatchingPipeline) -> Trace:
    """Return a function that runs requests as they arrive."""

    def trace(arrivals: list[Arrival]) -> list[list[float]]:
        handles: dict[int, genai.GenerationHandle] = {}

        def add(row: int, prompt: list[int], tokens: int) -> None:
            handles[row] = pipe.add_request(row, prompt_tensor(prompt), greedy(tokens))

        def step() -> Iterator[tuple[int, int, bool]]:
            pipe.step()
            for row, handle in list(handles.items()):
                while handle.can_read():
                    (output,) = handle.read().values()
                    yield row, len(output.generated_ids), False
                if handle.get_status() == genai.GenerationStatus.FINISHED:
                    del handles[row]
                    yield row, 0, True

        return by_steps(arrivals, add, step)

    return trace


def main() -> None:
    """Load the model and answer commands."""
    folder, threads = sys.argv[1], int(sys.argv[2])
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens = 2, 512
    scheduler.max_num_seqs, scheduler.enable_prefix_caching = 256, False
    pipe = genai.ContinuousBatchingPipeline(
        folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
    )

    serve(generator(pipe), scorer(folder, threads), tracer(pipe))


if __name__ == "__main__":
    main()
