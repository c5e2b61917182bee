"""libdeltapq, loaded: the codec and the mapped arena, without a copy and without a daemon's help.

The library is the one named by DELTAPQ_LIBRARY, or one beside the package, or the system's."""
from __future__ import annotations

import ctypes.util
import os
import pathlib

import cffi

from .errors import DeltaPQError

HERE = pathlib.Path(__file__).parent
FFI = cffi.FFI()
FFI.cdef((HERE / "_cdef.h").read_text())  # takes some 50 ms: once, at import


class Library:
    """The functions of deltapq.h as attributes of .lib; declarations as .ffi."""

    def __init__(self, path: str | None = None):
        self.ffi, path = FFI, path or self._find()
        try:
            self.lib = FFI.dlopen(path)
        except OSError as e:
            raise DeltaPQError("LOCAL", "LIBRARY", f"can't load {path}: {e}") from None

    @staticmethod
    def _find() -> str:
        named = os.environ.get("DELTAPQ_LIBRARY")
        if named:
            return named
        beside = HERE / "libdeltapq.so"
        if beside.exists():
            return str(beside)
        found = ctypes.util.find_library("deltapq")
        if not found:
            raise DeltaPQError("LOCAL", "LIBRARY", "libdeltapq.so was not found: set DELTAPQ_LIBRARY")
        return found

    def check(self, r: int, fault=None) -> None:
        """Raise for what is not 0: an outcome with its message, or a fault."""
        if not r:
            return
        name = self.ffi.string(self.lib.dpq_outcome_name(r)).decode()
        where, message = {}, ""
        if fault is not None and r > 0:
            message = self.ffi.string(fault.message).decode("utf-8", "replace")
            where = {k: str(getattr(fault, k)) for k in ("layer", "kind", "head", "token")
                     if getattr(fault, k) >= 0}
        raise DeltaPQError("LOCAL", name, message or (os.strerror(-r) if r < 0 else name.lower()), where)

    def tensor(self, desc):
        """struct dpq_tensor of a TensorDesc."""
        from .tensors import DTYPES
        return self.ffi.new("struct dpq_tensor *", {
            "dtype": DTYPES[desc.dtype], "offset": desc.offset, "stride_layer": desc.stride_layer,
            "stride_kind": desc.stride_kind, "stride_head": desc.stride_head,
            "stride_token": desc.stride_token})


class Profile:
    """A profile file, opened: from a sealed memfd (fd, closed here) or from bytes."""

    def __init__(self, library: Library, *, fd: int = -1, data: bytes | None = None):
        self.library = library
        ffi, lib = library.ffi, library.lib
        self._mapped = None
        if data is None:
            start, size = ffi.new("void const **"), ffi.new("size_t *")
            library.check(lib.dpq_map_profile(fd, start, size))
            self._mapped = (start[0], size[0])
            memory, n = start[0], size[0]
        else:
            self._data = ffi.from_buffer(data)
            memory, n = self._data, len(data)
        out, fault = ffi.new("struct dpq_profile **"), ffi.new("struct dpq_fault *")
        library.check(lib.dpq_profile_open(memory, n, out, fault), fault)
        self.handle = out[0]
        self.geometry = lib.dpq_profile_geometry(self.handle)
        self.digest = bytes(ffi.buffer(lib.dpq_profile_digest(self.handle), 32))
        self.name = ffi.string(lib.dpq_profile_name(self.handle)).decode()
        self.info = ffi.string(lib.dpq_profile_info(self.handle)).decode()

    def close(self) -> None:
        lib = self.library.lib
        if self.handle:
            lib.dpq_profile_free(self.handle)
            self.handle = None
        if self._mapped:
            lib.dpq_unmap(*self._mapped)
            self._mapped = None


class Codec:
    """Scratch memory for one thread."""

    def __init__(self, profile: Profile, cpu_mask: int = 0xFFFFFFFF):
        self.profile = profile
        out = profile.library.ffi.new("struct dpq_codec **")
        profile.library.check(profile.library.lib.dpq_codec_new(profile.handle, cpu_mask, out))
        self.handle = out[0]

    def close(self) -> None:
        if self.handle:
            self.profile.library.lib.dpq_codec_free(self.handle)
            self.handle = None
