"""The output metric of a model: how much an error of a key or value moves what the model says.

    output  M = E[g gᵀ], g the gradient of the loss (nats, summed over a window's next-token losses) with
            respect to a key before RoPE, or a value, over the tokens of real text (empirical Fisher)
    proxy   without gradients, from what attention does with it, layer by layer. A key's error d moves the
            output of query i by W_O p_ij (v_j - o_i) (q_i · d), q turned to the key's coordinates before
            RoPE; a value's moves it by W_O p_ij d; each summed over the query heads of the group. dᵀ M d is
            the square of that, divided by the square of the residual stream at i, which the next norm
            divides by, summed over the queries i and averaged over the keys j.

Each is [layers, 2, heads, head_dim, head_dim], symmetric, not negative, of all tokens but the first
N_SINK, which stay raw. λ · mean(diagonal) is for the trainer to add."""
from __future__ import annotations

import contextlib
import hashlib
import inspect
import pathlib

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache

from deltapq import hf
from deltapq.demo import windows
from deltapq.demo.progress import Progress
from quality import fly, verdicts
from quality.peers import N_SINK

KEY_STEP = 32  # of the keys, the proxy looks at one in so many


def cached(how: str, smol, chosen) -> np.ndarray:
    """"output" or "proxy" of a Smol's model on windows; kept in .cache."""
    source = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    name = verdicts.key("metric", source, how, *(w.sha256 for w in chosen))
    file = verdicts.path(name, ".npy")
    if not file.exists():
        matrices = {"output": output_metric, "proxy": proxy_metric}[how](smol.model, smol.tokenizer, chosen)
        part = verdicts.path(name, ".part.npy")
        np.save(part, matrices)
        part.rename(file)
    return np.load(file)


def output_metric(model, tokenizer, chosen) -> np.ndarray:
    return _mean(model, tokenizer, chosen, "output metric: gradients", outer_of_gradients)


def proxy_metric(model, tokenizer, chosen) -> np.ndarray:
    return _mean(model, tokenizer, chosen, "output metric: attention", outer_of_attention)


def _mean(model, tokenizer, chosen, title, outer):
    total, bar = 0, Progress(title, len(chosen))
    for i, window in enumerate(chosen):
        total = total + outer(model, windows.tokens(window, tokenizer).to(model.device)).double()
        bar.show(i + 1)
    bar.end()
    return (total / len(chosen)).float().cpu().numpy()


# --- gradients ------------------------------------------------------------------------------------

def outer_of_gradients(model, ids):
    """Mean of g gᵀ over the tokens of ids [1, tokens] after the first N_SINK."""
    rope, layers = fly.Rope(hf.geometry_of(model)), []
    for keys, values in gradients(model, ids):
        g = torch.stack([rope.back_gradient(keys, 0), values])[:, :, N_SINK:]
        layers.append(g.transpose(-1, -2) @ g / g.shape[2])
    return torch.stack(layers)


def gradients(model, ids):
    """[(of keys after RoPE, of values)] of each layer, [heads, tokens, head_dim], of the summed loss."""
    seen = {}
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        layer.update = _watch(seen, i, layer)
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    with frozen(model), torch.enable_grad():
        logits = model(inputs_embeds=embedded, use_cache=True, **{name: cache}).logits[0]
        torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").backward()
    return [tuple(x.grad[0] for x in seen[i]) for i in range(len(seen))]


def _watch(seen, i, layer):
    def update(keys, values, *args, **kwargs):
        layer.is_initialized = True
        seen[i] = keys, values
        keys.retain_grad()
        values.retain_grad()
        return keys, values
    return update


@contextlib.contextmanager
def frozen(model):
    """Weights without gradients, which would cost as much again."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


# --- attention ------------------------------------------------------------------------------------

def outer_of_attention(model, ids):
    rope, layers, residual = fly.Rope(hf.geometry_of(model)), {}, {}

    def attention(module, query, key, value, mask, scaling=None, **kwargs):
        p = causal(query[0], key[0], scaling)
        out = p @ spread(value[0], len(p))
        layers[module.layer_idx] = of_layer(module, query[0] * scaling, value[0], p, out,
                                            1 / residual[module.layer_idx], rope)
        return out.transpose(0, 1)[None], None
    hooks = [block.register_forward_pre_hook(
        lambda m, args, i=i: residual.update({i: args[0][0].square().sum(-1).clamp(min=1e-12)}))
        for i, block in enumerate(model.model.layers)]
    before = model.config._attn_implementation
    AttentionInterface.register("deltapq_metric", attention)
    model.set_attn_implementation("deltapq_metric")
    try:
        hf.forward(model.model, ids)
    finally:
        model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    return torch.stack([layers[i] for i in range(len(layers))])


def spread(x, n_q_heads: int):
    """KV heads [heads, …] as often as query heads use them."""
    return x.repeat_interleave(n_q_heads // len(x), 0)


def causal(query, key, scaling):
    """Probabilities [query heads, queries, keys]."""
    scores = query @ spread(key, len(query)).transpose(-1, -2) * scaling
    n = scores.shape[-1]
    return scores.masked_fill(torch.ones(n, n, dtype=torch.bool, device=scores.device).triu(1), -torch.inf).softmax(-1)


def of_layer(module, query, value, p, out, weight, rope):
    """[2, heads, head_dim, head_dim]; query times the scale of attention, after RoPE; weight of each
    query's output."""
    n_group = len(query) // len(value)
    w_o = module.o_proj.weight.unflatten(1, (len(query), -1)).permute(1, 0, 2)
    pairs = [of_group(v, *(x.unflatten(0, (-1, n_group))[g] for x in (query, p, out, w_o)), weight, rope)
             for g, v in enumerate(value)]
    return torch.stack([torch.stack(kind) for kind in zip(*pairs)])


def of_group(value, query, p, out, w_o, weight, rope):
    """(of keys, of values) of one KV head and its query heads. An error that several query heads see moves
    the output by the sum of what it does through each, hence the pairs."""
    picked, keys, values = slice(N_SINK, None, KEY_STEP), 0, 0
    for a in range(len(query)):
        for b in range(a, len(query)):
            gram = w_o[a].T @ w_o[b]
            both = p[a] * p[b] * weight[:, None]
            moved = both[:, picked] * products(value[picked], out[a], out[b], gram)
            k = key_outer(query[a], query[b], moved, rope)
            v = gram * (both[:, N_SINK:].sum() / (len(value) - N_SINK))
            keys, values = keys + k + (k.T if a < b else 0), values + v + (v.T if a < b else 0)
    return keys, values


def products(value, out_a, out_b, gram):
    """(v_j - a_i) · gram (v_j - b_i), [queries, keys]"""
    of_keys = (value @ gram * value).sum(-1)
    of_queries = (out_a @ gram * out_b).sum(-1)
    return of_keys + of_queries[:, None] - out_a @ gram @ value.T - out_b @ gram.T @ value.T


def key_outer(query_a, query_b, weight, rope):
    """Mean over the keys looked at of Σ_i weight_ij a_i b_iᵀ, each turned back by the position of key j on
    both sides; queries [queries, head_dim], weight [queries, keys]."""
    m = (query_a * weight.T[..., None]).transpose(1, 2) @ query_b
    for _ in range(2):
        m = rope.back_gradient(m.permute(1, 0, 2), N_SINK, KEY_STEP).permute(1, 2, 0)
    return m.mean(0)
