"""ctypes bindings of the compiled kernels, and linear layers packed for them."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from bem.errors import UnsupportedWeightsError

BITS = {"int8": 8, "int4": 4}
"""Bits per weight of each quantised format."""
GROUP, LANES = 32, 16
_GROUP_HEADER_BYTES = 4 * LANES


class MatrixStruct(Structure):
    """``Matrix`` of ``packed_matrix.h``."""

    _fields_ = [
        ("data", c_void_p),
        ("scales", c_void_p),
        ("bits", c_int32),
        ("outputs", c_int32),
        ("inputs", c_int32),
    ]


class SiteStruct(Structure):
    """``Site`` of ``adapter_sites.h``."""

    _fields_ = [
        ("down", c_void_p),
        ("up", c_void_p),
        ("scale", c_void_p),
        ("used_ranks", c_void_p),
        ("index", c_int32),
        ("offset", c_int32),
        ("outputs", c_int32),
        ("float16", c_int32),
    ]


class ActiveAdaptersStruct(Structure):
    """``ActiveAdapters`` of ``adapter_sites.h``."""

    _fields_ = [
        ("slots", c_void_p),
        ("codes", c_void_p),
        ("slot_rows", c_void_p),
        ("code_rows", c_void_p),
        ("adapters", c_int32),
        ("rank", c_int32),
        ("site_factors", c_void_p),
        ("code_count", c_int32),
    ]


class LayerStruct(Structure):
    """``Layer`` of ``layers.h``."""

    _fields_ = [
        ("qkv", MatrixStruct),
        ("out", MatrixStruct),
        ("gate_up", MatrixStruct),
        ("down", MatrixStruct),
        ("attention_gain", c_void_p),
        ("mlp_gain", c_void_p),
        ("attention_output_gain", c_void_p),
        ("mlp_output_gain", c_void_p),
        ("qkv_bias", c_void_p),
        ("query_gain", c_void_p),
        ("key_gain", c_void_p),
        ("qkv_sites", SiteStruct * 3),
        ("gate_up_sites", SiteStruct * 2),
        ("out_site", SiteStruct),
        ("down_site", SiteStruct),
        ("window", c_int32),
        ("rotated", c_int32),
        ("window_angles", c_int32),
    ]


class ModelStruct(Structure):
    """``Model`` of ``layers.h``."""

    _fields_ = [
        ("layers", POINTER(LayerStruct)),
        ("hidden", c_int32),
        ("intermediate", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("epsilon", c_float),
        ("attention_scale", c_float),
        ("attention_cap", c_float),
        ("residual", c_float),
        ("gelu", c_int32),
        ("joint_norm", c_int32),
    ]


class ForwardPassStruct(Structure):
    """``ForwardPass`` of ``layers.h``."""

    _fields_ = [
        ("first", c_int32),
        ("last", c_int32),
        ("tokens", c_int32),
        ("threads", c_int32),
        ("state", c_void_p),
        ("slots", c_void_p),
        ("positions", c_void_p),
        ("angles", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_stride", c_int64),
        ("slot_stride", c_int64),
        ("head_stride", c_int64),
        ("float16_cache", c_int32),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("window_cosines", c_void_p),
        ("window_sines", c_void_p),
        ("active", ActiveAdaptersStruct),
    ]


class Library:
    """Functions of a compiled library; callers check shapes and ranges.

    Args:
        path: Shared library. It uses torch's OpenMP runtime, so torch must be loaded before it.

    Attributes:
        threads: Threads of a call; None for torch's number. No result depends on it.

    Raises:
        OSError: The file is no library for this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads: int | None = None
        loaded = ctypes.CDLL(str(path))
        matrix, number = POINTER(MatrixStruct), c_int32
        self.packed_bytes = loaded.bem_packed_bytes
        self.packed_bytes.argtypes, self.packed_bytes.restype = [number] * 3, c_int64
        self.pack = loaded.bem_pack
        self.pack.argtypes, self.pack.restype = [c_void_p, matrix], None
        self.matmul = loaded.bem_matmul
        self.matmul.argtypes = [matrix, c_void_p, number, c_void_p, number]
        self.matmul.restype = None
        self.target_logprobs = loaded.bem_target_logprobs
        self.target_logprobs.argtypes = [matrix, c_void_p, number, c_void_p, c_void_p, number]
        self.target_logprobs.restype = None
        self.run_layers = loaded.bem_run_layers
        self.run_layers.argtypes = [POINTER(ModelStruct), POINTER(ForwardPassStruct)]
        self.run_layers.restype = None

    @property
    def thread_count(self) -> int:
        """Threads of the next call."""
        return self.threads or torch.get_num_threads()


class PackedLinear(nn.Module):
    """A linear layer without bias in 4 or 8 bits; one copy serves any number of rows.

    4 bits store step and minimum of each 32 inputs as float16, so that the values of a Q4_1 file
    are reproduced; 8 bits store one scale per output. Inputs are multiplied in 8 bits, each 32 of a
    row scaled by their largest value, so that the result of a row never depends on other rows.

    Args:
        library: Compiled kernels.
        weight: ``[d_out, d_in]``, only read; for 4 bits, d_in is a multiple of 32.
        bits: 4 or 8.

    Attributes:
        struct: Matrix as the library takes it; valid as long as this object lives.

    Raises:
        UnsupportedWeightsError: 4 bits do not support the shape.
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
        self.weight_bytes = self._packed.nbytes + self._scales.nbytes
        self.struct = MatrixStruct(
            self._packed.data_ptr(), self._scales.data_ptr(), bits, *weight.shape
        )
        source = weight.detach().float().contiguous()
        library.pack(source.data_ptr(), byref(self.struct))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to float32 ``[..., d_out]``."""
        rows = x.reshape(-1, self.in_features).float().contiguous()
        out = torch.empty(len(rows), self.out_features)
        threads = self._library.thread_count
        self._library.matmul(
            byref(self.struct), rows.data_ptr(), len(rows), out.data_ptr(), threads
        )
        return out.view(*x.shape[:-1], self.out_features)

    def target_logprobs(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the logarithm of ``softmax(y)[target]`` of each row without storing y.

        Args:
            x: ``[K, d_in]`` inputs.
            targets: ``[K]`` output indices.

        Returns:
            ``[K]`` float32 log-probabilities, in nats.
        """
        rows, outputs = x.float().contiguous(), targets.int().contiguous()
        in_range = bool(((outputs >= 0) & (outputs < self.out_features)).all())
        if len(rows) != len(outputs) or not in_range:
            raise ValueError(
                f"targets: {len(outputs)} of {self.out_features} outputs for {len(rows)} rows; "
                f"give one per row, 0 to {self.out_features - 1}"
            )
        logprobs = torch.empty(len(rows))
        self._library.target_logprobs(
            byref(self.struct),
            rows.data_ptr(),
            len(rows),
            outputs.data_ptr(),
            logprobs.data_ptr(),
            self._library.thread_count,
        )
        return logprobs

    def dequantize(self) -> Tensor:
        """Return the float32 values of the stored weights, ``[d_out, d_in]``."""
        groups = -(-self.in_features // GROUP)
        blocks = -(-self.out_features // LANES)
        packed = self._packed.view(blocks, groups, -1)
        codes = packed[..., _GROUP_HEADER_BYTES:] if self.bits == 4 else packed
        if self.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], -1)
        # [block, group, quad, output, 4] to [block, output, group, quad, 4]
        codes = codes.view(-1, groups, GROUP // 4, LANES, 4).permute(0, 3, 1, 2, 4).float()
        if self.bits == 8:
            values = (codes - 128) * self._scales.view(-1, LANES, 1, 1, 1)
        else:
            header = packed[..., :_GROUP_HEADER_BYTES].contiguous().view(torch.float16).float()
            step, minimum = header.view(-1, groups, 2, LANES, 1, 1).transpose(1, 3).unbind(2)
            values = codes * step + minimum
        return values.flatten(2).flatten(0, 1)[: self.out_features, : self.in_features]
