"""The model; the same with other weights; a profile with a damaged predictor."""
from __future__ import annotations

import contextlib
import ctypes
import pathlib
import struct
import subprocess
import tempfile

import numpy as np
import torch

from deltapq import hf
from kvdump import Smol
from risk import kept
from risk.texts import Strange

# struct profile_file_header and _stream: lib/FORMAT.md
STREAMS_OFFSET_AT, STREAM_BYTES, WEIGHT_AT = 24, 136, 120
CRC_AT, CRC_FROM = 12, 16
CRC32C = """unsigned crc(unsigned c, const unsigned char *p, unsigned long n)
{ for (c = ~c; n--; p++) { c ^= *p; for (int i = 0; i < 8; i++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1; } return ~c; }"""


class Model(Smol):
    def __init__(self):
        super().__init__()
        torch.set_num_threads(1)  # one bench beside another, or beside builds, wastes no time waiting

    def exact(self, window):
        """logits(), kept beside the results: each of a window's judgements needs them."""
        path = kept.file(".npy", "logits", window.sha256)
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, self.logits(window).numpy())
            part.rename(path)
        return torch.from_numpy(np.load(path))

    def ids(self, window):
        return window.ids if isinstance(window, Strange) else super().ids(window)

    def computed(self, window):
        """numbers(), never kept."""
        return hf.numbers_of(hf.cache_of(hf.forward(self.model.model, self.ids(window))))

    @contextlib.contextmanager
    def other_weights(self, seed: int = 1):
        """Every K and V projection times a random orthogonal matrix a head."""
        generator, dim = torch.Generator().manual_seed(seed), self.geometry.head_dim
        kept = []
        for layer in self.model.model.layers:
            for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                weight = projection.weight.data
                kept.append((weight, weight.clone()))
                heads = weight.unflatten(0, (-1, dim))
                for head in heads:
                    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
                    head.copy_(turn @ head)
        try:
            yield
        finally:
            for weight, before in kept:
                weight.copy_(before)


def crc32c(data: bytes) -> int:
    """By a few lines of C: 50 MB are too many for Python."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = pathlib.Path(folder) / "crc.c", pathlib.Path(folder) / "crc.so"
        source.write_text(CRC32C)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        function = ctypes.CDLL(str(library)).crc
        function.restype, function.argtypes = ctypes.c_uint, [ctypes.c_uint, ctypes.c_char_p, ctypes.c_ulong]
        return function(0, data, len(data))


def damaged(profile: bytes, geometry, stages, seed: int = 1) -> bytes:
    """1 % of the predictor's weights of these (layer, kind) replaced by noise of 10 times their rms."""
    data, random = bytearray(profile), np.random.default_rng(seed)
    at, = struct.unpack_from("<Q", data, STREAMS_OFFSET_AT)
    for layer, kind in stages:
        for head in range(geometry.n_kv_heads):
            entry = at + STREAM_BYTES * ((2 * layer + kind) * geometry.n_kv_heads + head)
            weight, = struct.unpack_from("<Q", data, entry + WEIGHT_AT)
            if weight:
                n = geometry.head_dim * n_inputs(geometry, data[entry], layer, kind)
                w = np.frombuffer(data, "<f4", n, weight)
                w[random.choice(n, max(1, n // 100), replace=False)] = \
                    10 * np.sqrt(np.mean(w ** 2)) * random.standard_normal(max(1, n // 100))
    struct.pack_into("<I", data, CRC_AT, crc32c(bytes(data[CRC_FROM:])))
    return bytes(data)


def n_inputs(geometry, reference: int, layer: int, kind: int) -> int:
    """Of a depth predictor: K and V of the layer below, and for V, K of its own."""
    vectors = (2 if layer else 0) + kind
    return vectors * geometry.head_dim * (geometry.n_kv_heads if reference == 3 else 1)
