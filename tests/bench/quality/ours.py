"""Profiles of this project: read from files or learned here, and the codec by the library.

The library, not the daemon, so that a profile is judged for itself; tests/model sends caches through a
daemon and gets the same numbers back."""
from __future__ import annotations

import hashlib
import os
import pathlib

import numpy as np
import torch

from deltapq import TensorDesc
from deltapq.demo.progress import Progress
from deltapq.library import Codec, Library, Profile
from deltapq.tensors import PAIRINGS, RATES
from quality import fly, verdicts
from onthefly import TILE, OnTheFly


def library_id() -> str:
    """Of the library that codes: results of another build are not taken for its own."""
    return hashlib.sha256(pathlib.Path(Library._find()).read_bytes()).hexdigest()


class Judged:
    """A profile, opened for a bench."""

    def __init__(self, data: bytes):
        self.data, self.library = data, Library()
        self.profile = Profile(self.library, data=data)
        self.codec = Codec(self.profile)
        self.fault = self.library.ffi.new("struct dpq_fault *")
        self.id = f"{self.profile.digest.hex()} {library_id()}"
        self._fly = None

    def tile(self, numbers, first: int, rate: str, out=None, fine: bool = True, damage=None) -> int:
        """Code a tile of numbers [layers, 2, heads, 128, head_dim], fp16 or fp32, whose first token has
        position and index first; decode it into out (same shape, fp32), without the fine plane if so
        wanted, and after damage(its base object, writable). Returns the bytes it takes."""
        ffi, lib = self.library.ffi, self.library.lib
        desc = self.library.tensor(TensorDesc.of(numbers))
        rows = ffi.new("char[]", lib.dpq_row_bytes(self.profile.geometry, desc.dtype) * TILE)
        self.library.check(lib.dpq_rows_gather(self.profile.geometry, desc,
                                               ffi.cast("void *", numbers.ctypes.data), TILE, rows,
                                               self.fault), self.fault)
        planes, sizes = ffi.new("uint8_t *[2]"), ffi.new("size_t[2]")
        self.library.check(lib.dpq_tile_encode(self.codec.handle, rows, desc.dtype, first, first,
                                               RATES[rate], planes, sizes, planes + 1, sizes + 1))
        r = 0
        if damage:
            damage(np.frombuffer(ffi.buffer(planes[0], sizes[0]), np.uint8))
        if out is not None:
            with_fine = fine and planes[1] != ffi.NULL
            span = ffi.new("struct dpq_range *", {"n_layers": numbers.shape[0], "n_tokens": TILE})
            r = lib.dpq_tile_decode(self.codec.handle, planes[0], sizes[0],
                                    planes[1] if with_fine else ffi.NULL, sizes[1] if with_fine else 0,
                                    span, self.library.tensor(TensorDesc.of(out)),
                                    ffi.cast("void *", out.ctypes.data), self.fault)
        n_bytes = sizes[0] + (sizes[1] if fine and planes[1] != ffi.NULL else 0)
        for plane in planes:
            lib.dpq_free(plane)
        self.library.check(r, self.fault)
        return n_bytes

    def through(self, numbers, rate: str, fine: bool = True):
        """(numbers of whole tiles as they come back, fp32; {"true_bits": of tiles without raw first
        tokens, what long sequences tend to, "true_bits_window": of all of it}): everything stored
        counts."""
        out, sizes = np.empty(numbers.shape, np.float32), []
        for first in range(0, numbers.shape[3], TILE):
            sizes.append(self.tile(numbers[:, :, :, first:first + TILE], first, rate,
                                   out[:, :, :, first:first + TILE], fine))
        tile_numbers = out.size * TILE / out.shape[3]
        return out, {"true_bits": 8 * float(np.mean(sizes[1:])) / tile_numbers,
                     "true_bits_window": 8 * sum(sizes) / out.size}

    def logits(self, model, ids, rate: str):
        """On the fly; the model may be on another device than the codec."""
        self._fly = self._fly or OnTheFly(self.data)
        loops = self._fly._loops(ids.shape[1], rate)

        def coder(layer, keys, values, first):
            numbers = torch.stack([keys[0], values[0]])[None].half().cpu().numpy()
            out = np.empty(numbers.shape, np.float32)
            self._fly._code(loops, numbers, out)
            coded = torch.from_numpy(out[0])[:, None].to(keys.device)
            return coded[0], coded[1]
        return fly.logits(model, ids, coder)

    def close(self) -> None:
        if self._fly:
            self._fly.close()
        self.codec.close()
        self.profile.close()


# --- calibration ----------------------------------------------------------------------------------

class Unavailable(Exception):
    """This library can't do what a setup asks for."""


def learned(smol, chosen, options: dict, metric=None) -> bytes:
    """A profile from windows; kept in .cache under all that decides it.

    options: fields of struct dpq_train_options by name; a word for a number stands for the library's
    constant: {"reference": "depth-head"} means DPQ_REFERENCE_DEPTH_HEAD."""
    metric_id = hashlib.sha256(metric.tobytes()).hexdigest() if metric is not None else ""
    name = verdicts.key("profile", library_id(), sorted(options.items()), metric_id,
                        *(w.sha256 for w in chosen))
    file = verdicts.path(name, ".profile")
    if not file.exists():
        part = verdicts.path(name, ".part")
        part.write_bytes(_learn(smol, chosen, options, metric))
        part.rename(file)
    return file.read_bytes()


def _learn(smol, chosen, options, metric):
    library = Library()
    ffi, lib, g = library.ffi, library.lib, smol.geometry
    fault, trainer = ffi.new("struct dpq_fault *"), ffi.new("struct dpq_trainer **")
    library.check(lib.dpq_trainer_new(geometry(ffi, g), _options(library, options), trainer, fault), fault)
    try:
        bar = Progress("calibrating", 1000)
        for w in chosen:
            numbers = smol.numbers(w)
            library.check(lib.dpq_trainer_add(trainer[0], library.tensor(TensorDesc.of(numbers)),
                                              ffi.cast("void *", numbers.ctypes.data), numbers.nbytes, 0,
                                              numbers.shape[3], fault), fault)
        if metric is not None:
            _give_metric(library, trainer[0], metric, fault)

        @ffi.callback("bool(void *, uint64_t, uint64_t)")
        def progress(user, done, total):
            bar.show(1000 * done // max(total, 1))
            return False
        data, n = ffi.new("uint8_t **"), ffi.new("size_t *")
        library.check(lib.dpq_trainer_run(trainer[0], progress, ffi.NULL, data, n, fault), fault)
        bar.end()
        profile = bytes(ffi.buffer(data[0], n[0]))
        lib.dpq_free(data[0])
        return profile
    finally:
        lib.dpq_trainer_free(trainer[0])


def geometry(ffi, g):
    """struct dpq_geometry of a deltapq.Geometry with frequencies of its own."""
    return ffi.new("struct dpq_geometry *", {
        "n_layers": g.n_layers, "n_kv_heads": g.n_kv_heads, "n_q_heads": g.n_q_heads,
        "head_dim": g.head_dim, "rope_pairing": PAIRINGS[g.rope_pairing], "rotary_dim": g.rotary_dim,
        "attention_scaling": g.attention_scaling, "n_sink": g.n_sink, "inv_freq": list(g.inv_freq)})


def _options(library, options):
    values = {"model_name": verdicts.demo_model.NAME.encode(), "seed": 1, "max_bytes": 1 << 31,
              "n_threads": len(os.sched_getaffinity(0))}
    known = dict(library.ffi.typeof("struct dpq_train_options").fields)
    for name, value in options.items():
        if name not in known:
            raise Unavailable(f"calibration has no option {name}")
        values[name] = _constant(library, name, value) if isinstance(value, str) else value
    return library.ffi.new("struct dpq_train_options *", values)


def _constant(library, name, word):
    constant = f"DPQ_{name}_{word}".upper().replace("-", "_")
    try:
        return getattr(library.lib, constant)
    except AttributeError:
        raise Unavailable(f"the library has no {constant}") from None


def takes_metric() -> bool:
    return hasattr(Library().lib, "dpq_trainer_metric")


def _give_metric(library, trainer, metric, fault):
    """metric [layers, 2, heads, head_dim, head_dim], fp32."""
    for layer, kind, head in np.ndindex(metric.shape[:3]):
        one = np.ascontiguousarray(metric[layer, kind, head])
        library.check(library.lib.dpq_trainer_metric(
            trainer, layer, kind, head, library.ffi.cast("float *", one.ctypes.data), fault), fault)
