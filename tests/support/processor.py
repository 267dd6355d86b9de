"""What this machine's processor can run."""

import torch
from bem.engine.native.build import check_processor
from bem.errors import KernelsUnavailableError


def runs_native_kernels() -> bool:
    """Return whether the processor has the instructions of the compiled kernels."""
    try:
        check_processor(torch.cpu.get_capabilities())
    except KernelsUnavailableError:
        return False
    return True
