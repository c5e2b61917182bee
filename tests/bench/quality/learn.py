"""What the peer "pq" learns: k-means in each subspace of two coordinates, from the calibration windows."""
from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import torch

from deltapq.demo.progress import Progress
from quality import fly, peers, verdicts

N_WORDS, N_TOKENS, N_ROUNDS = 256, 8192, 10


def words(smol, chosen):
    """([layers, 2, heads, subspaces, 256, 2], a digest of what they were learned from); kept in .cache."""
    source = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    name = verdicts.key("words", source, *(w.sha256 for w in chosen))
    file = verdicts.path(name, ".npy")
    if not file.exists():
        part = verdicts.path(name, ".part.npy")
        np.save(part, learn(smol, chosen).numpy())
        part.rename(file)
    return torch.from_numpy(np.load(file)), name


def learn(smol, chosen):
    memory = [smol.numbers(w) for w in chosen]
    layers, bar = [], Progress("learning the words of pq", smol.geometry.n_layers)
    for layer in range(smol.geometry.n_layers):
        both = [k_means(samples(smol.geometry, memory, layer, kind).to(smol.model.device)) for kind in (0, 1)]
        layers.append(torch.stack(both).cpu())
        bar.show(layer + 1)
    bar.end()
    return torch.stack(layers)


def samples(geometry, memory, layer, kind):
    """[heads, subspaces, tokens, 2], keys before RoPE; of each window the same share of tokens."""
    rope, parts = fly.Rope(geometry), []
    step = max(1, sum(m.shape[3] for m in memory) // N_TOKENS)
    for m in memory:
        x = torch.from_numpy(m[layer, kind].astype(np.float32))
        parts.append((rope.back(x, 0) if kind == 0 else x)[:, peers.N_SINK::step])
    x = torch.cat(parts, 1)
    return x.unflatten(-1, (-1, 2)).transpose(1, 2).contiguous()


def k_means(x):
    """Words [heads, subspaces, N_WORDS, 2] of x [heads, subspaces, n, 2]; starts from samples."""
    flat = x.flatten(0, 1)
    pick = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(1))[:N_WORDS]
    book = flat[:, pick].clone()
    for _ in range(N_ROUNDS):
        index = peers.nearest(flat, book)
        count = torch.zeros_like(book[..., 0]).scatter_add_(1, index, torch.ones_like(flat[..., 0]))
        total = torch.zeros_like(book).scatter_add_(1, index[..., None].expand(-1, -1, 2), flat)
        book = torch.where(count[..., None] > 0, total / count[..., None].clamp(min=1), book)
    return book.unflatten(0, x.shape[:2])
