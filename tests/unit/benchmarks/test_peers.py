"""Tests of the peers' catalogue, of their command loop, and of requantised files."""

import json
import math
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest

from benchmarks.engine.measurement import Sides
from benchmarks.engine.measures import mixed_traffic, peer_adapters
from benchmarks.engine.measures import peers as measure
from benchmarks.engine.peers.catalogue import PEERS, ROOT, chosen
from benchmarks.engine.peers.gguf_files import requantise
from benchmarks.engine.peers.sides.commands import by_steps, by_threads, prompt_of


def test_names_choose_peers() -> None:
    """All, some in their order, or none; an unknown name is refused with those there are."""
    assert list(chosen("all")) == list(PEERS)
    assert list(chosen("vllm-bfloat16  llama.cpp-q4_0")) == ["vllm-bfloat16", "llama.cpp-q4_0"]
    assert chosen("") == {}
    with pytest.raises(ValueError, match=r"PEERS: llama unknown; all, or some of llama.cpp-q4_0"):
        chosen("llama")


def test_every_peer_has_a_program() -> None:
    """The module of each side exists."""
    for peer in PEERS.values():
        assert (ROOT / peer.side.replace(".", "/")).with_suffix(".py").exists()


def test_commands_are_answered_beside_what_a_library_prints() -> None:
    """A result is a line of its own; text that the engine prints does not reach the bench."""
    program = textwrap.dedent("""
        from benchmarks.engine.peers.sides.commands import serve

        def generate(prompts, new, adapters):
            print("banner of a library")
            return sum(len(prompt) == 3 for prompt in prompts) * new + len(adapters)

        def trace(arrivals):
            return [[at + new] * new for at, _, new in arrivals]

        serve(generate, lambda windows: sum(map(sum, windows)) / 2, trace)
        """)
    asked = {"rows": 4, "prompt": 3, "new": 5, "adapters": ["one"]}
    commands = [asked, {"windows": [[1, 2], [3]]}, {"arrivals": [[0.5, 3, 2]]}]
    read, written = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", program, str(written)],
        input="".join(json.dumps(one) + "\n" for one in commands),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        pass_fds=[written],
    )
    os.close(written)
    with os.fdopen(read) as results:
        generated, scored, traced = map(json.loads, results)

    assert generated["generated"] == 21
    assert generated["seconds"] > 0
    assert scored == {"nats": 3.0}
    assert traced == {"times": [[2.5, 2.5]]}
    assert "banner" in done.stdout


def test_a_requantised_file_has_the_same_matrices(tmp_path: Path) -> None:
    """Values are near, other fields and wide tensors are as they were, and the format is named."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(8, 64)).astype(np.float32) for name in ("blk", "token_embd")}
    writer = gguf.GGUFWriter(tmp_path / "source.gguf", "llama")
    writer.add_context_length(77)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, kind in (("blk", "Q4_1"), ("token_embd", "Q8_0")):
        wanted = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values[name], wanted), raw_dtype=wanted)
    writer.add_tensor("norm", np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    requantise(tmp_path / "source.gguf", tmp_path / "q8.gguf", "Q8_0")

    reader = gguf.GGUFReader(tmp_path / "q8.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert {name: one.tensor_type.name for name, one in found.items()} == {
        "blk": "Q8_0",
        "token_embd": "Q8_0",
        "norm": "F32",
    }
    blk = gguf.quants.dequantize(found["blk"].data, found["blk"].tensor_type)
    assert np.abs(blk - values["blk"]).max() < 0.25  # steps of the 4 bits that it came from
    assert reader.fields["llama.context_length"].contents() == 77
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert reader.fields["general.file_type"].contents() == int(gguf.LlamaFileType.MOSTLY_Q8_0)


def test_a_ratio_is_to_the_best_peer() -> None:
    """Of the peers' medians the largest counts, whichever peer has it."""
    rates = {"ours": [30.0, 10.0, 20.0], "one": [5.0, 40.0, 10.0], "two": [8.0, 9.0, 16.0]}

    assert measure._to_best(rates) == 2.0


def test_requests_arrive_at_their_times_on_a_stepped_engine() -> None:
    """A request is added when its time has come, and steps run only while there are requests."""
    open_requests: dict[int, int] = {}
    steps = []

    def add(row: int, prompt: list[int], tokens: int) -> None:
        assert prompt == prompt_of(row, 3)
        open_requests[row] = tokens

    def step() -> Iterator[tuple[int, int, bool]]:
        assert open_requests
        steps.append(sorted(open_requests))
        for row in list(open_requests):
            open_requests[row] -= 1
            yield row, 1, not open_requests[row]
            if not open_requests[row]:
                del open_requests[row]

    first, second = by_steps([(0.0, 3, 2), (0.05, 3, 1)], add, step)

    assert steps == [[0], [0], [1]]
    assert len(first) == 2
    assert first[-1] < 0.05 <= second[0]


def test_requests_arrive_at_their_times_in_threads() -> None:
    """Each request runs in a thread from its time on, and times count from the start."""

    def token_times(prompt: list[int], tokens: int) -> list[float]:
        assert len(prompt) == 3
        return [time.perf_counter()] * tokens

    first, second = by_threads([(0.0, 3, 2), (0.05, 3, 1)], token_times)

    assert first[0] == first[1] < 0.05 <= second[0]


def test_lengths_and_arrivals_come_from_seeds() -> None:
    """Requests are the same at each rate, faster at a higher one, and fit the context."""
    slow, fast = mixed_traffic.arrivals(1.0), mixed_traffic.arrivals(2.0)

    assert [one[1:] for one in slow] == [one[1:] for one in fast]
    assert [at / 2 for at, _, _ in slow] == pytest.approx([at for at, _, _ in fast])
    assert all(prompt + new <= mixed_traffic.CONTEXT for _, prompt, new in slow)
    assert {at for at, _, _ in mixed_traffic.arrivals(math.inf)} == {0.0}


def test_tails_are_those_of_first_tokens_and_of_gaps() -> None:
    """A first token counts from the request's arrival; gaps of all requests count alike."""
    times = [[0.5, 0.6, 0.9], [1.25, 1.5]]

    found = mixed_traffic.tail_latencies([(0.0, 8, 3), (1.0, 8, 2)], times)

    assert found == pytest.approx([0.5, 0.3])


@pytest.mark.parametrize("one", [measure, mixed_traffic, peer_adapters])
def test_nothing_is_measured_without_peers(
    one: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says so, and gives no ratio."""
    monkeypatch.delenv("PEERS", raising=False)

    result = one.run(1)

    assert set(result.ratios.values()) == {None}
    assert result.notes[0].startswith("not measured: PEERS")


def test_a_peer_far_behind_is_left_out_of_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes part until the cell where it falls behind, and again with single requests."""
    asked: dict[str, list[str]] = {}

    def sides(_: object, processes: dict[str, Any], cell: str) -> Sides:
        asked[cell] = sorted(processes)
        slow = 4.0 if measure.CELLS[cell][0] >= 16 else 9.0
        return {"ours": lambda: 1.0, "slow": lambda: slow, "fast": lambda: 10.0}

    monkeypatch.setattr(measure, "_sides", sides)

    nothing: Any = None
    measure._rates(nothing, {"slow": nothing, "fast": nothing}, 1)

    without = {cell for cell, names in asked.items() if "slow" not in names}
    assert without == {f"{rows} requests" for rows in (64, 128, 256)}
