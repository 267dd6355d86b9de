"""OpenMP thread pools: every thread that computes has a pool of its own."""

import ctypes

_SOFT = 1  # omp_pause_soft


def release_openmp_threads() -> None:
    """End the calling thread's OpenMP pool; it starts again when the thread computes again.

    With more pool threads than processors, libgomp sleeps at barriers instead of spinning. A decode
    step has hundreds of barriers, so the pool of the thread that loaded the model would make each
    decode step of the engine's thread about four times as long.
    """
    try:
        library = ctypes.CDLL("libgomp.so.1")
    except OSError:  # another OpenMP runtime, or none
        return
    if pause := getattr(library, "omp_pause_resource_all", None):
        pause(_SOFT)
