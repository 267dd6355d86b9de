"""What the compiled kernels may use of this machine's processor."""

import ctypes
import platform
import sys
from functools import cache

import torch

# Number of the system call arch_prctl, its request for a permission, and the state of tiles.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_TILES = "amx_"


@cache
def capabilities() -> dict[str, object]:
    """Return the instruction sets by their name, as ``torch.cpu.get_capabilities`` does.

    Tiles (AMX) count as missing unless Linux permits this process to use them: a thread that uses
    them without the permission is killed.
    """
    found: dict[str, object] = dict(torch.cpu.get_capabilities())
    if found.get("amx_tile") and not permit_tiles():
        found |= {name: False for name in found if name.startswith(_TILES)}
    return found


def permit_tiles() -> bool:
    """Ask Linux for the permission to use tiles, for all threads of this process."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    call = ctypes.CDLL(None).syscall
    numbers = (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return bool(call(*map(ctypes.c_long, numbers)) == 0)
