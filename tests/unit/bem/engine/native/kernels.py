"""The compiled kernels of this machine; tests that need them are skipped where there are none."""

import pytest
from bem.engine.native import Library, choose


def library() -> Library:
    """Return the compiled library, or skip with the reason why there is none."""
    choice = choose("auto")
    if choice.library is None:
        pytest.skip(choice.reason)
    return choice.library
