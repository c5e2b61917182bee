"""The Python client against a real daemon: ways in and out, layouts, splits, dying clients."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")

LAYERS, HEADS, DIM = 2, 2, 32
GEOMETRY = deltapq.Geometry(LAYERS, HEADS, DIM)


def random_kv(n, seed=0, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal((LAYERS, 2, HEADS, n, DIM)).astype(dtype)


@pytest.fixture(scope="module")
def client(daemon):
    with deltapq.Client(daemon.grpc_path, staging_bytes=2 << 20) as client:
        yield client


@pytest.fixture(scope="module")
def profile(client):
    return client.calibrate(GEOMETRY, [(random_kv(2048, 9), 0)], model_name="tiny").profile_id


def ids(seed, n):
    return [1000 * seed + i for i in range(n)]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_three_ways_give_the_same_bytes(client, profile, dtype):
    seed = {"f32": 1, "f16": 2, "bf16": 3}[dtype]
    kv = random_kv(300, seed, np.float32)
    kv = {"f32": kv, "f16": kv.astype(np.float16), "bf16": deltapq.bf16_from_f32(kv)}[dtype]
    sequence = client.create_sequence(profile)
    client.append(sequence, kv, ids(seed, 300))
    staged = client.read(sequence, dtype=dtype)
    inline = client.read(sequence, dtype=dtype, via="inline")
    local = client.decode_local(profile, ids(seed, 300), dtype=dtype, sequence_id=sequence.id)
    assert staged.tobytes() == inline.tobytes() == local.tobytes()
    assert np.array_equal(staged[:, :, :, :4], kv[:, :, :, :4])      # sinks
    assert np.array_equal(staged[:, :, :, 256:], kv[:, :, :, 256:])  # raw tail
    exact, got = (deltapq.f32_from_bf16(x) if dtype == "bf16" else x.astype(np.float32)
                  for x in (kv, staged))
    error = ((got - exact) ** 2).mean()
    assert 1e-4 < error < 0.03
    base = client.decode_local(profile, ids(seed, 300), dtype="f32", sequence_id=sequence.id,
                             base_only=True)
    assert 2 * error < ((base - exact) ** 2).mean() < 0.25
    client.release(sequence, discard=True)


def test_local_decode_of_a_part_by_many_threads(client, profile):
    """Any number of threads and of tokens, any strides, several callers at once: the same numbers."""
    kv, tokens = random_kv(700, 12), ids(12, 700)
    sequence = client.create_sequence(profile)
    client.append(sequence, kv, tokens)
    want = client.read(sequence, dtype="f16")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [(n, threads, pool.submit(client.decode_local, profile, tokens, n=n, dtype="f16",
                                         threads=threads, sequence_id=sequence.id))
                for n in (1, 128, 129, 500, 640, 641, 700) for threads in (1, 2, 7)]
        for n, threads, job in jobs:
            assert np.array_equal(job.result(), want[:, :, :, :n]), (n, threads)
    rows = np.zeros((700, HEADS, LAYERS, 2, DIM), np.float16)  # tokens outermost
    client.decode_local(profile, tokens, rows.transpose(2, 3, 1, 0, 4), sequence_id=sequence.id)
    assert np.array_equal(rows.transpose(2, 3, 1, 0, 4), want)
    client.release(sequence, discard=True)


def test_slots_that_went_away_are_looked_up_again(client, profile):
    kv, tokens = random_kv(256, 13), ids(13, 256)
    sequence = client.create_sequence(profile)
    client.append(sequence, kv, tokens)
    want, old = client.read(sequence), client.lookup(profile, tokens, slots=True)
    client.release(sequence, discard=True)
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.decode_local(profile, tokens, n=256, found=old)
    assert e.value.reason == "TOKEN_RANGE"  # of the second look-up
    sequence = client.create_sequence(profile)
    client.append(sequence, kv, tokens)
    assert np.array_equal(client.decode_local(profile, tokens, found=old), want)
    client.release(sequence, discard=True)


def test_however_it_is_split(client, profile):
    """Same reads, and the same keys: what a second sequence appends is found to be there already."""
    kv, reads = random_kv(290, 4), []
    for splits in ([290], [1, 127, 128, 34], [5] * 58, [200, 90]):
        sequence = client.create_sequence(profile)
        at, shared = 0, 0
        for n in splits:
            via = "inline" if n % 2 else "staging"
            reply = client.append(sequence, kv[:, :, :, at:at + n], ids(4, 290)[at:at + n], via=via)
            at, shared = at + n, shared + reply.n_shared_tokens
        assert reply.n_tokens == 290 and reply.n_tile_tokens == 256
        reads.append(client.read(sequence).tobytes())
        if len(reads) > 1:
            assert shared == 256
        client.release(sequence)
    assert len(set(reads)) == 1
    adopted = client.create_sequence(profile, token_ids=ids(4, 290))
    assert adopted.n_tokens == 256
    client.release(adopted, discard=True)


def test_layouts(client, profile):
    """transformers' [heads, tokens, dim] a tensor, vLLM's [2, blocks, block_size, heads, dim] a layer."""
    kv = random_kv(256, 5)
    plain = client.create_sequence(profile)
    client.append(plain, kv)
    want = client.read(plain, dtype="f16")
    size = kv.nbytes
    blocks = np.ascontiguousarray(kv.transpose(0, 1, 3, 2, 4)).reshape(LAYERS, 2, 16, 16, HEADS, DIM)
    view = blocks.reshape(LAYERS, 2, 256, HEADS, DIM).transpose(0, 1, 3, 2, 4)
    backwards = np.ascontiguousarray(kv[::-1, ::-1])[::-1, ::-1]  # negative strides
    for array, offset in ((view, 0), (backwards, backwards.ctypes.data - backwards.base.ctypes.data)):
        sequence = client.create_sequence(profile)
        whole = array.base if array.base is not None else array
        while whole.base is not None:
            whole = whole.base
        client.staging[:size] = np.frombuffer(whole.tobytes(), np.uint8)
        client.append_tensor(sequence, deltapq.TensorDesc.of(array, offset), 256)
        client.staging[:size] = 0
        client.read_tensor(sequence, deltapq.TensorDesc.of(array, offset), 0, 256)
        got = np.ndarray(array.shape, np.float16, client.staging[:size].tobytes(), offset, array.strides)
        assert np.array_equal(got, want)
        client.release(sequence, discard=True)
    part = client.read(plain, 130, 7, dtype="f16", layers=(1, 1))
    assert np.array_equal(part, want[1:, :, :, 130:137])
    client.release(plain, discard=True)


def test_bf16_is_rounded_to_nearest_even():
    x = 1 + np.float32([0, 1, 1.5, 2, 3, 5, -1]) / 256
    got = deltapq.f32_from_bf16(deltapq.bf16_from_f32(x))
    assert np.array_equal(got, 1 + np.float32([0, 0, 2, 2, 4, 4, -1]) / 256)


def test_huge_values_survive(client, profile):
    """1e30 in bfloat16: as a sink, in a tile, and in the tail, bit for bit."""
    kv = deltapq.bf16_from_f32(random_kv(200, 6, np.float32))
    huge = deltapq.bf16_from_f32(np.float32([1e30]))[0]
    for t in (1, 77, 150):
        kv[1, 0, 1, t, 5] = huge
    sequence = client.create_sequence(profile)
    client.append(sequence, kv)
    got = client.read(sequence, dtype="bf16")
    for t in (1, 77, 150):
        assert np.array_equal(got[1, 0, 1, t], kv[1, 0, 1, t])
    client.release(sequence, discard=True)


def test_nan_is_located_and_nothing_is_stored(client, profile):
    before = client.status()
    kv = random_kv(140, 7)
    kv[1, 1, 0, 133, 9] = np.nan
    sequence = client.create_sequence(profile)
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.append(sequence, kv)
    assert (e.value.code, e.value.reason) == ("INVALID_ARGUMENT", "NOT_FINITE")
    assert e.value.metadata["layer"] == "1" and e.value.metadata["token"] == "133"
    client.release(sequence)
    after = client.status()
    assert (after.n_tiles, after.tail_bytes, after.arena_used_bytes) == \
        (before.n_tiles, before.tail_bytes, before.arena_used_bytes)


def test_mistakes_are_named_before_anything_is_sent(client, profile):
    sequence = client.create_sequence(profile)
    with pytest.raises(ValueError, match="shape"):
        client.append(sequence, random_kv(5)[:, :, :1])
    with pytest.raises(ValueError, match="token ids"):
        client.append(sequence, random_kv(5), [1, 2])
    with pytest.raises(TypeError, match="float64"):
        client.append(sequence, random_kv(5, dtype=np.float64))
    with pytest.raises(ValueError, match="via"):
        client.read(sequence, 0, 0, via="local")
    with pytest.raises(ValueError, match="shape"):
        client.read(sequence, 0, 0, out=np.empty((1, 2, 2, 0, 32), np.float32))
    client.release(sequence)
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.read(sequence, 0, 1)
    assert (e.value.code, e.value.reason) == ("NOT_FOUND", "SEQUENCE")


def test_staging_is_left_alone_after_a_call_that_broke_off(daemon, profile):
    with deltapq.Client(daemon.grpc_path, staging_bytes=1 << 20) as client:
        sequence = client.create_sequence(profile)
        client.timeout = -1
        with pytest.raises(deltapq.DeltaPQError) as e:
            client.append(sequence, random_kv(300))
        assert e.value.code == "DEADLINE_EXCEEDED"
        client.timeout = 30
        with pytest.raises(deltapq.DeltaPQError) as e:
            client.append(sequence, random_kv(300))
        assert (e.value.code, e.value.reason) == ("LOCAL", "STAGING")
        other = client.create_sequence(profile)
        client.append(other, random_kv(300), via="inline")
        assert client.read(other, via="inline").shape[3] == 300
        client.release(sequence)
        client.release(other, discard=True)


def test_nobody_there(tmp_path):
    """Neither a missing socket nor one that nobody serves makes a client wait for its deadline."""
    begin = time.monotonic()
    with pytest.raises(deltapq.DeltaPQError) as e:
        deltapq.Client(str(tmp_path / "none.sock"))
    assert e.value.code == "UNAVAILABLE"
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(tmp_path / "deaf.sock"))
    deaf.listen()
    with deaf, pytest.raises(deltapq.DeltaPQError) as e:
        deltapq.Client(str(tmp_path / "deaf.sock"), timeout=1)
    assert e.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert time.monotonic() - begin < 10


CHILD = """
import sys, numpy as np, deltapq
client = deltapq.Client(sys.argv[1], staging_bytes=2 << 20, name="doomed")
profile = bytes.fromhex(sys.argv[2])
kv = np.random.default_rng(8).standard_normal((2, 2, 2, 4000, 32)).astype(np.float16)
sequence = client.create_sequence(profile)
unused = client.create_sequence(profile)
for at in range(0, 4000, 50):
    reply = client.append(sequence, kv[:, :, :, at:at + 50], list(range(8000 + at, 8050 + at)))
    print(sequence.id, reply.n_tokens, flush=True)
"""


def test_killed_in_the_middle_of_append(client, profile, daemon):
    """Staging and the unused sequence are gone; what was acknowledged is there, for others too."""
    before = client.status()
    child = subprocess.Popen([sys.executable, "-c", CHILD, daemon.grpc_path, profile.hex()],
                             stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    for line in child.stdout:
        sequence_id, acknowledged = map(int, line.split())
        if acknowledged >= 500:
            child.send_signal(signal.SIGKILL)
            break
    acknowledged = max([acknowledged] + [int(x.split()[1]) for x in child.stdout])
    child.wait()
    want = (before.n_clients, before.staging_bytes, before.n_sequences + 1)
    for _ in range(600):
        after = client.status()
        if (after.n_clients, after.staging_bytes, after.n_sequences) == want:
            break
        time.sleep(0.05)
    assert (after.n_clients, after.staging_bytes, after.n_sequences) == want
    kv = np.random.default_rng(8).standard_normal((2, 2, 2, 4000, 32)).astype(np.float16)
    left = deltapq.Sequence(sequence_id, profile, GEOMETRY, n_tokens=acknowledged)
    got = client.read(left)
    assert ((got - kv[:, :, :, :acknowledged].astype(np.float32)) ** 2).mean() < 0.03
    tail = acknowledged - acknowledged % 128
    if acknowledged % 128:  # one append more may have sealed it, unacknowledged
        whole = client.read(left, tail, acknowledged - tail, dtype="f16")
        assert ((whole.astype(np.float32) - kv[:, :, :, tail:acknowledged]) ** 2).mean() < 0.03
    client.release(left, discard=True)
    assert client.status().n_sequences == before.n_sequences


def test_events(client, profile):
    watcher = client.watch(from_now=True)
    seen = []
    try:
        events = iter(watcher)
        time.sleep(0.3)
        sequence = client.create_sequence(profile)
        client.append(sequence, random_kv(128, 11), ids(11, 128))
        client.release(sequence, discard=True)
        for event in events:
            seen.append(event.WhichOneof("what"))
            if seen[-1] == "sequence_released":
                break
    finally:
        watcher.cancel()
    assert seen == ["sequence_created", "tile_stored", "sequence_released"]


def test_profile_comes_back_as_it_was(client, profile):
    data = client.get_profile(profile)
    assert client.install_profile(data) == profile
    assert [p for p in client.profiles() if p.profile_id == profile][0].file_bytes == len(data)
    again = client.calibrate(GEOMETRY, [(random_kv(2048, 9), 0)], model_name="tiny")
    assert again.profile_id == profile  # same samples, same seed
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.install_profile(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    assert e.value.reason == "PROFILE_CORRUPT"
