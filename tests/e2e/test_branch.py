"""Forks, trims, deletions and pins: what they say, what reads give afterwards, and that all of it is
there after kill -9."""

import contextlib
import random
import signal
import threading
import time

import pytest

pytest.importorskip("grpc")
import grpc  # noqa: E402
import numpy  # noqa: E402
from rpc import append_request, events_of, random_numbers, refused, tensor_of  # noqa: E402
from test_restart import KILLS, Kept, create, kept, make_profile, stubs_of  # noqa: E402, F401

NUMBERS = random_numbers(2000, 77)


def append(api, stubs, sequence, first, n, at=None, ids=True):
    """n tokens of NUMBERS from at on (as in the sequence, by default)."""
    at = first if at is None else at
    part = numpy.ascontiguousarray(NUMBERS[:, :, :, at:at + n])
    return stubs.kv.Append(append_request(api, sequence, first, part, range(at, at + n) if ids else ()),
                           timeout=60, wait_for_ready=True)


def read(api, stubs, sequence, n):
    out = numpy.empty((2, 2, 2, max(n, 1), 32), "float16")
    reply = stubs.kv.Read(api.ReadRequest(sequence_id=sequence, n_tokens=n, tensor=tensor_of(api, out)),
                          timeout=60, wait_for_ready=True)
    return numpy.frombuffer(reply.inline_data, "float16").reshape(2, 2, 2, n, 32), reply


def same(a, b):
    return a.tobytes() == numpy.ascontiguousarray(b).tobytes()


def fork(api, stubs, sequence, n_tokens=0, fork_key=0):
    return stubs.kv.Fork(api.ForkRequest(sequence_id=sequence, n_tokens=n_tokens, fork_key=fork_key),
                         timeout=60, wait_for_ready=True)


def trim(api, stubs, sequence, n_tokens):
    return stubs.kv.Trim(api.TrimRequest(sequence_id=sequence, n_tokens=n_tokens), timeout=60,
                         wait_for_ready=True)


def pin(api, stubs, sequence, ttl_ms):
    return stubs.kv.Pin(api.PinRequest(sequence_id=sequence, ttl_ms=ttl_ms), timeout=60,
                        wait_for_ready=True).left_ms


def delete(api, stubs, sequence):
    return stubs.kv.Delete(api.DeleteRequest(sequence_id=sequence), timeout=60)


def n_stored(api, stubs, profile_id, ids):
    return stubs.kv.Lookup(api.LookupRequest(profile_id=profile_id, token_ids=ids)).n_tokens


# --- one by one ----------------------------------------------------------------------------------


def test_fork_and_trim(api, stubs, profile_id):
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 300)
    whole, _ = read(api, stubs, sequence, 300)
    reply = fork(api, stubs, sequence)
    branch = reply.sequence_id
    assert (reply.n_tokens, reply.n_tile_tokens, reply.n_lossy_tokens) == (300, 256, 0)
    append(api, stubs, sequence, 300, 100)
    append(api, stubs, branch, 300, 100, at=1000)
    assert same(read(api, stubs, branch, 300)[0][:, :, :, :256], whole[:, :, :, :256])
    assert same(read(api, stubs, branch, 400)[0][:, :, :, 384:], NUMBERS[:, :, :, 1084:1100])
    part = fork(api, stubs, branch, 200)  # through a tile
    assert (part.n_tokens, part.n_tile_tokens, part.n_lossy_tokens) == (200, 128, 72)
    got, reply = read(api, stubs, part.sequence_id, 200)
    assert same(got, whole[:, :, :, :200]) and reply.n_coded_tokens == 200
    before = read(api, stubs, branch, 0)[1].generation
    reply = trim(api, stubs, branch, 260)
    assert (reply.n_tokens, reply.n_tile_tokens, reply.n_lossy_tokens) == (260, 256, 4)
    assert reply.generation == before + 1 and reply.freed_bytes > 0
    got, reply = read(api, stubs, branch, 260)
    assert reply.generation == before + 1 and reply.n_coded_tokens == 260
    assert same(got[:, :, :, :256], whole[:, :, :, :256])
    append(api, stubs, branch, 260, 200, at=1300)  # fp16 behind decoded rows
    assert same(read(api, stubs, branch, 460)[0][:, :, :, 384:], NUMBERS[:, :, :, 1424:1500])
    assert n_stored(api, stubs, profile_id, range(400)) == 384
    for s in (sequence, branch, part.sequence_id):
        stubs.kv.Release(api.ReleaseRequest(sequence_id=s, discard=True))


def test_keys_go_on_after_a_trim(api, stubs, profile_id):
    """At a tile's end, and within the raw tail, the rest may be appended again, and is shared."""
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 200)
    trim(api, stubs, sequence, 150)
    append(api, stubs, sequence, 150, 150)
    assert n_stored(api, stubs, profile_id, range(300)) == 256
    trim(api, stubs, sequence, 128)
    reply = append(api, stubs, sequence, 128, 256)
    assert reply.n_shared_tokens == 128  # the tile that was cut off was cached
    assert n_stored(api, stubs, profile_id, range(384)) == 384
    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))


def test_delete(api, stubs, profile_id):
    """Private tiles go, the others are found; a fork keeps what it has."""
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 128)
    append(api, stubs, sequence, 128, 200, ids=False)
    want, _ = read(api, stubs, sequence, 328)
    branch = fork(api, stubs, sequence).sequence_id
    n_tiles = stubs.monitor.GetStatus(api.GetStatusRequest()).n_tiles
    assert delete(api, stubs, sequence).freed_bytes > 0  # the tail
    refused(api, "NOT_FOUND", "SEQUENCE", stubs.kv.Delete, api.DeleteRequest(sequence_id=sequence))
    assert same(read(api, stubs, branch, 328)[0], want)
    assert stubs.monitor.GetStatus(api.GetStatusRequest()).n_tiles == n_tiles
    delete(api, stubs, branch)
    assert stubs.monitor.GetStatus(api.GetStatusRequest()).n_tiles == n_tiles - 1
    assert n_stored(api, stubs, profile_id, range(256)) == 128


def test_errors(api, stubs, profile_id):
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 10)
    gone = sequence + 1
    for call, request, fields in ((stubs.kv.Fork, api.ForkRequest, {}),
                                  (stubs.kv.Trim, api.TrimRequest, {}),
                                  (stubs.kv.Delete, api.DeleteRequest, {}),
                                  (stubs.kv.Pin, api.PinRequest, {"ttl_ms": 1}),
                                  (stubs.kv.Unpin, api.UnpinRequest, {})):
        refused(api, "NOT_FOUND", "SEQUENCE", call, request(sequence_id=gone, **fields))
    refused(api, "OUT_OF_RANGE", "TOKEN_RANGE", stubs.kv.Trim,
            api.TrimRequest(sequence_id=sequence, n_tokens=11))
    refused(api, "OUT_OF_RANGE", "TOKEN_RANGE", stubs.kv.Fork,
            api.ForkRequest(sequence_id=sequence, n_tokens=11))
    for ttl_ms in (0, 86_400_001, 2**64 - 1):
        refused(api, "INVALID_ARGUMENT", "TTL", stubs.kv.Pin,
                api.PinRequest(sequence_id=sequence, ttl_ms=ttl_ms))
    assert not stubs.kv.Unpin(api.UnpinRequest(sequence_id=sequence)).was_pinned
    assert pin(api, stubs, sequence, 86_400_000) == 86_400_000
    assert pin(api, stubs, sequence, 5) > 86_000_000
    assert stubs.kv.Unpin(api.UnpinRequest(sequence_id=sequence)).was_pinned
    delete(api, stubs, sequence)


def test_events(api, stubs, profile_id):
    stream = stubs.monitor.Watch(api.WatchRequest(from_now=True), timeout=60)
    stream.initial_metadata()
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 10)
    branch = fork(api, stubs, sequence).sequence_id
    generation = trim(api, stubs, branch, 5).generation
    events = {}
    for event in events_of(stream):
        events[event.WhichOneof("what")] = event
        if "sequence_trimmed" in events:
            break
    stream.cancel()
    forked, trimmed = events["sequence_forked"].sequence_forked, events["sequence_trimmed"].sequence_trimmed
    assert (forked.sequence_id, forked.origin_id, forked.n_tokens) == (branch, sequence, 10)
    assert (trimmed.sequence_id, trimmed.n_tokens, trimmed.generation) == (branch, 5, generation)
    delete(api, stubs, sequence)
    delete(api, stubs, branch)


def test_python_client(daemon, profile_id):
    deltapq = pytest.importorskip("deltapq")
    with deltapq.Client(daemon.grpc_path, staging_bytes=2 << 20) as client:
        sequence = client.create_sequence(profile_id)
        client.append(sequence, NUMBERS[:, :, :, :300], range(5000, 5300))
        want = client.read(sequence)
        branch = client.fork(sequence)
        short = client.fork(sequence, 100)
        assert (branch.n_tokens, short.n_tokens) == (300, 100) and branch.geometry == sequence.geometry
        assert client.trim(sequence, 128).n_lossy_tokens == 0 and sequence.n_tokens == 128
        client.append(sequence, NUMBERS[:, :, :, 700:800], range(100))
        assert same(client.read(branch), want) and same(client.read(short), want[:, :, :, :100])
        assert client.pin(sequence, 10) == 10 and client.unpin(sequence) and not client.unpin(sequence)
        for s in (sequence, branch, short):
            client.delete(s)
        with pytest.raises(deltapq.DeltaPQError, match="SEQUENCE"):
            client.delete(short)


# --- kill -9 --------------------------------------------------------------------------------------


def test_restart(kept, api):  # noqa: F811
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, stubs)
        origin = create(api, stubs, profile_id)
        append(api, stubs, origin, 0, 200)
        append(api, stubs, origin, 200, 300, ids=False)
        want = {origin: read(api, stubs, origin, 500)[0]}
        for n in (500, 384, 450, 100):
            branch = fork(api, stubs, origin, n).sequence_id
            want[branch] = read(api, stubs, branch, n)[0]
            assert same(want[branch], want[origin][:, :, :, :n])
        trim(api, stubs, origin, 140)
        append(api, stubs, origin, 140, 400, at=900)
        want[origin] = read(api, stubs, origin, 540)[0]
        again = fork(api, stubs, branch).sequence_id
        want[again] = want[branch]
        empty = create(api, stubs, profile_id)
        begun = time.monotonic()
        pin(api, stubs, empty, 6000)
        for i in range(2):
            kept.kill()
            kept.start()
            for sequence, numbers in want.items():
                assert same(read(api, stubs, sequence, numbers.shape[3])[0], numbers), (i, sequence)
            refused(api, "OUT_OF_RANGE", "TOKEN_RANGE", stubs.kv.Read, api.ReadRequest(
                sequence_id=origin, n_tokens=541, tensor=tensor_of(api, NUMBERS)))
            read(api, stubs, empty, 0)
        left = pin(api, stubs, empty, 1) / 1000  # what is left is left
        assert 0 < left <= 6 - (time.monotonic() - begun) + 0.1
        delete(api, stubs, origin)
        del want[origin]
        kept.kill()
        kept.start()
        for sequence, numbers in want.items():
            assert same(read(api, stubs, sequence, numbers.shape[3])[0], numbers)
            delete(api, stubs, sequence)
        # the pin ends, and the empty sequence goes with it
        deadline = begun + 20
        while time.monotonic() < deadline:
            status = stubs.monitor.GetStatus(api.GetStatusRequest())
            if status.n_sequences == 0:
                break
            time.sleep(0.2)
        assert status.n_sequences == 0 and status.tail_bytes == 0
        assert time.monotonic() > begun + 6


class Branches:
    """A client that appends, forks, trims and deletes while the daemon is killed, and knows at each
    moment what a read may return: what it was, or what the request that was not answered makes of it."""

    def __init__(self, api, daemon, profile_id, seed):
        self.api, self.daemon, self.profile_id = api, daemon, profile_id
        self.rng, self.done, self.wrong = random.Random(seed), threading.Event(), []
        self.known = {}  # sequence: (numbers, generation)
        self.deleted = set()  # heard or not
        self.n_checked = self.n_broken = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with stubs_of(self.api, self.daemon) as self.stubs:
                while not self.done.is_set():
                    self._step()
        except BaseException as error:
            self.wrong.append(repr(error))

    def _again(self, call, *args):
        """Until it is answered."""
        while True:
            try:
                return call(self.api, self.stubs, *args)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                self.n_broken += 1
                if self.done.is_set():
                    return None

    def _once(self, call, *args):
        """None: not answered, and done or not."""
        try:
            return call(self.api, self.stubs, *args)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            self.n_broken += 1
            return None

    def _length(self, sequence):
        """What it has now: one more is refused, and says so."""
        try:
            read(self.api, self.stubs, sequence, 100_000)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.OUT_OF_RANGE:
                raise
            return int(error.details().split("has ")[1].split()[0])

    def _look(self, sequence):
        def both(api, stubs):
            n = self._length(sequence)
            return read(api, stubs, sequence, n)
        return self._again(both)

    def _check(self, sequence, lengths, n_stays):
        """The sequence has one of these lengths, and its first n_stays tokens are what they were."""
        got = self._look(sequence)
        if got is None:
            return
        numbers, reply = got
        old, generation = self.known[sequence]
        n = numbers.shape[3]
        n_same = min(n, old.shape[3]) if reply.generation == generation else n_stays
        if n not in lengths:
            self.wrong.append(f"{n} tokens where {lengths} are possible")
        elif not same(numbers[:, :, :, :n_same], old[:, :, :, :n_same]):
            self.wrong.append(f"other numbers in the first {n_same} tokens of {n}")
        self.known[sequence] = numbers, reply.generation
        self.n_checked += n

    def _step(self):
        if not self.known:
            sequence = self._again(create, self.profile_id)
            reply = sequence and self._once(append, sequence, 0, 50)
            if sequence and not reply:
                self.deleted.add(sequence)  # it may be gone: nobody had appended to it; or be there
            if reply:
                self.known[sequence] = numpy.empty((2, 2, 2, 0, 32), "float16"), 0
                self._check(sequence, (50,), 0)
            return
        sequence = self.rng.choice(list(self.known))
        old, _ = self.known[sequence]
        n = old.shape[3]
        {True: self._append, False: self.rng.choice((self._trim, self._fork, self._delete, self._pin))}[
            self.rng.random() < 0.6](sequence, n)

    def _append(self, sequence, n):
        k, at = self.rng.choice((1, 20, 100, 150)), self.rng.randrange(1000)
        if n + k > 700:
            return self._trim(sequence, n)
        reply = self._once(append, sequence, n, k, at, self.rng.random() < 0.5)
        self._check(sequence, (n + k,) if reply else (n, n + k), n // 128 * 128)
        numbers = self.known[sequence][0]
        n_raw = numbers.shape[3] % 128  # the tail's end is bit for bit what was appended
        if numbers.shape[3] == n + k and n_raw:
            n_new = min(n_raw, k)
            if not same(numbers[:, :, :, n + k - n_new:], NUMBERS[:, :, :, at + k - n_new:at + k]):
                self.wrong.append(f"not what was appended in the last {n_new} tokens")

    def _trim(self, sequence, n):
        to = self.rng.choice((n, max(n - 3, 0), n // 128 * 128, self.rng.randrange(n + 1)))
        reply = self._once(trim, sequence, to)
        self._check(sequence, (to,) if reply else (n, to), to)

    def _fork(self, sequence, n):
        if len(self.known) > 6:
            return self._delete(sequence, n)
        to = self.rng.choice((0, self.rng.randrange(n + 1)))
        reply = self._again(fork, sequence, to, self.rng.randrange(1, 2**64))
        if reply:
            numbers, _ = self.known[sequence]
            self.known[reply.sequence_id] = numbers[:, :, :, :to or n], reply.generation
            self._check(reply.sequence_id, (to or n,), to or n)
        self._check(sequence, (n,), n)

    def _delete(self, sequence, n):
        if len(self.known) > 2:
            del self.known[sequence]
            self.deleted.add(sequence)
            with contextlib.suppress(grpc.RpcError):
                delete(self.api, self.stubs, sequence)

    def _pin(self, sequence, n):
        self._once(pin, sequence, 60_000)
        self._check(sequence, (n,), n)


@pytest.mark.slow
def test_kill_among_branches(kept, api):  # noqa: F811
    rng = random.Random(6)
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, stubs)
    clients = [Branches(api, kept.daemon, profile_id, seed) for seed in (1, 2)]
    try:
        for i in range(KILLS):
            time.sleep(rng.uniform(0.05, 0.5))
            assert kept.kill() == -signal.SIGKILL
            kept.start()
            assert not any(c.wrong for c in clients), (i, [c.wrong for c in clients])
        time.sleep(0.3)
    finally:
        for client in clients:
            client.done.set()
        for client in clients:
            client.thread.join(120)
    assert not any(c.wrong for c in clients), [c.wrong for c in clients]
    assert "damaged" not in kept.daemon.log() and "not in the arena any more" not in kept.daemon.log()
    assert all(c.n_checked > 100 * KILLS for c in clients)
    with stubs_of(api, kept.daemon) as stubs:  # nothing is there that its client does not know
        for client in clients:
            for sequence in set(client.known) | client.deleted:
                with contextlib.suppress(grpc.RpcError):
                    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True), timeout=60)
        status = stubs.monitor.GetStatus(api.GetStatusRequest())
    assert status.n_sequences == 0 and status.tail_bytes == 0, status
    print(f"{KILLS} kills: {sum(c.n_checked for c in clients)} tokens read and compared, "
          f"{sum(c.n_broken for c in clients)} calls broken off")
