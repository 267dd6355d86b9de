"""Tests of what the kernels may use of the processor."""

import platform
import subprocess
import sys

import pytest
import torch
from bem.engine.native import processor


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has tiles; the answer is not kept."""
    found = {"avx2": True, "amx_tile": True, "amx_int8": True, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(processor, "capabilities", processor.capabilities.__wrapped__)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("permitted", [True, False])
def test_tiles_count_only_with_the_permission(
    monkeypatch: pytest.MonkeyPatch, *, permitted: bool
) -> None:
    """Without it their instructions would kill the process; other instruction sets stay."""
    monkeypatch.setattr(processor, "permit_tiles", lambda: permitted)

    found = processor.capabilities()

    assert found["avx2"]
    assert [found[name] for name in ("amx_tile", "amx_int8", "amx_bf16")] == [permitted] * 3


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_another_system_permits_no_tiles(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    """The system call is Linux' on x86-64: elsewhere the number would be another one's."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert not processor.permit_tiles()


def test_a_refusal_of_linux_is_taken_for_an_answer() -> None:
    """A seccomp filter that refuses the call, as a container's may be, leaves the vectors.

    The filter stays for the life of a process, so that another one sets it: BPF that lets all
    calls pass but this one, which returns EPERM.
    """
    program = """
import ctypes, struct
from bem.engine.native.processor import capabilities, permit_tiles
load, jump, give = 0x20, 0x15, 0x06
code = [(load, 0, 0, 0), (jump, 0, 1, 158), (give, 0, 0, 0x50001), (give, 0, 0, 0x7FFF0000)]
raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
filter = Program(len(code), ctypes.addressof(raw))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
assert not permit_tiles()
assert not capabilities().get("amx_tile")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
