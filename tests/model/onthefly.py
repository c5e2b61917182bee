"""The other way to judge a codec: attention sees coded keys and values while the cache is being computed,
so that errors of one layer also change what the layers above compute and code. Tables in the literature
mostly mean this; a cache that was restored from a store of exact ones does better."""

import numpy as np
import torch
from transformers import DynamicCache

from deltapq import TensorDesc, hf
from deltapq.library import Codec, Library, Profile
from deltapq.tensors import RATES

TILE = 128


class OnTheFly:
    def __init__(self, profile_bytes: bytes):
        self.library = Library()
        self.profile = Profile(self.library, data=profile_bytes)
        self.codec = Codec(self.profile)
        self.fault = self.library.ffi.new("struct dpq_fault *")

    def _check(self, r):
        self.library.check(r, self.fault)

    def _tile(self, numbers, out, first: int, layer: int, rate: str) -> None:
        """Code a tile of numbers, decode one layer of it into out [1, 2, heads, 128, dim]."""
        ffi, lib = self.library.ffi, self.library.lib
        part = numbers[:, :, :, first:first + TILE]
        desc, memory = self.library.tensor(TensorDesc.of(part)), ffi.cast("void *", part.ctypes.data)
        rows = ffi.new("char[]", lib.dpq_row_bytes(self.profile.geometry, desc.dtype) * TILE)
        self._check(lib.dpq_rows_gather(self.profile.geometry, desc, memory, TILE, rows, self.fault))
        base, fine = ffi.new("uint8_t **"), ffi.new("uint8_t **")
        n_base, n_fine = ffi.new("size_t *"), ffi.new("size_t *")
        self.library.check(lib.dpq_tile_encode(self.codec.handle, rows, desc.dtype, first, first,
                                               RATES[rate], base, n_base, fine, n_fine))
        span = ffi.new("struct dpq_range *", {"first_layer": layer, "n_layers": 1, "n_tokens": TILE})
        r = lib.dpq_tile_decode(self.codec.handle, base[0], n_base[0], fine[0],
                                n_fine[0] if fine[0] else 0, span, self.library.tensor(TensorDesc.of(out)),
                                ffi.cast("void *", out.ctypes.data), self.fault)
        lib.dpq_free(base[0])
        lib.dpq_free(fine[0])
        self._check(r)

    def logits(self, model, ids, rate: str):
        """Of a pass over ids, a multiple of 128 of them, from position 0."""
        g = self.profile.geometry
        numbers = np.zeros((g.n_layers, 2, g.n_kv_heads, ids.shape[1], g.head_dim), np.float16)
        cache = DynamicCache(config=model.config)

        def coded(i, layer):
            def update(keys, values, *args, **kwargs):
                layer.is_initialized = True
                numbers[i, 0], numbers[i, 1] = keys[0].half().numpy(), values[0].half().numpy()
                out = np.empty((1, *numbers.shape[1:]), np.float32)
                for first in range(0, ids.shape[1], TILE):
                    self._tile(numbers, out[:, :, :, first:first + TILE], first, i, rate)
                return torch.from_numpy(out[0, 0])[None], torch.from_numpy(out[0, 1])[None]
            return update
        for i, layer in enumerate(cache.layers):
            layer.update = coded(i, layer)
        return hf.forward(model, ids, cache).logits[0]

    def close(self) -> None:
        self.codec.close()
        self.profile.close()
