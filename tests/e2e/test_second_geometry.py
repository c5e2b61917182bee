"""Another geometry, end to end: head_dim 128, 8 KV heads for 32 query heads, half of each key rotated, in
interleaved pairs. Synthetic numbers: this says that everything fits together, nothing about quality."""

import numpy as np
import pytest

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")

pytestmark = pytest.mark.slow  # trainings

LAYERS, HEADS, DIM, ROTARY = 2, 8, 128, 64
GEOMETRY = deltapq.Geometry(LAYERS, HEADS, DIM, n_q_heads=32, rope_pairing="interleaved", rotary_dim=ROTARY)
RANDOM = np.random.default_rng(77)
MIX = RANDOM.standard_normal((4, HEADS, DIM, DIM)).astype(np.float32) / np.sqrt(DIM)
DECAY = np.exp(-np.arange(DIM) / 40).astype(np.float32)


def turned(keys, first):
    """Keys [layers, heads, tokens, dim] after RoPE, written here a second time on purpose."""
    inv_freq = 1 / 10000 ** (np.arange(ROTARY // 2) * 2 / ROTARY)
    angle = (first + np.arange(keys.shape[2]))[:, None] * inv_freq
    c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    out = keys.copy()
    a, b = keys[..., 0:ROTARY:2], keys[..., 1:ROTARY:2]
    out[..., 0:ROTARY:2], out[..., 1:ROTARY:2] = a * c - b * s, b * c + a * s
    return out


def numbers(n, seed, first=0):
    """Each stream follows what is below it (K0, V0, K1, V1), by .9."""
    noise = np.random.default_rng(seed).standard_normal((4, HEADS, n, DIM)).astype(np.float32) * DECAY
    streams = [noise[0]]
    for i in range(1, 4):
        streams.append(.9 * np.einsum("htd,hde->hte", streams[-1], MIX[i]) + .3 * noise[i])
    kv = np.stack([np.stack([turned(np.stack(streams[0::2]), first)[i], streams[2 * i + 1]])
                   for i in range(LAYERS)])
    return kv.astype(np.float16)


@pytest.fixture(scope="module")
def client(daemon):
    with deltapq.Client(daemon.grpc_path, staging_bytes=4 << 20) as client:
        yield client


@pytest.fixture(scope="module")
def profiles(client):
    return {reference: client.calibrate(GEOMETRY, [(numbers(1536, 5, 1000), 1000)], model_name="second",
                                        n_iterations=3, reference=reference).profile_id
            for reference in ("none", "depth-head", "depth")}


def relative_error(got, exact):
    e = (got.astype(np.float32) - exact.astype(np.float32)) ** 2
    return e.mean(axis=(2, 3, 4)) / (exact.astype(np.float32) ** 2).mean(axis=(2, 3, 4))  # [layer, kind]


def test_what_comes_back(client, profiles):
    kv, tokens = numbers(300, 6), list(range(300))
    errors = {}
    for reference, profile in profiles.items():
        sequence = client.create_sequence(profile)
        client.append(sequence, kv, tokens)
        back = client.read(sequence, dtype="f16")
        assert np.array_equal(back[:, :, :, :4], kv[:, :, :, :4])
        assert np.array_equal(back[:, :, :, 256:], kv[:, :, :, 256:])
        local = client.decode_local(profile, tokens, dtype="f16", sequence_id=sequence.id)
        assert np.array_equal(local, back)
        base = client.decode_local(profile, tokens, dtype="f16", sequence_id=sequence.id, base_only=True)
        errors[reference] = relative_error(back, kv), relative_error(base, kv)
        client.release(sequence, discard=True)
    for planes in range(2):
        none, head, depth = (errors[r][planes] for r in ("none", "depth-head", "depth"))
        assert (none < (.03, .25)[planes]).all(), none
        assert np.allclose(head[0, 0], none[0, 0], rtol=.1)  # K of layer 0 has nothing below
        assert (head[1] < .6 * none[1]).all(), (none, head)
        assert (depth[1] < none[1]).all(), (none, depth)  # 3,072 inputs, 1,408 samples: by its ridge


def test_a_layer_by_itself(client, profiles):
    """A layer of a depth profile is decoded from those below it, whatever was asked for."""
    kv, tokens = numbers(128, 8), list(range(5000, 5128))
    sequence = client.create_sequence(profiles["depth"], rate="compact")
    client.append(sequence, kv, tokens)
    whole = client.read(sequence, dtype="f32")
    upper = client.read(sequence, dtype="f32", layers=(1, 1))
    assert np.array_equal(upper[0], whole[1])
    client.release(sequence, discard=True)


def test_wrong_geometry_is_refused(client, profiles):
    sequence = client.create_sequence(profiles["none"])
    with pytest.raises(Exception, match="(?i)head|tensor|shape|stride|bytes"):
        client.append(sequence, np.zeros((LAYERS, 2, 4, 10, DIM), np.float16), list(range(10)))
    client.release(sequence, discard=True)
