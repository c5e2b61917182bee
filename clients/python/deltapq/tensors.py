"""Geometry, and how numbers lie in memory. NumPy has no bfloat16: it travels as uint16."""
from __future__ import annotations

import dataclasses

import numpy as np

from .v1 import types_pb2 as types

DTYPES = {"f32": types.F32, "f16": types.F16, "bf16": types.BF16}
NUMPY = {"f32": np.dtype("f4"), "f16": np.dtype("f2"), "bf16": np.dtype("u2")}
PAIRINGS = {"none": types.ROPE_NONE, "half": types.ROPE_HALF, "interleaved": types.ROPE_INTERLEAVED}
RATES = {"quality": types.QUALITY, "balanced": types.BALANCED, "compact": types.COMPACT}
TORCH = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


def dtype_of(array) -> str:
    """"f32", "f16" or "bf16", of a NumPy array (uint16 is bfloat16) or a torch tensor."""
    for name, dtype in NUMPY.items():
        if isinstance(array, np.ndarray) and array.dtype == dtype:
            return name
    name = TORCH.get(str(array.dtype))
    if not name:
        raise TypeError(f"dtype {array.dtype} is none of float32, float16, bfloat16 (in NumPy uint16)")
    return name


def strides_of(array) -> tuple:
    """In bytes, of either kind."""
    if isinstance(array, np.ndarray):
        return array.strides
    return tuple(s * array.itemsize for s in array.stride())


def address_of(array) -> int:
    """Of element (0, 0, …), of either kind."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()


def bf16_from_f32(x: np.ndarray) -> np.ndarray:
    """Bits of bfloat16, rounded to nearest even; finite input."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def f32_from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclasses.dataclass
class Geometry:
    """What a model's cache looks like: see message Geometry in types.proto for units and ranges."""
    n_layers: int
    n_kv_heads: int
    head_dim: int
    n_q_heads: int = 0  # 0: as many as KV heads
    rope_pairing: str = "half"  # "none", "half", "interleaved"
    rotary_dim: int = -1  # -1: all of head_dim
    rope_theta: float = 10000.0  # used when inv_freq is empty
    inv_freq: tuple = ()
    attention_scaling: float = 1.0
    n_sink: int = 4

    def shape(self, n_tokens: int) -> tuple:
        """Of an array of all layers' KV of n tokens."""
        return self.n_layers, 2, self.n_kv_heads, n_tokens, self.head_dim

    @property
    def numbers_per_token(self) -> int:
        return self.n_layers * 2 * self.n_kv_heads * self.head_dim

    def to_proto(self) -> types.Geometry:
        none = self.rope_pairing == "none"
        return types.Geometry(
            n_layers=self.n_layers, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim,
            n_q_heads=self.n_q_heads or self.n_kv_heads, rope_pairing=PAIRINGS[self.rope_pairing],
            rotary_dim=0 if none else self.head_dim if self.rotary_dim < 0 else self.rotary_dim,
            rope_theta=0 if none else self.rope_theta, inv_freq=[] if none else list(self.inv_freq),
            attention_scaling=self.attention_scaling, n_sink=self.n_sink)

    @classmethod
    def from_proto(cls, g: types.Geometry) -> "Geometry":
        names = {v: k for k, v in PAIRINGS.items()}
        return cls(g.n_layers, g.n_kv_heads, g.head_dim, g.n_q_heads, names[g.rope_pairing],
                   g.rotary_dim, g.rope_theta, tuple(g.inv_freq), g.attention_scaling, g.n_sink)


@dataclasses.dataclass
class TensorDesc:
    """Element (layer, kind, head, token, i) is at offset + the strides' sum + i * size(dtype); bytes."""
    dtype: str
    offset: int
    stride_layer: int
    stride_kind: int
    stride_head: int
    stride_token: int

    def to_proto(self) -> types.TensorDesc:
        return types.TensorDesc(dtype=DTYPES[self.dtype], offset=self.offset,
                                stride_layer=self.stride_layer, stride_kind=self.stride_kind,
                                stride_head=self.stride_head, stride_token=self.stride_token)

    @classmethod
    def of(cls, array, offset: int = 0) -> "TensorDesc":
        """Of an array or tensor [layers, 2, heads, tokens, head_dim] with any strides but the last's."""
        if array.ndim != 5 or array.shape[1] != 2:
            raise ValueError(f"shape {tuple(array.shape)} is not [layers, 2, heads, tokens, head_dim]")
        *strides, last = strides_of(array)
        if last != array.itemsize:
            raise ValueError("the last dimension must be contiguous")
        return cls(dtype_of(array), offset, *strides)
