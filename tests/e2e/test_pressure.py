"""A small arena, filled over and over: nothing is lost that was not announced, and nothing hangs."""

import random
import signal
import threading
import time

import pytest

pytest.importorskip("grpc")
import grpc  # noqa: E402
import numpy  # noqa: E402
from frame import Daemon  # noqa: E402
from rpc import (Refusal, Stubs, append_request, calibrate_requests,  # noqa: E402
                 open_channel, random_numbers, refused, tensor_of)

N_WRITERS, N_EACH, N_TOKENS = 2, 60, 300
PRESSED = {"daemon": {"cold_seconds": 0, "lease_seconds": 1, "event_history": 65536}}
SIZES = {"arena_bytes": "3M", "staging_bytes": "1M", "staging_total_bytes": "4M"}


@pytest.fixture(scope="module")
def daemon(make_daemon):
    return make_daemon({**PRESSED, "tenant test": SIZES})


def read_request(api, sequence_id, n_tokens):
    empty = random_numbers(n_tokens)
    return api.ReadRequest(sequence_id=sequence_id, n_tokens=n_tokens, tensor=tensor_of(api, empty))


def read(api, stubs, sequence_id, n_tokens):
    reply = stubs.kv.Read(read_request(api, sequence_id, n_tokens), timeout=60)
    return reply, numpy.frombuffer(reply.inline_data, "float16").reshape(
        random_numbers(n_tokens).shape)


class Watcher:
    """What the daemon announces, by sequence: where it ends, its generation, what was dropped."""

    def __init__(self, api, stubs):
        self.ends, self.generations, self.n_dropped = {}, {}, 0
        self.evicted_keys, self.lost = 0, 0
        self.resumed = set()  # sequences that were continued after they had been cut
        self.call = stubs.monitor.Watch(api.WatchRequest(from_now=True, queue=65536))
        self.call.initial_metadata()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        try:
            for message in self.call:
                self.lost = message.lost
                for event in message.events:
                    self._take(event)
        except grpc.RpcError:
            pass

    def _take(self, event):
        what = event.WhichOneof("what")
        body = getattr(event, what) if what else None
        if what == "tokens_evicted":
            assert body.n_tokens > 0
            self.ends[body.sequence_id] = body.first_token
        self.evicted_keys += what == "tile_evicted"
        self.n_dropped += what == "fine_dropped"
        if what in ("tokens_evicted", "fine_dropped", "tile_stored") and body.sequence_id:
            before = self.generations.get(body.sequence_id, 0)
            self.generations[body.sequence_id] = max(before, body.generation)


@pytest.fixture(scope="module")
def filled(api, daemon, stubs, profile_id):
    """Writers and a reader have been at it. (watcher, {sequence: numbers}, what the reader saw)

    A sequence that was cut while it was being written is written to its end again: what the watcher
    knows of its end was true only for a while. It may have been cut once more since."""
    watcher = Watcher(api, stubs)
    written, seen, done = {}, [], threading.Event()

    def write(seed):
        rng = random.Random(seed)
        with open_channel(daemon.grpc_path) as channel:
            mine = Stubs(api, channel)
            for i in range(N_EACH):
                numbers = random_numbers(N_TOKENS, seed=1000 * seed + i)
                sequence = mine.kv.CreateSequence(
                    api.CreateSequenceRequest(profile_id=profile_id), timeout=60).sequence_id
                at = 0
                while at < N_TOKENS:
                    n = min(rng.randrange(1, 200), N_TOKENS - at)
                    part = numpy.ascontiguousarray(numbers[:, :, :, at:at + n])
                    try:
                        mine.kv.Append(append_request(api, sequence, at, part), timeout=60)
                        at += n
                    except grpc.RpcError as error:
                        refusal = Refusal(api, error)
                        if refusal.reason == "ARENA_FULL":
                            assert refusal.retry_ms > 0
                            time.sleep(.01)
                        else:  # this very sequence was cut between two appends
                            assert refusal.reason == "EVICTED", refusal.message
                            watcher.resumed.add(sequence)
                            at = int(refusal.metadata["token"])
                written[sequence] = numbers

    def look():
        rng = random.Random(3)
        with open_channel(daemon.grpc_path) as channel:
            mine = Stubs(api, channel)
            while not done.is_set():
                if not written:
                    continue
                sequence = rng.choice(list(written))
                try:
                    _, numbers = read(api, mine, sequence, N_TOKENS)
                    seen.append(numpy.abs(numbers - written[sequence]).mean())
                except grpc.RpcError as error:
                    assert Refusal(api, error).reason == "EVICTED"

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(1, N_WRITERS + 1)]
    reader = threading.Thread(target=look)
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = stubs.monitor.GetStatus(api.GetStatusRequest())
        if status.tiles_evicted == watcher.evicted_keys and \
                status.fine_dropped <= watcher.n_dropped:
            break
        time.sleep(.05)
    yield watcher, written, seen
    watcher.call.cancel()


def is_whole(api, stubs, sequence):
    try:
        read(api, stubs, sequence, N_TOKENS)
    except grpc.RpcError as error:
        assert Refusal(api, error).reason == "EVICTED"
        return False
    return True


def test_everything_is_as_announced(api, stubs, filled):
    watcher, written, seen = filled
    assert len(written) == N_WRITERS * N_EACH and watcher.lost == 0
    assert len(watcher.ends) > N_EACH / 4, "the arena was never short of room"
    for sequence, numbers in written.items():
        n = watcher.ends.get(sequence, N_TOKENS)
        if sequence in watcher.resumed and is_whole(api, stubs, sequence):
            n = N_TOKENS
        if n < N_TOKENS:
            refusal = refused(api, "NOT_FOUND", "EVICTED", stubs.kv.Read,
                              read_request(api, sequence, N_TOKENS))
            assert refusal.metadata["token"] == str(n)
        if not n:
            continue
        reply, got = read(api, stubs, sequence, n)
        assert reply.generation == watcher.generations.get(sequence, 0)
        assert numpy.array_equal(got[:, :, :, reply.n_coded_tokens:],
                                 numbers[:, :, :, reply.n_coded_tokens:n])
        error = numpy.abs(got.astype("float32") - numbers[:, :, :, :n])
        assert error.mean() < .5
    assert seen and max(seen) < .5


def test_figures(api, stubs, filled):
    watcher, written, _ = filled
    status = stubs.monitor.GetStatus(api.GetStatusRequest())
    gone = sum(N_TOKENS - n for s, n in watcher.ends.items() if s in written)
    assert status.tokens_evicted >= gone > 0
    assert status.tiles_evicted == watcher.evicted_keys > 0
    assert status.fine_dropped > 0 and watcher.n_dropped >= status.fine_dropped
    assert status.objects_corrupt == 0


def n_dropped_in_stream(api, stubs, sequence_id, n_tokens):
    chunks = list(stubs.kv.ReadStream(api.ReadStreamRequest(sequence_id=sequence_id, n_tokens=n_tokens,
                                                            dtype=1), timeout=60))
    assert all(c.is_coded for c in chunks if c.is_dropped)
    return sum(c.n_tokens for c in chunks if c.is_dropped)


def test_dropped_is_marked(api, stubs, filled):
    watcher, written, _ = filled
    ends = {s: watcher.ends.get(s, N_TOKENS) for s in written}
    replies = {s: read(api, stubs, s, n)[0] for s, n in ends.items() if n}
    assert any(r.n_dropped_tokens for r in replies.values())
    assert any(r.n_dropped_tokens == 0 for r in replies.values())
    assert all(r.n_dropped_tokens <= r.n_coded_tokens for r in replies.values())
    for sequence, reply in replies.items():
        assert n_dropped_in_stream(api, stubs, sequence, ends[sequence]) == reply.n_dropped_tokens


def test_python_client_sees_the_mark(api, daemon, stubs, profile_id, filled):
    deltapq = pytest.importorskip("deltapq")
    watcher, written, _ = filled
    ends = {s: watcher.ends.get(s, N_TOKENS) for s in written}
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        geometry = client.geometry(profile_id)
        for sequence_id, n in ends.items():
            if not n:
                continue
            sequence = deltapq.Sequence(sequence_id, profile_id, geometry, n_tokens=n)
            n_dropped = 0
            with client.read_stream(sequence, dtype="f16") as chunks:
                for first, _, array in chunks:
                    n_dropped += chunks.is_dropped * array.shape[3]
                    assert chunks.is_coded == (first < n // 128 * 128)
            assert chunks.generation == watcher.generations.get(sequence_id, 0)
            assert n_dropped == read(api, stubs, sequence_id, n)[0].n_dropped_tokens


def test_kept_sequences_make_others_wait(api, stubs, profile_id, filled):
    numbers, kept = random_numbers(N_TOKENS, seed=7), []
    while len(kept) < 1000:
        sequence = stubs.kv.CreateSequence(api.CreateSequenceRequest(
            profile_id=profile_id, keep_fine=True, keep_tokens=True)).sequence_id
        try:
            stubs.kv.Append(append_request(api, sequence, 0, numbers), timeout=60)
        except grpc.RpcError as error:
            refusal = Refusal(api, error)
            break
        kept.append(sequence)
    assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "ARENA_FULL")
    assert refusal.retry_ms > 0
    began = time.monotonic()
    refused(api, "RESOURCE_EXHAUSTED", "ARENA_FULL", stubs.kv.Append,
            append_request(api, sequence, 0, numbers))
    assert time.monotonic() - began < 2
    for sequence in kept:
        reply, _ = read(api, stubs, sequence, N_TOKENS)
        assert reply.n_dropped_tokens == 0
    for sequence in kept:
        stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))


def test_watermarks_are_reloaded(api, make_daemon):
    """What was kept under the old watermarks goes with the next append under the new ones."""
    daemon = make_daemon({**PRESSED, "tenant test": SIZES})
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        samples = [random_numbers(1024, seed) for seed in (1, 2)]
        profile_id = stubs.profiles.Calibrate(calibrate_requests(api, samples),
                                              timeout=120).profile_id

        def used_percent():
            status = stubs.monitor.GetStatus(api.GetStatusRequest())
            return 100 * status.arena_used_bytes / status.arena_bytes

        def put(seed):
            sequence = stubs.kv.CreateSequence(
                api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
            ids = [seed * N_TOKENS + i for i in range(N_TOKENS)]
            stubs.kv.Append(append_request(api, sequence, 0, random_numbers(N_TOKENS, seed), ids))
            stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence))

        for seed in range(1000):
            if used_percent() > 60:
                break
            put(seed)
        assert stubs.monitor.GetStatus(api.GetStatusRequest()).fine_dropped == 0
        text = open(daemon.config, encoding="utf-8").read()
        with open(daemon.config, "w", encoding="utf-8") as file:
            file.write(text.replace("[daemon]", "[daemon]\nhigh_percent = 50\nlow_percent = 30"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("reload: high_percent is 50 now, was 95")
        daemon.wait_log("reload: low_percent is 30 now, was 90")
        put(seed + 1)
        assert used_percent() < 40
        assert stubs.monitor.GetStatus(api.GetStatusRequest()).fine_dropped > 0


def test_a_limit_that_is_too_low_is_said():
    with Daemon({"daemon": {"total_bytes": "4M"}, "tenant test": SIZES}, start=False) as daemon:
        daemon.spawn()
        assert daemon.wait() != 0
        assert "total_bytes allows 4.0 MiB" in daemon.log()
