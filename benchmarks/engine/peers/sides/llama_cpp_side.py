"""llama.cpp's server in a child process: arguments ``MODEL THREADS``."""

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from benchmarks.engine.peers.sides.commands import Arrival, by_threads, serve

SERVER = Path(sys.executable).with_name("llama-server")
SLOTS, CONTEXT = 256, 40_960
ANSWER_S = 600


def start(model: str, threads: str) -> int:
    """Start the server with one KV cache for all slots and return its port once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [str(SERVER), "--model", model, "--port", str(port), "--threads", threads]
    command += ["--threads-batch", threads, "--parallel", str(SLOTS), "--ctx-size", str(CONTEXT)]
    command += ["--kv-unified", "--batch-size", "2048", "--no-webui"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        time.sleep(0.2)
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return port
        except ConnectionRefusedError:
            continue
        finally:
            connection.close()
    raise RuntimeError(f"llama-server ended with {child.returncode}")


def ask(port: int, prompt: list[int], tokens: int, *, stream: bool) -> HTTPResponse:
    """Send a greedy completion request and return the response, whose body is not read yet."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
    body = json.dumps(request | {"cache_prompt": False, "stream": stream})
    connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
    return connection.getresponse()


def main() -> None:
    """Start the server and answer commands."""
    port = start(*sys.argv[1:3])

    def complete(prompt: list[int], tokens: int) -> int:
        return int(json.load(ask(port, prompt, tokens, stream=False))["tokens_predicted"])

    def generate(prompts: list[list[int]], tokens: int, _: list[str]) -> int:
        with ThreadPoolExecutor(len(prompts)) as requests:
            return sum(requests.map(complete, prompts, [tokens] * len(prompts)))

    def token_times(prompt: list[int], tokens: int) -> list[float]:
        lines = ask(port, prompt, tokens, stream=True)
        found = [time.perf_counter() for line in lines if line.startswith(b"data: ")]
        return found[:tokens]  # the event after the last token has the statistics

    def trace(arrivals: list[Arrival]) -> list[list[float]]:
        return by_threads(arrivals, token_times)

    # It does not score prompts: the bench reads the weights of its file instead.
    serve(generate, lambda _: None, trace)


if __name__ == "__main__":
    main()
