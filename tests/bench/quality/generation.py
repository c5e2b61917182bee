"""Greedy continuations of real prompts: how long, and how often, a coded cache goes the exact one's way.

The prompt's cache is computed exactly and then goes through the codec, all but its last token, which the
model needs to go on. What is generated is computed over the coded cache and coded as it comes: by ours
when a tile is full (the tail stays exact, as in the daemon), by the others token by token."""
from __future__ import annotations

import hashlib
import pathlib

import numpy as np
from transformers import DynamicCache

from deltapq import hf
from deltapq.demo.progress import Progress
from quality import bench, fly, verdicts
from kvdump import LIST, torch, windows
from onthefly import TILE

PEERS = ("q8_0", "q4_0")
N_PROMPTS, N_PROMPT, N_TOKENS = 20, 3 * TILE + 96, 64  # the fourth tile fills up halfway


class Sealing:
    """A cache of several sequences whose full tiles are replaced by what a profile makes of them."""

    def __init__(self, judged, rate: str):
        self.judged, self.rate, self.n_sealed = judged, rate, 0

    @property
    def id(self):
        return f"{self.judged.id} {self.rate}"

    def cache(self, config):
        self.n_sealed = 0
        return DynamicCache(config=config)

    def step(self, cache):
        """After tokens were added."""
        while self.n_sealed + TILE <= cache.get_seq_length():
            tokens = slice(self.n_sealed, self.n_sealed + TILE)
            for b in range(len(cache.layers[0].keys)):
                exact = torch.stack([torch.stack([x.keys[b, :, tokens], x.values[b, :, tokens]])
                                     for x in cache.layers]).cpu().numpy()
                out = np.empty_like(exact)
                self.judged.tile(exact, self.n_sealed, self.rate, out)
                for x, (k, v) in zip(cache.layers, torch.from_numpy(out).to(cache.layers[0].keys.device)):
                    x.keys[b, :, tokens], x.values[b, :, tokens] = k, v
            self.n_sealed += TILE


class Coding:
    """A cache in which every token is coded by a peer; without one, the exact cache."""

    def __init__(self, peer=None):
        self.peer, self.id = peer, peer.id if peer else "exact"

    def cache(self, config):
        return fly.cache(config, self.peer) if self.peer else DynamicCache(config=config)

    def step(self, cache):
        pass


def prompts(smol, n: int = N_PROMPTS):
    """Token ids [n, N_PROMPT + 1] of the first evaluation windows, genres in turn."""
    chosen = bench.interleaved(windows.read(LIST, "evaluate"))[:n]
    return torch.cat([smol.ids(w)[:, :N_PROMPT + 1] for w in chosen])


def continuations(model, ids, exact, way, n_tokens: int = N_TOKENS) -> np.ndarray:
    """[prompts, n_tokens], kept in .cache. exact: a function that gives the exact cache of ids[:, :-1]."""
    source = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    name = verdicts.key("continuations", source, way.id, n_tokens, ids.tolist())
    file = verdicts.path(name, ".npy")
    if not file.exists():
        made = _generate(model, ids, exact(), way, n_tokens)
        part = verdicts.path(name, ".part.npy")
        np.save(part, made)
        part.rename(file)
    return np.load(file)


def _generate(model, ids, exact, way, n_tokens):
    cache, token, made = way.cache(model.config), ids[:, -1:], []
    for layer, given in zip(cache.layers, exact.layers):
        layer.update(given.keys.clone(), given.values.clone())
    way.step(cache)
    for _ in range(n_tokens):
        token = hf.forward(model, token, cache).logits[:, -1:].argmax(-1)
        made.append(token)
        way.step(cache)
    return torch.cat(made, 1).cpu().numpy()


def agreement(made, raw) -> dict:
    """Means over prompts: tokens before the first difference; share of equal tokens; how many are all
    equal."""
    same = made == raw
    prefix = np.where(same.all(1), same.shape[1], same.argmin(1))
    return {"prompts": len(raw), "n_tokens": raw.shape[1], "prefix": round(float(prefix.mean()), 2),
            "share": round(float(same.mean()), 4), "whole": int(same.all(1).sum())}


def compare(smol, peers, opened, n: int = N_PROMPTS, n_tokens: int = N_TOKENS) -> list[dict]:
    """A record of each peer, and of each setup (with its opened profile) at each rate."""
    ids, kept = prompts(smol, n), []

    def exact():
        if not kept:
            kept.append(hf.cache_of(hf.forward(smol.model.model, ids[:, :-1])))
        return kept[0]
    ways = [(p.name, p.bits, Coding(p)) for p in peers]
    for setup, judged in opened:
        for rate in setup["rates"]:
            bits = judged.through(smol.numbers(windows.read(LIST, "evaluate", 1)[0]), rate)[1]["true_bits"]
            ways.append((f"{setup['name']}, {rate}", bits, Sealing(judged, rate)))
    raw, bar = continuations(smol.model, ids, exact, Coding(), n_tokens), Progress("continuing", len(ways))
    records = []
    for name, bits, way in ways:
        made = continuations(smol.model, ids, exact, way, n_tokens)
        records.append({"codec": name, "true_bits": round(bits, 4), "n_prompt": ids.shape[1],
                        **agreement(made, raw)})
        bar.show(len(records))
    bar.end()
    return records
