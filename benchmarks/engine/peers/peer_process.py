"""A peer in a child process, which stands still while it is not asked."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.engine.peers.catalogue import ROOT, Peer
from benchmarks.engine.peers.sides.commands import Arrival


class PeerProcess:
    """A running peer.

    Args:
        peer: Installed peer.
        threads: Threads that it computes with.

    Attributes:
        peer: The peer.
    """

    def __init__(self, peer: Peer, threads: int) -> None:
        self.peer = peer
        results, written = os.pipe()
        self._results = os.fdopen(results)
        self._log = peer.model.with_suffix(".log")
        with self._log.open("w") as log:
            self._child = self._start(threads, written, log)
        os.close(written)  # the pipe ends with the child

    def _start(self, threads: int, written: int, log: IO[str]) -> "subprocess.Popen[str]":
        """Start the program, which writes its results to a pipe."""
        peer = self.peer
        variables = {
            name: value.format(last=threads - 1)
            for name, value in peer.environment.variables.items()
        }
        return subprocess.Popen(
            [
                *(peer.environment.python, "-m", peer.side),
                *(str(peer.model), str(threads), str(peer.adapters), str(written)),
            ],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | variables,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            pass_fds=[written],
        )

    def rate(self, rows: int, prompt: int, new: int, adapters: Sequence[Path] = ()) -> float:
        """Return tokens per second of requests at once: new ones, or of the prompt if it is one.

        Args:
            rows: Requests at once.
            prompt: Prompt tokens of each.
            new: New tokens of each.
            adapters: PEFT folder of each request's LoRA; without any, the base model answers.
        """
        found = self._ask(
            {"rows": rows, "prompt": prompt, "new": new, "adapters": list(map(str, adapters))}
        )
        generated = rows * new
        if found["generated"] != generated:
            raise RuntimeError(f"{self.peer.model}: {found['generated']} of {generated} tokens")
        counted: float = generated if new > 1 else rows * prompt
        return counted / float(found["seconds"])

    def trace(self, arrivals: Sequence[Arrival]) -> list[list[float]]:
        """Run requests as they arrive and return when each new token was there, in seconds."""
        times: list[list[float]] = self._ask({"arrivals": arrivals})["times"]
        for (_, _, new), found in zip(arrivals, times, strict=True):
            if len(found) != new:
                raise RuntimeError(f"{self.peer.model}: {len(found)} of {new} tokens")
        return times

    def nats(self, windows: Sequence[Sequence[int]]) -> float | None:
        """Return the mean negative log-likelihood per token; None if the peer cannot tell."""
        found: float | None = self._ask({"windows": windows})["nats"]
        return found

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin
        self._signal(signal.SIGCONT)
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        line = self._results.readline()
        self._signal(signal.SIGSTOP)  # its idle threads may spin
        if not line:
            raise RuntimeError(f"{self.peer.environment.name} ended: {self._log} has its output")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._child.pid, number)

    def close(self) -> None:
        """End the process and its children."""
        if self._child.poll() is None:
            self._signal(signal.SIGKILL)
        self._child.wait()
        self._results.close()


@contextmanager
def running(peer: Peer, threads: int) -> Iterator[PeerProcess]:
    """Run a peer until the end of the block; it has loaded its model and stands still."""
    process = PeerProcess(peer, threads)
    try:
        process.rate(1, 2, 2)
        yield process
    finally:
        process.close()
