"""Local decode: tiles from the mapped arena straight into the caller's memory.

A slot is looked at, used, and then looked at again: if its generation changed meanwhile, what was read
is thrown away and the caller is told (GONE); a lease makes that all but impossible."""
from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from .errors import DeltaPQError
from .library import Codec, Library, Profile
from .side import Side
from .tensors import TensorDesc, address_of

TILE = 128


class LocalReader:
    """Thread: any; calls at the same time take different codecs."""

    def __init__(self, library: Library, arena_fd: int, side: Side):
        self.library, self._side = library, side
        out, fault = library.ffi.new("struct dpq_reader **"), library.ffi.new("struct dpq_fault *")
        library.check(library.lib.dpq_reader_new(arena_fd, out, fault), fault)
        self.reader = out[0]
        self._profiles: dict[bytes, Profile] = {}
        self._idle: dict[bytes, list[Codec]] = {}
        self._lock = threading.Lock()

    def profile(self, profile_id: bytes) -> Profile:
        """Opened, from the daemon's sealed file; fetched once."""
        with self._lock:
            if profile_id not in self._profiles:
                fd = self._side.profile(profile_id)
                try:
                    self._profiles[profile_id] = Profile(self.library, fd=fd)
                finally:
                    os.close(fd)
            return self._profiles[profile_id]

    @contextlib.contextmanager
    def _codecs(self, profile_id: bytes, n: int):
        profile = self.profile(profile_id)
        with self._lock:
            idle = self._idle.setdefault(profile_id, [])
            codecs, idle[:n] = idle[:n], []
        try:
            while len(codecs) < n:
                codecs.append(Codec(profile))
            yield codecs
        finally:
            with self._lock:
                idle.extend(codecs)

    def decode(self, profile_id: bytes, found, out, n: int, threads: int, base_only: bool) -> None:
        """The first n tokens of a Lookup reply with slots into out, which has room for them."""
        n_tiles = min((n + TILE - 1) // TILE, len(found.tiles))
        desc = TensorDesc.of(out)
        memory = self.library.ffi.cast("void *", address_of(out))
        with self._codecs(profile_id, max(1, min(threads, n_tiles))) as codecs:
            def run(k: int) -> None:
                for i in range(k, n_tiles, len(codecs)):
                    self._tile(codecs[k], found.tiles[i], i, desc, memory, min(TILE, n - i * TILE),
                               base_only)
            if len(codecs) == 1:
                run(0)
            else:
                with ThreadPoolExecutor(len(codecs)) as pool:
                    list(pool.map(run, range(len(codecs))))
        if n > found.n_tile_tokens:
            self._tail(profile_id, found, desc, memory, n - found.n_tile_tokens)

    def _view(self, ref, verify: bool):
        ffi, lib = self.library.ffi, self.library.lib
        slot = ffi.new("struct dpq_slot_ref *", {"slot": ref.slot, "generation": ref.generation})
        view = ffi.new("struct dpq_slot_view *")
        self.library.check(lib.dpq_reader_slot(self.reader, slot, verify, view))
        return slot, view

    def _tensor(self, desc, first_token: int):
        tensor = self.library.tensor(desc)
        tensor.offset += first_token * desc.stride_token
        return tensor

    def _tile(self, codec, tile, i: int, desc, memory, n: int, base_only: bool) -> None:
        ffi, lib = self.library.ffi, self.library.lib
        base_slot, base = self._view(tile.base_slot, True)
        fine_slot, fine = None, None
        if tile.HasField("fine_slot") and not base_only:
            fine_slot, fine = self._view(tile.fine_slot, True)
        layers = codec.profile.geometry.n_layers
        span = ffi.new("struct dpq_range *", {"first_layer": 0, "n_layers": layers, "first_token": 0,
                                              "n_tokens": n})
        fault = ffi.new("struct dpq_fault *")
        self.library.check(lib.dpq_tile_decode(
            codec.handle, base.bytes, base.n_bytes, fine.bytes if fine else ffi.NULL,
            fine.n_bytes if fine else 0, span, self._tensor(desc, i * TILE), memory, fault), fault)
        self.library.check(lib.dpq_reader_check(self.reader, base_slot))
        if fine_slot:
            self.library.check(lib.dpq_reader_check(self.reader, fine_slot))

    def _tail(self, profile_id: bytes, found, desc, memory, n: int) -> None:
        ffi, lib = self.library.ffi, self.library.lib
        slot, view = self._view(found.tail, True)
        if view.n_tokens < n:
            raise DeltaPQError("LOCAL", "GONE", "the tail has become shorter")
        geometry = self.profile(profile_id).geometry
        span = ffi.new("struct dpq_range *", {"first_layer": 0, "n_layers": geometry.n_layers,
                                              "first_token": 0, "n_tokens": n})
        lib.dpq_rows_scatter(geometry, view.bytes, view.dtype, span,
                             self._tensor(desc, found.n_tile_tokens), memory)
        self.library.check(lib.dpq_reader_check(self.reader, slot))

    def close(self) -> None:
        for codecs in self._idle.values():
            for codec in codecs:
                codec.close()
        self._idle.clear()
        for profile in self._profiles.values():
            profile.close()
        if self.reader:
            self.library.lib.dpq_reader_free(self.reader)
            self.reader = None

