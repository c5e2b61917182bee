"""AppendStream and ReadStream: order, refusals, broken connections, killed clients, memory."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("grpc")
import grpc  # noqa: E402
import numpy as np  # noqa: E402
from frame import wait_until  # noqa: E402
from rpc import append_request, open_channel, random_numbers, refused, tensor_of  # noqa: E402

LAYERS, HEADS, DIM = 2, 2, 32
N_STALLED = 32


def create(api, stubs, profile_id, **fields):
    return stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id, **fields)).sequence_id


def release(api, stubs, sequence_id):
    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence_id, discard=True), timeout=60)


def chunk(api, sequence_id, first, numbers, token_ids=()):
    return append_request(api, sequence_id, first, np.ascontiguousarray(numbers), token_ids)


def read_all(api, stubs, sequence_id, n, **fields):
    """Put together from chunks, each place once."""
    out = np.full((LAYERS, 2, HEADS, n, DIM), np.nan, np.float16)
    for reply in stubs.kv.ReadStream(api.ReadStreamRequest(sequence_id=sequence_id, n_tokens=n, dtype=1,
                                                           **fields), timeout=60):
        shape = reply.n_layers, 2, HEADS, reply.n_tokens, DIM
        place = out[reply.first_layer:reply.first_layer + reply.n_layers, :, :,
                    reply.first_token:reply.first_token + reply.n_tokens]
        assert np.isnan(place).all()
        place[...] = np.frombuffer(reply.inline_data, np.float16).reshape(shape)
    assert not np.isnan(out).any()
    return out


def read_unary(api, stubs, sequence_id, n):
    out = np.empty((LAYERS, 2, HEADS, n, DIM), np.float16)
    data = stubs.kv.Read(api.ReadRequest(sequence_id=sequence_id, n_tokens=n, tensor=tensor_of(api, out))).inline_data
    return np.frombuffer(data, np.float16).reshape(out.shape)


class Stream:
    """An AppendStream, driven a step at a time."""

    def __init__(self, stubs, **how):
        self._ready, self._waiting, self._over = threading.Condition(), [], False
        self.call = stubs.kv.AppendStream(self._requests(), **how)

    def _requests(self):
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    return
                request = self._waiting.pop(0)
            yield request

    def put(self, *requests, over=False):
        with self._ready:
            self._waiting += requests
            self._over = self._over or over
            self._ready.notify()

    def ask(self, request):
        self.put(request)
        return next(self.call)

    def end(self):
        self.put(over=True)
        return list(self.call)


# --- what it does ---------------------------------------------------------------------------------


def test_each_request_is_acknowledged_in_order(api, stubs, profile_id):
    numbers, ids = random_numbers(700, 1), list(range(5000, 5700))
    sequence, stream = create(api, stubs, profile_id), Stream(stubs)
    at = 0
    for n in (1, 300, 99, 300):
        reply = stream.ask(chunk(api, 0 if at else sequence, at, numbers[:, :, :, at:at + n], ids[at:at + n]))
        at += n
        assert (reply.n_tokens, reply.n_tile_tokens) == (at, at // 128 * 128)
        # acknowledged is stored, for everybody
        assert read_unary(api, stubs, sequence, at).shape[3] == at
    assert stream.ask(api.AppendRequest()).n_tokens == 700
    again = stream.ask(chunk(api, sequence, 301, numbers[:, :, :, 301:400], ids[301:400]))
    assert (again.n_tokens, again.n_shared_tokens) == (700, 99)  # a repeated one
    assert stream.end() == []
    whole = create(api, stubs, profile_id)
    stubs.kv.Append(chunk(api, whole, 0, numbers))
    assert np.array_equal(read_unary(api, stubs, sequence, 700), read_unary(api, stubs, whole, 700))
    lookup = api.LookupRequest(profile_id=profile_id, token_ids=ids)
    assert stubs.kv.Lookup(lookup).n_tokens == 640
    release(api, stubs, sequence)
    release(api, stubs, whole)


def test_any_layout(api, stubs, profile_id):
    numbers = random_numbers(200, 2)
    backwards = np.ascontiguousarray(numbers[:, :, :, ::-1])
    tensor = tensor_of(api, backwards, offset=199 * backwards.strides[3])
    tensor.stride_token = -tensor.stride_token
    sequence, stream = create(api, stubs, profile_id), Stream(stubs)
    stream.ask(chunk(api, sequence, 0, backwards))
    with pytest.raises(grpc.RpcError):  # where it does not continue
        stream.ask(chunk(api, sequence, 0, backwards))
    other, stream = create(api, stubs, profile_id), Stream(stubs)
    request = chunk(api, other, 0, backwards)
    request.tensor.CopyFrom(tensor)
    assert stream.ask(request).n_tokens == 200
    stream.end()
    assert np.array_equal(read_unary(api, stubs, other, 200)[:, :, :, 128:], numbers[:, :, :, 128:])
    release(api, stubs, sequence)
    release(api, stubs, other)


def test_what_is_refused_ends_the_stream_and_leaves_the_rest(api, stubs, profile_id):
    numbers = random_numbers(100, 3)
    sequence, other = create(api, stubs, profile_id), create(api, stubs, profile_id)
    stubs.kv.Append(chunk(api, sequence, 0, numbers))
    bad = numbers.copy()
    bad[1, 0, 1, 7, 3] = np.inf
    nothing = chunk(api, sequence, 100, numbers)
    nothing.ClearField("tensor")
    large = chunk(api, sequence, 100, numbers)
    large.inline_data = bytes((1 << 20) + 1)
    ids = chunk(api, sequence, 100, numbers, [1, 2])
    staged = append_request(api, sequence, 100, numbers, client_id=7)
    for request, code, reason in (
            (chunk(api, sequence, 99, numbers), "OUT_OF_RANGE", "FIRST_TOKEN"),
            (chunk(api, sequence, 101, numbers), "OUT_OF_RANGE", "FIRST_TOKEN"),
            (chunk(api, sequence, 100, bad), "INVALID_ARGUMENT", "NOT_FINITE"),
            (nothing, "INVALID_ARGUMENT", "TENSOR"), (large, "INVALID_ARGUMENT", "INLINE_SIZE"),
            (ids, "INVALID_ARGUMENT", "TOKEN_IDS"), (staged, "INVALID_ARGUMENT", "CLIENT"),
            (chunk(api, other, 0, numbers), "INVALID_ARGUMENT", "SEQUENCE"),
            (chunk(api, sequence, 100, numbers.astype(np.float32)), "INVALID_ARGUMENT", "DTYPE")):
        # a good one after it is not taken
        requests = [api.AppendRequest(sequence_id=sequence), request, chunk(api, sequence, 100, numbers)]
        refusal = refused(api, code, reason, stubs.kv.AppendStream, iter(requests))
        assert refusal.message
        assert Stream(stubs).ask(api.AppendRequest(sequence_id=sequence)).n_tokens == 100
    refused(api, "NOT_FOUND", "SEQUENCE", stubs.kv.AppendStream, iter([api.AppendRequest(sequence_id=77)]))
    refused(api, "NOT_FOUND", "SEQUENCE", stubs.kv.AppendStream, iter([api.AppendRequest()]))
    assert list(stubs.kv.AppendStream(iter([]))) == []
    assert np.array_equal(read_unary(api, stubs, sequence, 100), numbers)
    release(api, stubs, sequence)
    release(api, stubs, other)


def test_deadline_and_cancel(api, stubs, profile_id):
    numbers = random_numbers(100, 4)
    sequence = create(api, stubs, profile_id)
    stream = Stream(stubs, timeout=0.3)
    assert stream.ask(chunk(api, sequence, 0, numbers)).n_tokens == 100
    with pytest.raises(grpc.RpcError) as e:
        next(stream.call)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    stream = Stream(stubs)
    assert stream.ask(chunk(api, sequence, 100, numbers)).n_tokens == 200
    stream.call.cancel()
    assert Stream(stubs).ask(api.AppendRequest(sequence_id=sequence)).n_tokens == 200
    release(api, stubs, sequence)


def test_read_in_chunks(api, stubs, profile_id):
    numbers = random_numbers(1000, 5)
    sequence = create(api, stubs, profile_id)
    stubs.kv.Append(chunk(api, sequence, 0, numbers))
    want = read_unary(api, stubs, sequence, 1000)
    cell = 2 * HEADS * DIM * 2  # bytes of one token of one layer
    for size in (0, 1 << 20, 256 * cell, 255 * cell, 3 * cell, cell):
        assert np.array_equal(read_all(api, stubs, sequence, 1000, max_chunk_bytes=size), want), size
    replies = list(stubs.kv.ReadStream(api.ReadStreamRequest(
        sequence_id=sequence, first_token=120, n_tokens=800, first_layer=1, dtype=1)))
    assert [(r.first_token, r.n_tokens, r.is_coded) for r in replies[:2]] == [(120, 8, True), (128, 128, True)]
    assert replies[-1].is_coded is False and replies[-1].generation == 7
    assert {(r.first_layer, r.n_layers) for r in replies} == {(1, 1)}
    assert list(stubs.kv.ReadStream(api.ReadStreamRequest(sequence_id=sequence))) == []
    for fields, code, reason in (
            (dict(n_tokens=1001), "OUT_OF_RANGE", "TOKEN_RANGE"),
            (dict(n_tokens=1, first_layer=2), "OUT_OF_RANGE", "LAYER_RANGE"),
            (dict(n_tokens=1, dtype=9), "INVALID_ARGUMENT", "TENSOR"),
            (dict(n_tokens=1, max_chunk_bytes=cell - 1, dtype=1), "INVALID_ARGUMENT", "CHUNK_SIZE"),
            (dict(n_tokens=1, max_chunk_bytes=(1 << 20) + 1), "INVALID_ARGUMENT", "CHUNK_SIZE"),
            (dict(n_tokens=1, sequence_id=99), "NOT_FOUND", "SEQUENCE")):
        refused(api, code, reason, stubs.kv.ReadStream,
                api.ReadStreamRequest(**{"sequence_id": sequence, **fields}))
    release(api, stubs, sequence)


# --- the Python client ----------------------------------------------------------------------------


@pytest.fixture
def client(proxy):
    deltapq = pytest.importorskip("deltapq")
    with deltapq.Client(proxy.path, staging_bytes=0) as client:
        yield client


def cut(proxy, seconds=0.4):
    proxy.refuse = True
    proxy.cut()
    threading.Timer(seconds, setattr, (proxy, "refuse", False)).start()


@pytest.mark.parametrize("with_ids", [True, False])
def test_goes_on_where_it_was(client, proxy, profile_id, with_ids):
    """Cut while it sends, and while it reads."""
    numbers, ids = random_numbers(6000, 6), list(range(20000, 26000)) if with_ids else None

    def pieces():
        for at in range(0, 6000, 500):
            if at in (1500, 4000):
                cut(proxy)
            part = numbers[:, :, :, at:at + 500]
            yield (part, ids[at:at + 500]) if with_ids else part

    sequence, plain = client.create_sequence(profile_id), client.create_sequence(profile_id)
    reply = client.append_stream(sequence, pieces(), chunk_bytes=64 << 10)
    assert reply.n_tokens == sequence.n_tokens == 6000
    client.append_stream(plain, numbers)
    n_chunks = 0
    with client.read_stream(sequence, dtype="f16") as chunks:
        for first, layer, array in chunks:
            n_chunks += 1
            assert array.shape[3] <= 128 and layer == 0
    assert n_chunks == 47
    threading.Timer(0.05, cut, (proxy,)).start()
    got = [client.read(sequence, dtype="f16", via="stream") for _ in range(20)]
    time.sleep(0.5)
    want = client.read(plain, dtype="f16", via="inline")
    assert all(np.array_equal(x, want) for x in got)
    part = client.read(plain, 100, 300, dtype="f16", layers=(1, 1), via="stream")
    assert np.array_equal(part, want[1:, :, :, 100:400])
    client.release(sequence, discard=True)
    client.release(plain, discard=True)


def test_mistakes_are_named(client, proxy, profile_id):
    deltapq = pytest.importorskip("deltapq")
    sequence = client.create_sequence(profile_id)
    with pytest.raises(ValueError, match="shape"):
        client.append_stream(sequence, random_numbers(5)[:, :, :1])
    with pytest.raises(ValueError, match="token ids"):
        client.append_stream(sequence, [(random_numbers(5), [1])])
    with pytest.raises(deltapq.DeltaPQError, match="INLINE_SIZE"):
        client.append_stream(sequence, random_numbers(5), chunk_bytes=100)
    with pytest.raises(ZeroDivisionError):
        client.append_stream(sequence, (random_numbers(x // x) for x in (1, 0)))
    assert client.append_stream(sequence, []) is None
    assert sequence.n_tokens == 1  # what it gave before it failed
    assert client.append_stream(sequence, random_numbers(5)).n_tokens == 6
    bad = random_numbers(600, 7)
    bad[0, 0, 0, 400] = np.nan
    other = client.create_sequence(profile_id)
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.append_stream(other, bad, chunk_bytes=100 * 512)
    assert e.value.reason == "NOT_FINITE" and other.n_tokens == 400
    proxy.refuse = True
    proxy.cut()
    with pytest.raises(deltapq.DeltaPQError) as e:
        client.append_stream(other, random_numbers(5), resume_seconds=0.5)
    assert e.value.code == "UNAVAILABLE"
    proxy.refuse = False


DOOMED = """
import sys, numpy as np, deltapq
client = deltapq.Client(sys.argv[1], staging_bytes=0, name="doomed")
sequence = client.create_sequence(bytes.fromhex(sys.argv[2]))
kv = np.random.default_rng(8).standard_normal((2, 2, 2, 100, 32)).astype(np.float16)
def forever():
    while True:
        print(sequence.id, sequence.n_tokens, flush=True)
        yield kv
client.append_stream(sequence, forever())
"""


def test_client_killed_midway(api, stubs, daemon, profile_id):
    """What it heard of is there, and so is at most what it sent."""
    child = subprocess.Popen([sys.executable, "-c", DOOMED, daemon.grpc_path, profile_id.hex()],
                             stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    for line in child.stdout:
        sequence, acknowledged = map(int, line.split())
        if acknowledged > 3000:
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    child.stdout.close()
    n = Stream(stubs).ask(api.AppendRequest(sequence_id=sequence)).n_tokens
    assert n >= acknowledged and n % 100 == 0
    kv = np.random.default_rng(8).standard_normal((2, 2, 2, 100, 32)).astype(np.float16)
    tail = n % 128
    if tail:  # 3,200 tokens have none
        got = np.empty((2, 2, 2, tail, 32), np.float16)
        reply = stubs.kv.Read(api.ReadRequest(sequence_id=sequence, first_token=n - tail, n_tokens=tail,
                                              tensor=tensor_of(api, got)))
        got = np.frombuffer(reply.inline_data, np.float16).reshape(got.shape)
        assert np.array_equal(got, np.concatenate([kv, kv], 3)[:, :, :, 200 - tail:])
    release(api, stubs, sequence)


# --- memory ---------------------------------------------------------------------------------------


def peak(api, stubs, daemon):
    """VmHWM without what is in the arena, which counts as it is written; bytes."""
    used = stubs.monitor.GetStatus(api.GetStatusRequest(), timeout=5).arena_used_bytes
    return daemon.peak_bytes() - used


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ,
                    reason="a sanitizer keeps what was freed")
def test_memory_of_stalled_readers(api, make_daemon):
    """Readers that take nothing, each on a connection of its own: a chunk each, and what their window
    has room for. Writers that send ahead as fast as they can: no more than 4 MiB each."""
    from rpc import Stubs, calibrate_requests
    d = make_daemon({"tenant test": {"arena_bytes": "256M"}, "daemon": {"cpu": "auto"}})
    channels = [open_channel(d.grpc_path) for _ in range(N_STALLED)]
    all_stubs = [Stubs(api, c) for c in channels]
    stubs = all_stubs[0]
    profile_id = stubs.profiles.Calibrate(calibrate_requests(
        api, [random_numbers(1024, seed) for seed in (1, 2)]), timeout=120).profile_id
    sequences = [create(api, stubs, profile_id) for _ in all_stubs]
    numbers = random_numbers(2048, 9)  # 1 MiB
    stubs.kv.Append(chunk(api, sequences[0], 0, numbers))
    start = peak(api, stubs, d)

    def push(stubs, sequence):
        requests = (chunk(api, sequence, 2048 * i, numbers) for i in range(sequence == sequences[0], 8))
        assert [r.n_tokens for r in stubs.kv.AppendStream(requests, timeout=300)][-1] == 8 * 2048

    threads = [threading.Thread(target=push, args=x) for x in zip(all_stubs, sequences)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = peak(api, stubs, d)
    calls = [s.kv.ReadStream(api.ReadStreamRequest(sequence_id=q, n_tokens=8 * 2048))
             for s, q in zip(all_stubs, sequences)]
    first = [next(call).first_token for call in calls]
    assert first == [0] * N_STALLED
    time.sleep(1)
    stalled = peak(api, stubs, d)
    print(f"peak: {start >> 20} MiB before, {written >> 20} with {N_STALLED} writers, "
          f"{stalled >> 20} with as many stalled readers")
    assert written - start < N_STALLED * 4 << 20
    assert stalled - start < N_STALLED * 4 << 20
    # nobody else suffers, and they go on when they like
    assert stubs.monitor.GetStatus(api.GetStatusRequest(), timeout=5).n_sequences == N_STALLED
    n = sum(reply.n_tokens for reply in calls[1])
    assert n == 8 * 2048 - 128
    for call in calls:
        call.cancel()
    for channel in channels:
        channel.close()
    wait_until(lambda: d.n_fds() < 40, what="the end of the connections")


# --- clients that take nothing --------------------------------------------------------------------


SMALL_WINDOW = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)


def test_stalled_streams_end(api, make_daemon):
    """What they hold is let go, as the raw tails show, which nobody else has any more."""
    from rpc import Stubs, calibrate_requests
    n_tokens = 8 * 2048 + 100
    d = make_daemon({"tenant test": {"arena_bytes": "64M"}, "daemon": {"stall_seconds": 3, "cpu": "auto"}})
    with open_channel(d.grpc_path, *SMALL_WINDOW) as channel:
        stubs = Stubs(api, channel)
        profile_id = stubs.profiles.Calibrate(calibrate_requests(
            api, [random_numbers(1024, seed) for seed in (1, 2)]), timeout=120).profile_id
        read, exported, taken = (create(api, stubs, profile_id) for _ in range(3))
        for sequence in (read, exported, taken):
            for at in range(0, n_tokens, 2048):
                n = min(2048, n_tokens - at)
                stubs.kv.Append(chunk(api, sequence, at, random_numbers(n, at), range(at, at + n)))
        calls = [stubs.kv.ReadStream(api.ReadStreamRequest(sequence_id=read, n_tokens=n_tokens), timeout=600),
                 stubs.kv.Export(api.ExportRequest(sequence_id=exported), timeout=600)]
        for call in calls:
            next(call)
        assert read_all(api, stubs, taken, n_tokens).shape[3] == n_tokens
        for sequence in (read, exported, taken):
            release(api, stubs, sequence)
        wait_until(lambda: stubs.monitor.GetStatus(api.GetStatusRequest()).tail_bytes == 0, timeout=60,
                   what="the end of stalled streams")
        for call in calls:
            refusal = refused(api, "UNAVAILABLE", None, lambda timeout: call)
            assert "took nothing for 3 s" in refusal.message
        assert stubs.monitor.GetStatus(api.GetStatusRequest()).errors == len(calls)
