#!/usr/bin/env python3
"""Our kernels beside FAISS, ggml, q8_0, q4_0, zstd and lz4: one process, the same arrays, one pinned core.

usage: bench_peers.py LIBRARY [--json FILE] [--svg FILE] [--cpu MASK] [--seconds S] [--vectors N] [--core C]

LIBRARY is build/tests/bench/libbench_peers.so. Needs numpy, faiss-cpu, pywhispercpp (its wheel carries ggml),
zstandard and lz4; who is not installed is left out. Vectors are Gaussian, D = 128, 65,536 a call, fp32 in. Our
codebooks and FAISS' are trained on the same distribution, so the error beside each speed says that like is
compared with like. Ours codes a gain for each vector and packs the stored panels; neither side rotates. Figures are
medians of at least five calls, by this thread's processor time; sides take turns. FAISS and ggml decode to fp32
only: FAISS' time is held against ours to fp16 and to fp32.
"""
import argparse
import ctypes
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np

D = 128


def room(shape, dtype):
    """Zeros from a page's start on, as staging is; numpy's begin anywhere."""
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(n + 4096, np.uint8)
    first = -memory.ctypes.data % 4096
    return memory[first:first + n].view(dtype).reshape(shape)


class Stream(ctypes.Structure):
    _fields_ = [("cpu", ctypes.c_uint32), ("d", ctypes.c_uint32), ("scale", ctypes.c_void_p),
                ("base", ctypes.c_void_p), ("fine", ctypes.c_void_p)]


def pointer(array):
    return None if array is None else array.ctypes.data


def kmeans(x, k, rng, rounds=25):
    centre = x[rng.choice(len(x), k, replace=False)]
    for _ in range(rounds):
        near = np.argmin(((x[:, None, :] - centre[None]) ** 2).sum(-1), 1)
        for j in range(k):
            if (near == j).any():
                centre[j] = x[near == j].mean(0)
    return centre, near


class Ours:
    """A tree of 16 parents with 16 children each, the same for every subspace: the vectors' law is the same, too."""

    def __init__(self, path, cpu, rng):
        self.lib = ctypes.CDLL(path)
        self.lib.peers_cpu.restype = ctypes.c_uint
        x = rng.standard_normal((24000, 2)).astype(np.float32)
        base, near = kmeans(x, 16, rng)
        fine = np.stack([kmeans(x[near == p], 16, rng)[0] for p in range(16)])
        scale = np.abs(fine).max() / 127
        m = D // 2
        self.scale = np.full(m, scale, np.float32)
        self.base = np.ascontiguousarray(np.tile(np.rint(base / scale).clip(-127, 127).astype(np.int8), (m, 1, 1)))
        self.fine = np.ascontiguousarray(np.tile(np.rint(fine / scale).clip(-127, 127).astype(np.int8), (m, 1, 1, 1)))
        self.stream = Stream(cpu & self.lib.peers_cpu(), D, pointer(self.scale), pointer(self.base), pointer(self.fine))

    def encode(self, x, gain, base, fine):
        self.lib.peers_encode(ctypes.byref(self.stream), ctypes.c_void_p(pointer(x)), ctypes.c_size_t(len(x)),
                              *(ctypes.c_void_p(pointer(a)) for a in (gain, base, fine)))

    def decode(self, gain, base, fine, out):
        call = self.lib.peers_decode_f32 if out.dtype == np.float32 else self.lib.peers_decode_f16
        call(ctypes.byref(self.stream), *(ctypes.c_void_p(pointer(a)) for a in (gain, base, fine)),
             ctypes.c_size_t(len(gain)), ctypes.c_void_p(pointer(out)))

    def plain(self, name, source, n, to):
        getattr(self.lib, name)(ctypes.c_void_p(pointer(source)), ctypes.c_size_t(n), ctypes.c_void_p(pointer(to)))


def measure(cases, seconds):
    """{name: median seconds of a call}; the cases take turns."""
    times = {name: [] for name in cases}
    end = time.monotonic() + seconds
    while min(map(len, times.values())) < 5 or time.monotonic() < end:
        for name, call in cases.items():
            begin = time.thread_time()
            call()
            times[name].append(time.thread_time() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def nmse(x, y):
    return float(((x - y.astype(np.float32)) ** 2).mean() / (x ** 2).mean())


def faiss_cases(x, cases, errors, bits):
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    out = room(x.shape, x.dtype)
    for m, n_bits in ((64, 4), (64, 8), (32, 8)):
        pq = faiss.ProductQuantizer(D, m, n_bits)
        pq.cp.niter, pq.cp.max_points_per_centroid = 8, 64
        pq.train(x[:16384])
        turned = faiss.ProductQuantizer(D, m, n_bits)
        turned.cp.niter, turned.cp.max_points_per_centroid = 8, 64
        turned.train(x[:16384])
        turned.sync_transposed_centroids()
        codes = pq.compute_codes(x)
        name = f"faiss PQ {m}x{n_bits}"

        # into arrays that are there, as ours: the wrappers of both calls take new memory every time
        def encode(pq, codes=codes):
            pq.compute_codes_c(faiss.swig_ptr(x), faiss.swig_ptr(codes), len(x))

        def decode(pq=pq, codes=codes):
            pq.decode_c(faiss.swig_ptr(codes), faiss.swig_ptr(out), len(x))

        cases[f"{name} encode"] = lambda encode=encode, pq=pq: encode(pq)
        cases[f"{name} encode, transposed"] = lambda encode=encode, pq=turned: encode(pq)
        cases[f"{name} decode to fp32"] = decode
        errors[name] = nmse(x, pq.decode(codes))
        bits[name] = m * n_bits / D
    return faiss.__version__


def ggml_cases(x, cases, errors, bits):
    """q8_0 and q4_0 of ggml, built as the wheel has them; it decodes to fp32 only."""
    package = importlib.util.find_spec("pywhispercpp")
    if package is None:
        return
    lib = next(pathlib.Path(package.origin).parents[1].glob("libggml-cpu.so*"), None)
    if lib is None:
        return
    cpu = ctypes.CDLL(str(lib))  # and libggml-base, on which it depends
    cpu.ggml_cpu_init()
    out = room(x.shape, x.dtype)

    def call(function, source, to):
        function(ctypes.c_void_p(pointer(source)), ctypes.c_void_p(pointer(to)), ctypes.c_int64(x.size))

    for name, size in (("q8_0", 34), ("q4_0", 18)):
        packed = room(x.size // 32 * size, np.uint8)
        pack, unpack = getattr(cpu, f"quantize_row_{name}"), getattr(cpu, f"dequantize_row_{name}")
        cases[f"ggml {name} encode"] = lambda f=pack, p=packed: call(f, x, p)
        cases[f"ggml {name} decode to fp32"] = lambda f=unpack, p=packed: call(f, p, out)
        call(pack, x, packed)
        call(unpack, packed, out)
        errors[f"ggml {name}"], bits[f"ggml {name}"] = nmse(x, out), size * 8 / 32


def bytes_cases(half, cases, bits):
    """General compressors, on fp16 rows as they are and with the bytes of all numbers apart."""
    apart = half.view(np.uint8).reshape(-1, 2).T.copy()
    try:
        import zstandard
        pack, unpack = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
        for what, data in (("", half.tobytes()), (", bytes apart", apart.tobytes())):
            packed = pack.compress(data)
            cases[f"zstd -1{what} encode"] = lambda data=data: pack.compress(data)
            cases[f"zstd -1{what} decode to fp16"] = lambda packed=packed: unpack.decompress(packed)
            bits[f"zstd -1{what}"] = 16 * len(packed) / len(data)
    except ImportError:
        pass
    try:
        import lz4.frame
        data = half.tobytes()
        packed = lz4.frame.compress(data)
        cases["lz4 encode"] = lambda: lz4.frame.compress(data)
        cases["lz4 decode to fp16"] = lambda: lz4.frame.decompress(packed)
        bits["lz4"] = 16 * len(packed) / len(data)
    except ImportError:
        pass


def our_cases(ours, x, cases, errors, bits):
    n, line = len(x), 64
    gain = room(n, np.uint8)
    base, fine = (room(n // 128 * (D // 2) * line, np.uint8) for _ in range(2))
    wide, half = room((n, D), np.float32), room((n, D), np.float16)
    ours.encode(x, gain, base, fine)
    for name, second in (("base", None), ("two planes", fine)):
        cases[f"ours {name} encode"] = lambda second=second: ours.encode(x, gain, base, second)
        cases[f"ours {name} decode to fp32"] = lambda second=second: ours.decode(gain, base, second, wide)
        cases[f"ours {name} decode to fp16"] = lambda second=second: ours.decode(gain, base, second, half)
        ours.decode(gain, base, second, wide)
        errors[f"ours {name}"] = nmse(x, wide)
        bits[f"ours {name}"] = (4 if second is not None else 2) + 8 / D
    for name, size in (("q8", 34), ("q4", 18)):
        packed = room(n * D // 32 * size, np.uint8)
        cases[f"{name}_0 encode"] = lambda f=f"{name}_encode", p=packed: ours.plain(f, x, n * D, p)
        cases[f"{name}_0 decode to fp16"] = lambda f=f"{name}_decode", p=packed: ours.plain(f, p, n * D, half)
        cases[f"{name}_0 encode"]()
        cases[f"{name}_0 decode to fp16"]()
        errors[f"{name}_0"], bits[f"{name}_0"] = nmse(x, half), size * 8 / 32
    return half


def chart(rows):
    """Millions of vectors a second on a logarithmic scale, decoding above encoding."""
    left, width, high, low, most = 230, 420, 16, 0.1, 100
    lines, y = [], 24
    for what in ("decode", "encode"):
        lines.append(f'<text x="8" y="{y}" font-weight="bold">{what}, million vectors of 128 a second</text>')
        y += 8
        of = [r for r in rows if what in r["case"] or (what == "decode" and r["case"].startswith("memcpy"))]
        for r in sorted(of, key=lambda r: -r["mvec_per_s"]):
            bar = width * np.log(max(r["mvec_per_s"], low) / low) / np.log(most / low)
            fill = "#2563a8" if r["case"].startswith("ours") else "#b0b7c0"
            name = r["case"].replace(f" {what}", "")
            lines.append(f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{name}</text>'
                         f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="{high - 3}" fill="{fill}"/>'
                         f'<text x="{left + bar + 4:.1f}" y="{y + 12}">{r["mvec_per_s"]:.3g}</text>')
            y += high
        y += 26
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 60} {y}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--json")
    parser.add_argument("--svg", help="a bar chart")
    parser.add_argument("--cpu", type=lambda v: int(v, 0), default=0xffffffff)
    parser.add_argument("--seconds", type=float, default=10, help="for all cases together, at least five calls each")
    parser.add_argument("--vectors", type=int, default=65536)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    rng = np.random.default_rng(1)
    x = rng.standard_normal((args.vectors, D), dtype=np.float32) * rng.uniform(0.5, 2, (args.vectors, 1)).astype(np.float32)
    cases, errors, bits = {}, {}, {}
    target = our_cases(Ours(os.path.abspath(args.library), args.cpu, rng), x, cases, errors, bits)
    half = room(x.shape, np.float16)
    half[...] = x
    cases["memcpy of fp16"] = lambda: np.copyto(target, half)
    version = faiss_cases(x, cases, errors, bits)
    ggml_cases(x, cases, errors, bits)
    bytes_cases(half, cases, bits)
    seconds = measure(cases, args.seconds)
    print(f"{args.vectors} vectors, D = {D}, faiss {version}")
    print(f"{'case':34}{'Mvec/s':>10}{'GB/s fp16':>11}{'of memcpy':>11}{'bits':>8}{'NMSE':>10}")
    rows = []
    for name, s in seconds.items():
        of = next((k for k in sorted(bits, key=len, reverse=True) if name.startswith(k)), None)
        rows.append({"bench": "peers", "case": name, "vectors": args.vectors, "dim": D, "us": round(1e6 * s, 1),
                     "mvec_per_s": round(args.vectors / s / 1e6, 3), "gb_per_s": round(args.vectors * D * 2 / s / 1e9, 3),
                     "of_memcpy": round(seconds["memcpy of fp16"] / s, 4), "bits": of and round(bits[of], 3),
                     "nmse": errors.get(of)})
        r = rows[-1]
        print(f"{name:34}{r['mvec_per_s']:10.3f}{r['gb_per_s']:11.3f}{r['of_memcpy']:11.3f}"
              f"{r['bits'] or 0:8.3f}{r['nmse'] or 0:10.5f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)
    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as f:
            f.write(chart(rows))
    if version:
        best = {k: min(seconds[f"faiss PQ {k} encode"], seconds[f"faiss PQ {k} encode, transposed"])
                for k in ("64x4", "64x8")}
        ratios = {
            "encode, base : PQ 64x4": best["64x4"] / seconds["ours base encode"],
            "encode, two planes : PQ 64x8": best["64x8"] / seconds["ours two planes encode"],
        }
        for plane, pq in (("base", "32x8"), ("two planes", "64x8")):
            for to in ("fp16", "fp32"):
                ratios[f"decode to {to}, {plane} : PQ {pq}"] = (
                    seconds[f"faiss PQ {pq} decode to fp32"] / seconds[f"ours {plane} decode to {to}"])
        for name, ratio in ratios.items():
            print(f"{name:44}{ratio:8.1f} times")
    sys.stdout.flush()


main()
