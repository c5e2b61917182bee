"""What a real model makes of a cache that went through the daemon: every token of it, first four raw.

The gates are the project's: at 4 bits mean KL ≤ 0.012 and top-1 ≥ 0.94, at 2 bits mean KL ≤ 0.18."""

import collections

import numpy as np
import pytest
import torch
from conftest import verdict

from deltapq import hf
from deltapq.demo import judge

GATES = {"quality": (0.012, 0.94), "compact": (0.18, 0.0)}


@pytest.mark.parametrize("rate", ["quality", "compact"])
def test_gate(rate, client, profile_id, smollm, evaluated, numbers):
    by_genre = collections.defaultdict(list)
    bits = []
    for window, ids, exact in evaluated:
        tokens = ids[0].tolist()
        sequence = client.create_sequence(profile_id, rate=rate)
        client.append(sequence, numbers(window), tokens)
        bits.append(client.status().true_bits_per_number)
        kept = client.read_local(profile_id, tokens, rate=rate, sequence_id=sequence.id)
        by_genre[window.genre].append(verdict(smollm[0], ids, exact, kept))
        client.release(sequence, discard=True)
    total = judge.Verdict.all([v for vs in by_genre.values() for v in vs])
    for genre, vs in by_genre.items():
        v = judge.Verdict.all(vs)
        print(f"\n{rate} {genre}: perplexity {v.perplexity_exact:.3f} -> {v.perplexity:.3f}, mean KL "
              f"{v.mean_kl:.4f}, 99.9 % {v.tail_kl:.3f}, top-1 {v.agreement:.4f}", end="")
    print(f"\n{rate}: true bits {np.mean(bits):.3f} (1,024 tokens, sinks included), mean KL "
          f"{total.mean_kl:.4f}, top-1 {total.agreement:.4f}")
    assert len(total.kl) >= 6 * 1024
    assert total.mean_kl <= GATES[rate][0]
    assert total.agreement >= GATES[rate][1]


def test_gate_can_fail(client, profile_id, smollm, evaluated, numbers):
    """A cache whose keys are turned by one position too many does not pass: the gate has teeth."""
    window, ids, exact = evaluated[0]
    sequence = client.create_sequence(profile_id, position_base=1)
    client.append(sequence, numbers(window), ids[0].tolist())
    kept = client.read(sequence)
    client.release(sequence, discard=True)
    assert verdict(smollm[0], ids, exact, kept).mean_kl < 0.05  # wrong positions only cost a little
    kept = np.roll(kept, 1, axis=3)
    assert verdict(smollm[0], ids, exact, kept).mean_kl > 0.18


def test_save_and_restore(client, profile_id, smollm, evaluated):
    """save() and restore() continue like an exact cache does, nearly; a raw tail exactly."""
    model, _ = smollm
    ids = evaluated[0][1][:, :700]
    cache = hf.cache_of(hf.forward(model.model, ids[:, :680]))
    sequence = hf.save(client, cache, ids[0], profile_id=profile_id, dtype=torch.float32)
    assert sequence.n_tokens == 680
    again = hf.restore(client, model.config, ids[0, :690].tolist(), profile_id=profile_id,
                       sequence_id=sequence.id)
    assert again.get_seq_length() == 680
    tail = 680 - 680 % 128
    for was, got in zip(cache.layers, again.layers):
        assert torch.equal(was.keys[:, :, tail:], got.keys[:, :, tail:])
        assert torch.equal(was.values[:, :, :4], got.values[:, :, :4])
    exact = hf.forward(model, ids[:, 680:], cache).logits[0]
    other = hf.forward(model, ids[:, 680:], again).logits[0]
    assert judge.Verdict.of(exact, other, ids[0, 681:]).mean_kl < 0.02
    # never the whole prompt: one token is left to be computed
    short = hf.restore(client, model.config, ids[0, :640].tolist(), profile_id=profile_id)
    assert short.get_seq_length() == 639
    nothing = hf.restore(client, model.config, [1, 2, 3], profile_id=profile_id)
    assert nothing.get_seq_length() == 0
    client.release(sequence, discard=True)


def test_given_cache_is_continued_bit_by_bit(smollm, evaluated):
    """What restore() relies on: DynamicCache(ddp_cache_data=…) goes on exactly like the original."""
    from transformers import DynamicCache
    model, _ = smollm
    ids = evaluated[1][1][:, :80]
    cache = hf.cache_of(hf.forward(model.model, ids[:, :64]))
    copy = DynamicCache(ddp_cache_data=[(x.keys.clone(), x.values.clone()) for x in cache.layers],
                        config=model.config)
    assert torch.equal(hf.forward(model, ids[:, 64:], cache).logits,
                       hf.forward(model, ids[:, 64:], copy).logits)
