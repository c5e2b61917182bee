"""transformers: a DynamicCache into the daemon, and back in another process.

Whole prefixes, one call each way; never a call per step. Keys are taken and given as transformers keeps
them, after RoPE. Restore at least one token less than the prompt has: the model needs one to compute, and
a cache as long as the prompt gives other tokens without an error."""
from __future__ import annotations

import inspect

import numpy as np
import torch
from transformers import DynamicCache

from .client import Client, Sequence
from .tensors import NUMPY, Geometry

TORCH = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def forward(model, ids, cache=None, **kwargs):
    """model(ids) with a cache. transformers 5.24 calls the argument cache, those before past_key_values."""
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    if cache is not None:
        kwargs[name] = cache
    with torch.no_grad():
        return model(ids, use_cache=True, **kwargs)


def cache_of(output) -> DynamicCache:
    """The cache that a forward pass returned."""
    return output["cache"] if "cache" in output else output["past_key_values"]


def rotary_embedding(model):
    """The model's rotary embedding module, or None."""
    for module in model.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "attention_scaling"):
            return module
    return None


def geometry_of(model, n_sink: int = 4) -> Geometry:
    """Of a decoder-only model; inverse frequencies are the model's own, number by number.

    Refused: sliding or linear layers, and RoPE that changes with the length (dynamic, longrope)."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"layers of type {sorted(kinds - {'full_attention'})} can't be stored")
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = rotary_embedding(model)
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise ValueError(f"RoPE of type {kind} depends on the length: keys can't be turned back")
    if rope is None:
        return Geometry(config.num_hidden_layers, config.num_key_value_heads, head_dim, heads, "none",
                        n_sink=n_sink)
    inv_freq = tuple(float(x) for x in rope.inv_freq.float().cpu())
    return Geometry(config.num_hidden_layers, config.num_key_value_heads, head_dim, heads, "half",
                    2 * len(inv_freq), inv_freq=inv_freq,
                    attention_scaling=float(rope.attention_scaling), n_sink=n_sink)


def numbers_of(cache: DynamicCache, first: int = 0, n: int | None = None,
               dtype: torch.dtype = torch.float16) -> np.ndarray:
    """Tokens first … first + n - 1 of a cache of batch 1: [layers, 2, heads, n, head_dim]."""
    pairs = []
    for layer in cache.layers:
        k, v = layer.keys, layer.values
        if k.shape[0] != 1:
            raise ValueError(f"batch {k.shape[0]}: save one sequence at a time")
        stop = k.shape[2] if n is None else first + n
        pairs.append(torch.stack([k[0, :, first:stop], v[0, :, first:stop]]))
    numbers = torch.stack(pairs).to("cpu", dtype).contiguous()
    return (numbers.view(torch.uint16) if dtype == torch.bfloat16 else numbers).numpy()


def calibrate(client: Client, model, windows, *, model_name: str, seed: int = 1, progress=None,
              dtype: torch.dtype = torch.float16):
    """Learn a profile from what the model makes of windows (an iterable of 1 × n token id tensors)."""
    def samples():
        for ids in windows:
            yield numbers_of(cache_of(forward(model.model, ids.to(model.device))), dtype=dtype), 0
    return client.calibrate(geometry_of(model), samples(), model_name=model_name, seed=seed,
                            progress=progress)


def save(client: Client, cache: DynamicCache, token_ids, *, profile_id: bytes,
         rate: str = "quality", dtype: torch.dtype = torch.float16, salt: str = "",
         adapter: str = "") -> Sequence:
    """Store a cache. token_ids: of the cache's tokens at least (after generate() there is one more)."""
    n = cache.get_seq_length()
    ids = [int(i) for i in token_ids][:n]
    if len(ids) < n:
        raise ValueError(f"{len(ids)} token ids for a cache of {n} tokens")
    sequence = client.create_sequence(profile_id, rate=rate, token_ids=ids, salt=salt, adapter=adapter)
    if sequence.n_tokens < n:
        start = sequence.n_tokens
        client.append(sequence, numbers_of(cache, start, n - start, dtype), ids[start:])
    return sequence


def restore(client: Client, config, token_ids, *, profile_id: bytes, rate: str = "quality",
            dtype: torch.dtype = torch.float32, threads: int = 2, salt: str = "", adapter: str = "",
            sequence_id: int = 0, n: int | None = None) -> DynamicCache:
    """A cache of the longest stored prefix of token_ids, but not of all of them: continue with
    token_ids[cache.get_seq_length():]. n limits it. Empty when nothing is stored."""
    ids = [int(i) for i in token_ids]
    prefix = dict(rate=rate, salt=salt, adapter=adapter, sequence_id=sequence_id)
    found = client.lookup(profile_id, ids, slots=True, **prefix)
    n = min(found.n_tokens, len(ids) - 1) if n is None else min(n, found.n_tokens, len(ids) - 1)
    if n <= 0:
        return DynamicCache(config=config)
    memory = np.empty(client.geometry(profile_id).shape(n), NUMPY[TORCH[dtype]])  # NumPy asks for huge pages
    client.decode_local(profile_id, ids, memory, n=n, found=found, threads=threads, **prefix)
    numbers = torch.from_numpy(memory).view(dtype)
    return DynamicCache(ddp_cache_data=[(k[None], v[None]) for k, v in numbers], config=config)
