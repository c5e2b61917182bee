"""transformers: a DynamicCache into the daemon, and back in another process.

Whole prefixes, one call each way; never a call per step. Keys are taken and given as transformers keeps
them, after RoPE. Restore at least one token less than the prompt has: the model needs one to compute, and
a cache as long as the prompt gives other tokens without an error."""
from __future__ import annotations

import inspect
import sys

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .client import Client, Sequence
from .tensors import NUMPY, TORCH, Geometry


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


def check_layers(config) -> None:
    """Refuse what a cache of plain keys and values does not describe: sliding, linear, … layers."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"layers of type {sorted(kinds - {'full_attention'})} can't be stored")


def pairing_of(model, rotary_dim: int) -> str:
    """Which coordinates RoPE turns with which: the model's own function is asked, with a unit vector
    and a quarter turn."""
    apply = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
    unit = torch.zeros(1, 1, 1, rotary_dim)
    unit[..., 0] = 1
    cos, sin = torch.zeros(1, 1, rotary_dim), torch.ones(1, 1, rotary_dim)
    try:
        goes_to = apply(unit, unit, cos, sin)[1].flatten().nonzero().tolist()
    except Exception as e:
        raise ValueError(f"{type(model).__name__}: can't find out how RoPE pairs coordinates; pass "
                         "rope_pairing") from e
    names = {rotary_dim // 2: "half", 1: "interleaved"}
    if len(goes_to) != 1 or goes_to[0][0] not in names:
        raise ValueError(f"{type(model).__name__}: RoPE pairs coordinates in a way that can't be stored")
    return names[goes_to[0][0]]


def geometry_of(model, *, n_sink: int = 4, rope_pairing: str | None = None) -> Geometry:
    """Of a decoder-only model; inverse frequencies and pairing are the model's own.

    Refused: sliding or linear layers, and RoPE that changes with the length (dynamic, longrope)."""
    check_layers(model.config)
    config = model.config.get_text_config()
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
    return Geometry(config.num_hidden_layers, config.num_key_value_heads, head_dim, heads,
                    rope_pairing or pairing_of(model, 2 * len(inv_freq)), 2 * len(inv_freq),
                    inv_freq=inv_freq, attention_scaling=float(rope.attention_scaling), n_sink=n_sink)


def list_of(token_ids) -> list[int]:
    """Of a list, an array or a tensor; a batch of one is fine."""
    ids = token_ids.flatten().tolist() if hasattr(token_ids, "flatten") else token_ids
    return [int(i) for i in ids]


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


def calibrate(client: Client, model, windows, *, model_name: str, dtype: torch.dtype = torch.float16,
              **options):
    """Learn a profile from what the model makes of windows (an iterable of 1 × n token id tensors).
    options: as Client.calibrate() has them."""
    def samples():
        for ids in windows:
            yield numbers_of(cache_of(forward(model.model, ids.to(model.device))), dtype=dtype), 0
    return client.calibrate(geometry_of(model), samples(), model_name=model_name, **options)


def save(client: Client, cache: DynamicCache, token_ids, *, profile_id: bytes,
         rate: str = "quality", dtype: torch.dtype = torch.float16, salt: str = "",
         adapter: str = "") -> Sequence:
    """Store a cache. token_ids: of the cache's tokens at least (after generate() there is one more)."""
    n = cache.get_seq_length()
    ids = list_of(token_ids)[:n]
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
    check_layers(config)
    ids = list_of(token_ids)
    prefix = dict(rate=rate, salt=salt, adapter=adapter, sequence_id=sequence_id)
    found = client.lookup(profile_id, ids, slots=True, **prefix)
    n = min(found.n_tokens, len(ids) - 1, found.n_tokens if n is None else n)
    if n <= 0:
        return DynamicCache(config=config)
    # NumPy's memory, because it asks the kernel for huge pages: touching it takes a third of the time.
    memory = np.empty(client.geometry(profile_id).shape(n), NUMPY[TORCH[str(dtype)]])
    client.decode_local(profile_id, ids, memory, n=n, found=found, threads=threads, **prefix)
    return cache_with(config, torch.from_numpy(memory).view(dtype))


def cache_with(config, numbers: torch.Tensor) -> DynamicCache:
    """A cache of batch 1 with these numbers in it: [layers, 2, heads, tokens, head_dim], not copied. The
    first token that the model adds copies them, a layer at a time.

    DynamicCache(ddp_cache_data=…) gives an equal one, and copies everything at once."""
    cache = DynamicCache(config=config)
    if len(cache.layers) != len(numbers) or any(type(x) is not DynamicLayer for x in cache.layers):
        return DynamicCache(ddp_cache_data=[(k[None], v[None]) for k, v in numbers], config=config)
    for layer, (k, v) in zip(cache.layers, numbers):
        layer.lazy_initialization(k, v)
        layer.keys, layer.values = k[None], v[None]
    return cache
