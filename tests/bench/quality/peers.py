"""Other codecs, as published or as shipped, to be judged beside ours.

    q8_0, q4_0     llama.cpp's blocks of 32 along head_dim with an fp16 scale; keys after RoPE, as there
    hadamard-4…2   a Hadamard rotation with random signs, an fp16 norm per vector, scalar levels of Lloyd
                   and Max for the normal distribution (what TurboQuant and its kin do); keys before RoPE
    pq             2 coordinates a subspace, 256 words each, no rotation, no gain; learned from the
                   calibration windows; keys before RoPE

Every token is coded but the first N_SINK, in which a codec of ours keeps its raw tokens too. Bits are code
and scales per number; code books and the raw tokens are not counted, in favour of the peers."""
from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
from typing import Callable

import torch

from quality import fly

N_SINK = 4


@dataclasses.dataclass
class Peer:
    name: str
    bits: float
    code: Callable  # (x [batch, heads, tokens, head_dim], layer, kind) -> the same after coding
    rope: fly.Rope | None = None  # None: keys are coded as they come, after RoPE
    learned: str = ""  # what else than this file decides: a digest of what was learned

    @property
    def id(self) -> str:
        """Changes with this file and with what was learned: verdicts are kept under it."""
        source = pathlib.Path(__file__).read_bytes() + pathlib.Path(fly.__file__).read_bytes()
        return f"{self.name} {hashlib.sha256(source).hexdigest()} {self.learned}"

    def __call__(self, layer, keys, values, first):
        """A coder in the sense of fly.py."""
        k = self.rope.back(keys, first) if self.rope else keys
        k = self.code(k, layer, 0)
        k = self.rope.forth(k, first) if self.rope else k
        v = self.code(values, layer, 1)
        n_raw = max(0, N_SINK - first)
        return (torch.cat([keys[..., :n_raw, :], k[..., n_raw:, :]], -2),
                torch.cat([values[..., :n_raw, :], v[..., n_raw:, :]], -2))


def half(x):
    """Rounded to fp16, as scales are stored."""
    return x.half().float()


def q8_0(x, layer, kind):
    blocks = x.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    q = (blocks / scale.clamp(min=1e-30)).round()
    return (q * half(scale)).flatten(-2)


def q4_0(x, layer, kind):
    """The number of the largest magnitude becomes -8 exactly, so the scale has its sign."""
    blocks = x.unflatten(-1, (-1, 32))
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    q = (blocks * inverse + 8.5).floor().clamp(0, 15)
    return ((q - 8) * half(scale)).flatten(-2)


def lloyd_max(n: int) -> torch.Tensor:
    """The n levels that a normal variable loses least with, ascending: each is the mean of its cell, each
    bound halfway between levels (Max 1960)."""
    levels = [(i + 0.5) * 4 / n - 2 for i in range(n)]
    for _ in range(2000):
        bounds = [-math.inf, *((a + b) / 2 for a, b in zip(levels, levels[1:])), math.inf]
        levels = [_normal_mean(a, b) for a, b in zip(bounds, bounds[1:])]
    return torch.tensor(levels)


def _normal_mean(a, b):
    density = [0.0 if math.isinf(x) else math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, b)]
    below = [(1 + math.erf(x / math.sqrt(2))) / 2 for x in (a, b)]
    return (density[0] - density[1]) / (below[1] - below[0])


def hadamard(n: int) -> torch.Tensor:
    """Orthogonal n × n; n is a power of 2. The signs of the columns are random, and always the same."""
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return h * signs / math.sqrt(n)


def scalar(n_levels: int, head_dim: int):
    levels, turn = lloyd_max(n_levels), hadamard(head_dim)
    bounds = (levels[1:] + levels[:-1]) / 2

    def code(x, layer, kind):
        norm = half(x.norm(dim=-1, keepdim=True)) / math.sqrt(head_dim)
        way = turn.to(x.device)
        y = (x / norm.clamp(min=1e-30)) @ way.T
        return (levels.to(x.device)[torch.bucketize(y, bounds.to(x.device))] * norm) @ way
    return code


def product(words):
    """words [layers, 2, heads, subspaces, 256, 2]"""
    def code(x, layer, kind):
        n_batch, n_heads, n_tokens, dim = x.shape
        sub = x.transpose(0, 1).reshape(n_heads, n_batch * n_tokens, dim // 2, 2).transpose(1, 2)
        book = words[layer, kind].flatten(0, 1).to(x.device)
        index = nearest(sub.flatten(0, 1), book)
        coded = book.gather(1, index[..., None].expand(-1, -1, 2)).unflatten(0, (n_heads, -1))
        return coded.transpose(1, 2).reshape(n_heads, n_batch, n_tokens, dim).transpose(0, 1)
    return code


def nearest(x, words):
    """x [problems, n, 2], words [problems, k, 2] -> index [problems, n]; in pieces that stay in cache."""
    offset = (words * words).sum(-1)[:, None] / -2
    turned = words.transpose(1, 2)
    return torch.cat([torch.baddbmm(offset, part, turned).argmax(-1) for part in x.split(128, 1)], 1)


def all_of(geometry, words=None, learned: str = "") -> list[Peer]:
    """Every peer; pq only with its words."""
    rope, dim = fly.Rope(geometry), geometry.head_dim
    peers = [Peer("q8_0", 8.5, q8_0), Peer("q4_0", 4.5, q4_0)]
    peers += [Peer(f"hadamard-{b}", b + 16 / dim, scalar(1 << b, dim), rope) for b in (4, 3, 2)]
    if words is not None:
        peers.append(Peer("pq", 4.0, product(words), rope, learned))
    return peers
