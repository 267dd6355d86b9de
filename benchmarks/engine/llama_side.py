"""llama.cpp benchmark worker: one JSON command per input line, one result per output line.

Commands: ``{"prefill": n}``, ``{"decode": n}`` (one sequence) and ``{"batch": rows, "prompt": p,
"decode": n}``; the result is tokens per second. Decoding is greedy.
The arguments are the model file and the number of threads. It runs in an interpreter with
llama-cpp-python.
"""

import ctypes
import json
import sys
import time

import llama_cpp as ll
import numpy as np

CONTEXT, MAX_SEQUENCES = 16384, 64


class Llama:
    """A model and one context on llama.cpp's low-level interface."""

    def __init__(self, path: str, threads: int) -> None:
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        parameters = ll.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = CONTEXT, 2048, 512
        parameters.n_seq_max, parameters.kv_unified = MAX_SEQUENCES, True
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = ll.llama_init_from_model(self.model, parameters)
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        self.batch = ll.llama_batch_init(2048, 0, 1)

    def clear(self) -> None:
        """Remove all sequences."""
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def run(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Compute ``(token, position, sequence, wants logits)``."""
        self.batch.n_tokens = len(tokens)
        for at, (token, position, sequence, wanted) in enumerate(tokens):
            self.batch.token[at], self.batch.pos[at] = token, position
            self.batch.n_seq_id[at], self.batch.seq_id[at][0] = 1, sequence
            self.batch.logits[at] = wanted
        if ll.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode failed on {len(tokens)} tokens")

    def best(self, at: int) -> int:
        """Return the most probable token of entry ``at`` of the last batch."""
        logits = ll.llama_get_logits_ith(self.context, at)
        pointer = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(pointer, (self.vocabulary,)).argmax())


def prompt(length: int, sequence: int = 0) -> list[tuple[int, int, int, bool]]:
    """Return a prompt of ``length`` tokens."""
    return [(500 + i % 4000, i, sequence, i == length - 1) for i in range(length)]


def measure(llama: Llama, command: dict[str, int]) -> float:
    """Run one command and return its tokens per second."""
    llama.clear()
    if "prefill" in command:
        began = time.perf_counter()
        llama.run(prompt(command["prefill"]))
        llama.best(command["prefill"] - 1)
        return command["prefill"] / (time.perf_counter() - began)
    rows, length, steps = command.get("batch", 1), command.get("prompt", 64), command["decode"]
    began = time.perf_counter()
    for row in range(rows):
        llama.run(prompt(length, row))
    if "batch" not in command:
        # One sequence: decoding alone, as llama.cpp reports it.
        began = time.perf_counter()
    current = [504] * rows
    for step in range(steps):
        llama.run([(current[row], length + step, row, True) for row in range(rows)])
        current = [llama.best(row) for row in range(rows)]
    return rows * steps / (time.perf_counter() - began)


def main() -> None:
    """Run commands until the input ends."""
    llama = Llama(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        print(json.dumps(measure(llama, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
