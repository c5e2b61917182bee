"""Risk: what a reader of the cache sees of its errors, reported to the monitor; the map of zones as text.

    probe = risk.AttentionProbe(client, rate=.01)
    probe.sample(sequence, exact, decoded, first_token=0)    # now and then; most calls do nothing
    print(risk.heat_map(client.get_risk()))
"""
from __future__ import annotations

import numpy as np

from .tensors import f32_from_bf16

ZONES = "GYR"


def attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Outputs [n, head_dim] of n queries over all tokens; keys and values [tokens, head_dim]."""
    scores = queries @ keys.T / np.sqrt(keys.shape[1])
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


def output_error(exact, decoded, queries) -> float:
    """Mean squared error of attention outputs over their mean square; exact and decoded: (K, V) of one
    layer and head."""
    want, got = attention(queries, *exact), attention(queries, *decoded)
    return float(np.mean((got - want) ** 2) / max(np.mean(want ** 2), 1e-30))


class AttentionProbe:
    """Compares attention over decoded keys and values with attention over the originals, for a few
    layers and heads at a time, and reports what is found.

    rate       share of calls of sample() that do anything
    tolerance  relative squared error of outputs that counts as 1
    n_streams  layers and heads looked at in each of these calls
    n_queries  of each, if no queries are given: keys of the last tokens stand for them
    """

    def __init__(self, client, *, rate: float = .01, tolerance: float = .05, n_streams: int = 2,
                 n_queries: int = 16, seed: int = 0):
        if not 0 <= rate <= 1 or not tolerance > 0:
            raise ValueError(f"rate {rate} is not in 0 ... 1, or tolerance {tolerance} not above 0")
        self._client, self._rate, self._tolerance = client, rate, tolerance
        self._n_streams, self._n_queries = n_streams, n_queries
        self._random = np.random.default_rng(seed)

    def sample(self, sequence, exact: np.ndarray, decoded: np.ndarray, queries=None) -> list:
        """exact, decoded: [layers, 2, heads, tokens, head_dim] of the same tokens; queries, if there are
        any: [layers, heads, n, head_dim]. Returns what was reported: (layer, head, ratio)."""
        if self._random.random() >= self._rate:
            return []
        if exact.shape != decoded.shape:
            raise ValueError(f"shapes {exact.shape} and {decoded.shape} of the same tokens")
        n_layers, _, n_heads = exact.shape[:3]
        chosen = self._random.choice(n_layers * n_heads, min(self._n_streams, n_layers * n_heads), replace=False)
        return [self._report(sequence, exact, decoded, queries, *divmod(int(i), n_heads)) for i in chosen]

    def _report(self, sequence, exact, decoded, queries, layer, head):
        pairs = [[as_f32(array[layer, kind, head]) for kind in (0, 1)] for array in (exact, decoded)]
        asked = pairs[0][0][-self._n_queries:] if queries is None else as_f32(queries[layer, head])
        ratio = min(output_error(*pairs, asked) / self._tolerance, 1e6)
        self._client.report(sequence, ratio, layer=layer, head=head)
        return layer, head, ratio


def as_f32(array: np.ndarray) -> np.ndarray:
    return f32_from_bf16(array) if array.dtype == np.uint16 else np.asarray(array, np.float32)


def heat_map(risk) -> str:
    """The reply of get_risk() as text: a line a layer, G, Y or R for each head of K and of V."""
    width = 2 * risk.n_kv_heads
    lines = []
    for layer in range(risk.n_layers):
        row = risk.streams[layer * width:(layer + 1) * width]
        zones = ["".join(ZONES[cell.zone] for cell in row[i:i + risk.n_kv_heads])
                 for i in (0, risk.n_kv_heads)]
        lines.append(f"{layer:4}  K {zones[0]}  V {zones[1]}  {max(cell.mu for cell in row):6.2f}")
    return "\n".join(lines)
