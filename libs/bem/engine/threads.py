"""OpenMP's threads, of which every thread that computes has a pool of its own."""

import ctypes

_SOFT = 1  # omp_pause_soft


def leave_pool() -> None:
    """End the OpenMP threads of the thread that calls; they come back if it computes again.

    With more threads in pools than there are processors, libgomp no longer spins at barriers but
    sleeps, and a decode step has hundreds of them: a pool that the loading thread leaves behind
    makes each step of another thread four times as long.
    """
    try:
        library = ctypes.CDLL("libgomp.so.1")
    except OSError:  # another OpenMP, or none
        return
    if pause := getattr(library, "omp_pause_resource_all", None):
        pause(_SOFT)
