"""Tests of the peers' catalogue, of their command loop, and of requantised files."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.engine.measures import peers as measure
from benchmarks.engine.peers.catalogue import PEERS, ROOT, chosen
from benchmarks.engine.peers.gguf_files import requantise


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

        def generate(prompts, new):
            print("banner of a library")
            return sum(len(prompt) == 3 for prompt in prompts) * new

        serve(generate, lambda windows: sum(map(sum, windows)) / 2)
        """)
    commands = [{"rows": 4, "prompt": 3, "new": 5}, {"windows": [[1, 2], [3]]}]
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
        generated, scored = map(json.loads, results)

    assert generated["generated"] == 20
    assert generated["seconds"] > 0
    assert scored == {"nats": 3.0}
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


def test_nothing_is_measured_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says so, and gives no ratio."""
    monkeypatch.delenv("PEERS", raising=False)

    result = measure.run(1)

    assert set(result.ratios.values()) == {None}
    assert "PEERS is empty" in result.notes[0]
