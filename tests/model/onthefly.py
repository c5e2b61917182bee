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

    def _loops(self, n_tokens: int, rate: str) -> list:
        """A coder of layers, one by one, for each tile."""
        ffi, lib, loops = self.library.ffi, self.library.lib, []
        for first in range(0, n_tokens, TILE):
            loop = ffi.new("struct dpq_layer_loop **")
            self.library.check(lib.dpq_layer_loop_new(self.codec.handle, first, first, RATES[rate], loop))
            loops.append(ffi.gc(loop[0], lib.dpq_layer_loop_free))
        return loops

    def _code(self, loops, numbers, out) -> None:
        """The next layer: numbers and out are [1, 2, heads, tokens, dim]."""
        ffi = self.library.ffi
        for i, loop in enumerate(loops):
            tile = slice(i * TILE, (i + 1) * TILE)
            a, b = numbers[:, :, :, tile], out[:, :, :, tile]
            r = self.library.lib.dpq_layer_loop_next(
                loop, self.codec.handle, self.library.tensor(TensorDesc.of(a)), ffi.cast("void *", a.ctypes.data),
                self.library.tensor(TensorDesc.of(b)), ffi.cast("void *", b.ctypes.data), self.fault)
            self.library.check(r, self.fault)

    def logits(self, model, ids, rate: str):
        """Of a pass over ids, a multiple of 128 of them, from position 0."""
        loops = self._loops(ids.shape[1], rate)
        cache = DynamicCache(config=model.config)

        def coded(layer):
            def update(keys, values, *args, **kwargs):
                layer.is_initialized = True
                numbers = torch.stack([keys[0], values[0]])[None].half().numpy()
                out = np.empty(numbers.shape, np.float32)
                self._code(loops, numbers, out)
                return torch.from_numpy(out[0, 0])[None], torch.from_numpy(out[0, 1])[None]
            return update
        for layer in cache.layers:
            layer.update = coded(layer)
        return hf.forward(model, ids, cache).logits[0]

    def close(self) -> None:
        self.codec.close()
        self.profile.close()
