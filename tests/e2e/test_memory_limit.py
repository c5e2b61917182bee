"""A control group whose limit leaves the daemon just what it asks for: it refuses what does not fit,
makes room and pushes back, and is never killed. Skipped where no group can be made."""

import contextlib
import os
import socket
import struct
import tempfile
import threading
import time

import pytest

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")
import grpc  # noqa: E402
import numpy  # noqa: E402
from frame import PREFACE, Daemon, wait_until  # noqa: E402
from rpc import (Refusal, Stubs, append_request, calibrate_requests, events_of, open_channel,  # noqa: E402
                 random_numbers, tensor_of)

pytestmark = pytest.mark.skipif("ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ,
                                reason="a sanitizer takes memory of its own")
MIB = 1 << 20
ARENA, STAGING, RESERVE = 64, 16, 64  # MiB; the last with two workers
N_CLIENTS, N_TOKENS = 8, 2048
ENTER = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']


class Group:
    """A memory control group with a limit, of either version, directly under the root."""

    def __init__(self, limit_bytes):
        self.path, self.is_v1 = self._make()
        self._write("memory.limit_in_bytes" if self.is_v1 else "memory.max", limit_bytes)
        # swap would hide what is too much
        self._write("memory.memsw.limit_in_bytes" if self.is_v1 else "memory.swap.max",
                    limit_bytes if self.is_v1 else 0, may_fail=True)

    @staticmethod
    def _make():
        reasons = []
        for root, is_v1 in (("/sys/fs/cgroup/memory", True), ("/sys/fs/cgroup", False)):
            if not os.path.exists(f"{root}/cgroup.procs"):
                continue
            try:
                path = tempfile.mkdtemp(prefix="deltapq-test-", dir=root)
            except OSError as error:
                reasons.append(str(error))
                continue
            if os.path.exists(f"{path}/memory.limit_in_bytes" if is_v1 else f"{path}/memory.max"):
                return path, is_v1
            os.rmdir(path)
            reasons.append(f"{root} does not count memory")
        pytest.skip("; ".join(reasons) or "there are no control groups")

    def _write(self, name, value, may_fail=False):
        try:
            with open(f"{self.path}/{name}", "w", encoding="ascii") as file:
                file.write(str(value))
        except OSError as error:
            if not may_fail:
                pytest.skip(str(error))

    def _read(self, name):
        with open(f"{self.path}/{name}", encoding="ascii") as file:
            return file.read()

    def n_killed(self):
        text = self._read("memory.oom_control" if self.is_v1 else "memory.events")
        return dict(line.split() for line in text.splitlines())["oom_kill"]

    def peak_bytes(self):
        name = "memory.max_usage_in_bytes" if self.is_v1 else "memory.peak"
        return int(self._read(name)) if os.path.exists(f"{self.path}/{name}") else 0

    def remove(self):
        os.rmdir(self.path)


@pytest.fixture
def group():
    made = Group((ARENA + STAGING + RESERVE) * MIB)
    yield made
    wait_until(lambda: not made._read("cgroup.procs"), what="the end of what is in the group")
    made.remove()


def daemon_in(group, arena_mib, **options):
    return Daemon({"tenant test": {"arena_bytes": f"{arena_mib}M", "staging_bytes": "2M",
                                   "staging_total_bytes": f"{STAGING}M"},
                   "daemon": {"cold_seconds": 0, "cpu": "auto", "workers": 2}}, argv0=[*ENTER, group.path], **options)


def test_what_does_not_fit_is_refused(group):
    with daemon_in(group, ARENA + 1, start=False) as d:
        d.spawn()
        assert d.wait() > 0
        assert f"control group has a memory limit (memory.max, MemoryMax=) of {ARENA + STAGING + RESERVE}.0 MiB" \
            in d.log()
    assert group.n_killed() == "0"


def test_what_is_large_is_asked_first(api, group):
    """A calibration, and a profile, of a model that is much larger than what is left."""
    with daemon_in(group, ARENA) as d, open_channel(d.grpc_path) as channel:
        stubs = Stubs(api, channel)
        wide = dict(n_layers=1, n_kv_heads=8, n_q_heads=8, head_dim=128, rotary_dim=128)
        numbers = numpy.random.default_rng(0).standard_normal((1, 2, 8, 256, 128)).astype("float16")
        with pytest.raises(grpc.RpcError) as caught:
            stubs.profiles.Calibrate(calibrate_requests(api, [numbers] * 8, **wide), timeout=120)
        refusal = Refusal(api, caught.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY")
        assert "calibrating with these samples takes " in refusal.message and not refusal.retry_ms
        for n_bytes in 64 * MIB, 1 << 30:
            with pytest.raises(grpc.RpcError) as caught:
                stubs.profiles.Install(api.InstallRequest(data=bytes(MIB), total_bytes=n_bytes), timeout=60)
            assert Refusal(api, caught.value).reason == "MEMORY"
        stubs.profiles.Calibrate(calibrate_requests(  # what is small has room
            api, [random_numbers(1024, seed) for seed in (1, 2)]), timeout=120)
    assert group.n_killed() == "0"


def fill(api, d, profile_id, seed, refusals):
    """Appends, through a stream with all that it lets ahead, that others have to give way to; a reader that
    stops beside it."""
    with open_channel(d.grpc_path) as channel, deltapq.Client(d.grpc_path, staging_bytes=2 * MIB) as client:
        assert client.staging.size == 2 * MIB
        stubs = Stubs(api, channel)
        numbers, calls = random_numbers(N_TOKENS, seed), []
        for i in range(12):
            sequence = stubs.kv.CreateSequence(api.CreateSequenceRequest(
                profile_id=profile_id, keep_tokens=i % 3 == 0, keep_fine=i % 3 == 0)).sequence_id
            requests = (append_request(api, sequence, at, numpy.ascontiguousarray(numbers))
                        for at in range(0, 4 * N_TOKENS, N_TOKENS))
            try:
                n = [reply.n_tokens for reply in stubs.kv.AppendStream(requests, timeout=300)][-1]
                calls.append(stubs.kv.ReadStream(api.ReadStreamRequest(sequence_id=sequence, n_tokens=n)))
                next(calls[-1])
            except grpc.RpcError as error:
                refusals.append(Refusal(api, error).reason)
        for call in calls:
            call.cancel()


def test_it_is_never_killed(api, group):
    refusals = []
    with daemon_in(group, ARENA) as d, open_channel(d.grpc_path) as channel:
        stubs = Stubs(api, channel)
        profile_id = stubs.profiles.Calibrate(calibrate_requests(
            api, [random_numbers(1024, seed) for seed in (1, 2)]), timeout=120).profile_id
        threads = [threading.Thread(target=fill, args=(api, d, profile_id, seed, refusals))
                   for seed in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = stubs.monitor.GetStatus(api.GetStatusRequest())
        print(f"{status.arena_used_bytes >> 20} of {ARENA} MiB in use, {status.fine_dropped} planes dropped, "
              f"{status.tokens_evicted} tokens evicted, {len(refusals)} streams refused; the group had "
              f"{group.peak_bytes() / MIB:.0f} of {ARENA + STAGING + RESERVE} MiB at most")
        # tiles of a model as small as this take all slots before all bytes
        assert status.arena_used_bytes > .6 * ARENA * MIB
        assert status.fine_dropped and refusals and set(refusals) <= {"ARENA_FULL", "EVICTED"}
    assert group.n_killed() == "0"


N_CLIENTS_AT_ONCE, N_CALLS = 32, 24
N_EVENTS = 600
SMALL_CHUNK = 17 * 256  # bytes: more than are not counted, less than a message with as many events
N_DEEP = 32  # layers of a model of which 128 tokens have 1 MiB
STINGY = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1)  # no more than is waited for


def deep_numbers(seed):
    return numpy.random.default_rng(seed).standard_normal((N_DEEP, 2, 2, 128, 32)).astype("float16")


def deep_read(api, sequence):
    return api.ReadRequest(sequence_id=sequence, n_tokens=128,
                           tensor=tensor_of(api, numpy.empty((N_DEEP, 2, 2, 128, 32), "float16")))


def deep_sequence(api, stubs):
    """A profile, and a sequence with a tile that stays as it is."""
    profile_id = stubs.profiles.Calibrate(calibrate_requests(
        api, [deep_numbers(seed) for seed in range(8)], n_layers=N_DEEP), timeout=120).profile_id
    sequence = stubs.kv.CreateSequence(api.CreateSequenceRequest(
        profile_id=profile_id, keep_tokens=True, keep_fine=True)).sequence_id
    request = append_request(api, sequence, 0, deep_numbers(1))
    assert len(request.inline_data) == MIB
    stubs.kv.Append(request, timeout=60)
    return profile_id, sequence


def finish(api, calls):
    """What comes of calls: the replies, and why others were refused."""
    replies, refusals = [], []
    for call in calls:
        try:
            replies.append(call.result())
        except grpc.RpcError as error:
            refusals.append(Refusal(api, error))
    return replies, refusals


def test_messages_have_room(api, group):
    """Clients that ask for far more than there is, and take nothing; then all read and append at once."""
    with daemon_in(group, ARENA) as d, contextlib.ExitStack() as stack:
        clients = [Stubs(api, stack.enter_context(open_channel(d.grpc_path, *STINGY)))
                   for _ in range(N_CLIENTS_AT_ONCE)]
        first, other = clients[0], Stubs(api, stack.enter_context(open_channel(d.grpc_path)))
        profile_id, sequence = deep_sequence(api, first)
        expected = first.kv.Read(deep_read(api, sequence), timeout=60).inline_data
        for _ in range(N_EVENTS):
            first.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id))

        def read_streams(**fields):
            """Many, all at once, until most of them have been refused."""
            some = [c.kv.ReadStream(api.ReadStreamRequest(sequence_id=sequence, n_tokens=128, **fields),
                                    timeout=60) for c in clients for _ in range(N_CALLS)]
            wait_until(lambda: sum(s.done() for s in some) > len(some) / 2, 60, "streams to be refused")
            return some

        streams = read_streams() + read_streams(max_chunk_bytes=SMALL_CHUNK)
        with pytest.raises(grpc.RpcError) as caught:
            first.kv.Read(deep_read(api, sequence), timeout=60)
        refusal = Refusal(api, caught.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY")
        assert refusal.retry_ms and "no room for a reply of 1048" in refusal.message
        with pytest.raises(grpc.RpcError) as caught:
            first.kv.Append(append_request(api, sequence, 128, deep_numbers(2)), timeout=60)
        assert "no room for a request of 1048" in Refusal(api, caught.value).message
        watch = other.monitor.Watch(api.WatchRequest(), timeout=60)  # its events wait
        next(watch)
        time.sleep(.1)  # for what would be refused to be refused
        for stream in streams:
            stream.cancel()
        assert len(list(zip(range(N_EVENTS), events_of(watch)))) == N_EVENTS

        def read_again():
            try:
                return first.kv.Read(deep_read(api, sequence), timeout=60).inline_data == expected
            except grpc.RpcError as error:
                assert Refusal(api, error).reason == "MEMORY"
                return False
        wait_until(read_again, 60, "room for a reply")

        replies, refusals = finish(api, [c.kv.Read.future(deep_read(api, sequence), timeout=60)
                                         for c in clients for _ in range(N_CALLS)])
        assert replies and all(reply.inline_data == expected for reply in replies)
        assert {r.reason for r in refusals} <= {"MEMORY"}
        own = [c.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
               for c in clients]
        appends = [c.kv.Append.future(append_request(api, s, 0, deep_numbers(1)), timeout=60)
                   for c, s in zip(clients, own)]
        appended, refusals = finish(api, appends)
        assert appended and {r.reason for r in refusals} <= {"MEMORY"}
        assert read_again()
        print(f"{len(replies)} of {len(clients) * N_CALLS} reads and {len(appended)} of {len(appends)} appends of 1 MiB "
              f"at once; the group had {group.peak_bytes() / MIB:.0f} of {ARENA + STAGING + RESERVE} MiB at most")
    assert group.n_killed() == "0"


class HalfSent:
    """A connection with calls whose requests never end: as much of each as the daemon lets in, but the last
    byte. HTTP/2 by hand, since no library would do that."""

    HEADERS = ((":method", "POST"), (":scheme", "http"), (":path", "/deltapq.v1.KvCache/Append"),
               (":authority", "daemon"), ("te", "trailers"), ("content-type", "application/grpc"))
    BYTES = 4 * MIB

    def __init__(self, path, n_calls):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.sendall(PREFACE)
        self.window, self.unread = 65535, b""
        self.left = {1 + 2 * i: self.BYTES - 1 for i in range(n_calls)}  # by stream
        self.windows = dict.fromkeys(self.left, 65535)
        self.n_sent = 0
        block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode()
                         for k, v in self.HEADERS)
        for stream in self.left:
            self._frame(1, 4, stream, block)  # HEADERS, all of them
            self._send(stream, b"\0" + struct.pack(">I", self.BYTES))

    def _frame(self, kind, flags, stream, payload):
        self.socket.sendall(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) +
                            struct.pack(">I", stream) + payload)

    def _send(self, stream, payload):
        self._frame(0, 0, stream, payload)
        self.window -= len(payload)
        self.windows[stream] -= len(payload)
        self.n_sent += len(payload)

    def _take(self, kind, flags, stream, payload):
        if kind == 8:  # WINDOW_UPDATE
            n = struct.unpack(">I", payload)[0]
            if stream:
                self.windows[stream] += n
            else:
                self.window += n
        elif kind == 3 or kind == 1 and flags & 1:  # RST_STREAM, or HEADERS that end the call
            self.left.pop(stream, None)
        elif kind == 4 and not flags & 1:  # SETTINGS
            self._frame(4, 1, 0, b"")
            for i in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[i:i + 6])
                if key == 4:  # INITIAL_WINDOW_SIZE
                    for stream_ in self.windows:
                        self.windows[stream_] += value - 65535
        elif kind == 6 and not flags & 1:  # PING
            self._frame(6, 1, 0, payload)

    def read(self):
        """False: nothing came for a while, or the daemon has closed the connection."""
        self.socket.settimeout(.2)
        try:
            got = self.socket.recv(1 << 16)
        except TimeoutError:
            return False
        self.unread += got
        while len(self.unread) >= 9:
            n = int.from_bytes(self.unread[:3], "big")
            if len(self.unread) < 9 + n:
                break
            head, payload = self.unread[:9], self.unread[9:9 + n]
            self.unread = self.unread[9 + n:]
            self._take(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
        return bool(got)

    def write(self):
        """As much as the windows allow; how many bytes."""
        before = self.n_sent
        for stream in list(self.left):
            n = min(self.left[stream], self.window, self.windows[stream], 16384)
            if n > 0:
                self._send(stream, bytes(n))
                self.left[stream] -= n
        return self.n_sent - before

    def run(self):
        try:
            while self.write() or self.read():
                pass
        except OSError:
            pass


def test_incomplete_messages_have_a_limit(api, group):
    with daemon_in(group, ARENA) as d, open_channel(d.grpc_path) as channel:
        stubs = Stubs(api, channel)
        _, sequence = deep_sequence(api, stubs)
        clients = [HalfSent(d.grpc_path, N_CALLS) for _ in range(N_CLIENTS_AT_ONCE)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        n_sent = sum(client.n_sent for client in clients)
        print(f"{n_sent / MIB:.0f} MiB of incomplete requests sent, {sum(len(c.left) for c in clients)} of "
              f"{N_CLIENTS_AT_ONCE * N_CALLS} calls left; the group had "
              f"{group.peak_bytes() / MIB:.0f} of {ARENA + STAGING + RESERVE} MiB at most")
        for client in clients:
            client.socket.close()
        wait_until(lambda: stubs.kv.Read(deep_read(api, sequence), timeout=60).inline_data, 60, "a reply")
    assert group.n_killed() == "0"
