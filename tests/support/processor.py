"""What this machine's processor can run."""

from bem.engine.native.build import Variant, select_variant
from bem.engine.native.processor import capabilities
from bem.errors import KernelsUnavailableError


def runs_native_kernels() -> bool:
    """Return whether the processor has the instructions of the compiled kernels."""
    try:
        select_variant(capabilities())
    except KernelsUnavailableError:
        return False
    return True


def runs_variant(variant: Variant) -> bool:
    """Return whether the processor has the instructions of a variant of the kernels."""
    return not variant.missing(capabilities())
