"""OpenVINO GenAI's continuous batching: arguments ``MODEL THREADS``."""

import sys
from collections.abc import Sequence

import numpy as np
import openvino
import openvino_genai as genai

from benchmarks.engine.peers.sides.commands import Score, serve


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


def main() -> None:
    """Load the model and answer commands."""
    folder, threads = sys.argv[1], int(sys.argv[2])
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens = 2, 512
    scheduler.max_num_seqs, scheduler.enable_prefix_caching = 256, False
    pipe = genai.ContinuousBatchingPipeline(
        folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
    )

    def generate(prompts: list[list[int]], tokens: int) -> int:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample = True, False
        ids = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        done = pipe.generate(ids, [config] * len(ids))
        return sum(len(one.m_generation_ids[0]) for one in done)

    serve(generate, scorer(folder, threads))


if __name__ == "__main__":
    main()
