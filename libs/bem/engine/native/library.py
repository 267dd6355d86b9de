"""The compiled library's functions and structures, and matrices packed for it."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from bem.errors import UnsupportedWeightsError

BITS = {"int8": 8, "int4": 4}
"""How many of each kind of weights."""
GROUP, LANES = 32, 16
_STEP_BYTES = 4 * LANES


class MatrixStruct(Structure):
    """``Matrix`` of ``matrix.h``."""

    _fields_ = [
        ("data", c_void_p),
        ("scales", c_void_p),
        ("bits", c_int32),
        ("outputs", c_int32),
        ("inputs", c_int32),
    ]


class SiteStruct(Structure):
    """``Site`` of ``sites.h``."""

    _fields_ = [("down", c_void_p), ("up", c_void_p), ("scale", c_void_p)]


class ActiveStruct(Structure):
    """``Active`` of ``sites.h``."""

    _fields_ = [
        ("slots", c_void_p),
        ("codes", c_void_p),
        ("slots_of", c_void_p),
        ("codes_of", c_void_p),
        ("adapters", c_int32),
        ("rank", c_int32),
    ]


class LayerStruct(Structure):
    """``Layer`` of ``layers.h``."""

    _fields_ = [
        ("qkv", MatrixStruct),
        ("out", MatrixStruct),
        ("gate_up", MatrixStruct),
        ("down", MatrixStruct),
        ("before", c_void_p),
        ("between", c_void_p),
        ("out_site", SiteStruct),
        ("down_site", SiteStruct),
    ]


class ModelStruct(Structure):
    """``Model`` of ``layers.h``."""

    _fields_ = [
        ("layers", POINTER(LayerStruct)),
        ("hidden", c_int32),
        ("inner", c_int32),
        ("heads", c_int32),
        ("pairs", c_int32),
        ("width", c_int32),
        ("epsilon", c_float),
    ]


class PassStruct(Structure):
    """``Pass`` of ``layers.h``."""

    _fields_ = [
        ("first", c_int32),
        ("last", c_int32),
        ("tokens", c_int32),
        ("threads", c_int32),
        ("state", c_void_p),
        ("slots", c_void_p),
        ("positions", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_stride", c_int64),
        ("slot_stride", c_int64),
        ("pair_stride", c_int64),
        ("half", c_int32),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("active", ActiveStruct),
    ]


class Library:
    """The functions of a compiled library; what they are given is checked by who calls.

    Args:
        path: Its file. It shares torch's pool of threads, so torch is loaded before it.

    Raises:
        OSError: It is no library for this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        matrix, number = POINTER(MatrixStruct), c_int32
        self.packed_bytes = loaded.bem_packed_bytes
        self.packed_bytes.argtypes, self.packed_bytes.restype = [number] * 3, c_int64
        self.pack = loaded.bem_pack
        self.pack.argtypes, self.pack.restype = [c_void_p, matrix], None
        self.product = loaded.bem_product
        self.product.argtypes = [matrix, c_void_p, number, c_void_p, number]
        self.product.restype = None
        self.likelihoods = loaded.bem_likelihoods
        self.likelihoods.argtypes = [matrix, c_void_p, number, c_void_p, c_void_p, number]
        self.likelihoods.restype = None
        self.run = loaded.bem_run
        self.run.argtypes, self.run.restype = [POINTER(ModelStruct), POINTER(PassStruct)], None


class PackedLinear(nn.Module):
    """A frozen matrix without bias in 4 or 8 bits, one copy for any number of rows.

    4 bits hold step and least value of each 32 inputs as float16, so that a Q4_1 file's values
    are found again; 8 bits hold one scale an output. Inputs are multiplied in 8 bits, each 32 of
    a row scaled by their largest value: a row's result never depends on those beside it.

    Args:
        library: The kernels.
        weight: ``[d_out, d_in]``, only read; d_in a multiple of 32 for 4 bits.
        bits: 4 or 8.

    Attributes:
        struct: What the library is given; valid as long as this lives.

    Raises:
        UnsupportedWeightsError: 4 bits cannot hold the shape.
    """

    def __init__(self, library: Library, weight: Tensor, *, bits: int) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        if bits == 4 and self.in_features % GROUP:
            raise UnsupportedWeightsError(
                f"no int4 product for a {tuple(weight.shape)} matrix: inputs are not a multiple "
                f"of {GROUP}"
            )
        self._library, self.bits = library, bits
        size = library.packed_bytes(bits, self.out_features, self.in_features)
        blocks = -(-self.out_features // LANES)
        self._packed = torch.empty(size, dtype=torch.uint8)
        self._scales = torch.zeros(blocks * LANES if bits == 8 else 0)
        self.held_bytes = self._packed.nbytes + self._scales.nbytes
        self.struct = MatrixStruct(
            self._packed.data_ptr(), self._scales.data_ptr(), bits, *weight.shape
        )
        read = weight.detach().float().contiguous()
        library.pack(read.data_ptr(), byref(self.struct))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to float32 ``[..., d_out]``."""
        rows = x.reshape(-1, self.in_features).float().contiguous()
        out = torch.empty(len(rows), self.out_features)
        threads = torch.get_num_threads()
        self._library.product(
            byref(self.struct), rows.data_ptr(), len(rows), out.data_ptr(), threads
        )
        return out.view(*x.shape[:-1], self.out_features)

    def likelihoods(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Return the logarithm of ``softmax(y)[wanted]`` for each row, without writing y down.

        Args:
            x: ``[K, d_in]``.
            wanted: ``[K]``, outputs.

        Returns:
            ``[K]`` float32, in nats.
        """
        rows, outputs = x.float().contiguous(), wanted.int().contiguous()
        there = bool(((outputs >= 0) & (outputs < self.out_features)).all())
        if len(rows) != len(outputs) or not there:
            raise ValueError(f"{len(outputs)} of {self.out_features} outputs for {len(rows)} rows")
        found = torch.empty(len(rows))
        self._library.likelihoods(
            byref(self.struct),
            rows.data_ptr(),
            len(rows),
            outputs.data_ptr(),
            found.data_ptr(),
            torch.get_num_threads(),
        )
        return found

    def unpacked(self) -> Tensor:
        """Return the float32 values that are held, ``[d_out, d_in]``."""
        groups = -(-self.in_features // GROUP)
        blocks = -(-self.out_features // LANES)
        packed = self._packed.view(blocks, groups, -1)
        codes = packed[..., _STEP_BYTES:] if self.bits == 4 else packed
        if self.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], -1)
        # [block, group, quad, output, 4] to [block, output, group, quad, 4]
        whole = codes.view(-1, groups, GROUP // 4, LANES, 4).permute(0, 3, 1, 2, 4).float()
        if self.bits == 8:
            values = (whole - 128) * self._scales.view(-1, LANES, 1, 1, 1)
        else:
            halves = packed[..., :_STEP_BYTES].contiguous().view(torch.float16).float()
            step, least = halves.view(-1, groups, 2, LANES, 1, 1).transpose(1, 3).unbind(2)
            values = whole * step + least
        return values.flatten(2).flatten(0, 1)[: self.out_features, : self.in_features]
