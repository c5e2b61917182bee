"""What outlives the daemon: every acknowledged token, under kill -9, with arenas kept by a service
manager or in files on a tmpfs. The manager here is a small one, not systemd.

DELTAPQ_RESTART_KILLS=300 (or DELTAPQ_FULL=1) for the nightly size."""

import array
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time

import pytest

pytest.importorskip("grpc")
import grpc  # noqa: E402
import numpy  # noqa: E402
from frame import Daemon  # noqa: E402
from rpc import (Stubs, append_request, calibrate_requests, open_channel, random_numbers,  # noqa: E402
                 refused, tensor_of)

KILLS = int(os.environ.get("DELTAPQ_RESTART_KILLS") or (300 if os.environ.get("DELTAPQ_FULL") else 10))
TENANT = {"tenant test": {"arena_bytes": "32M", "staging_bytes": "1M"}}
N_TEXTS, N_TOKENS = 6, 500

PASS = """import os, sys
fds = [int(x) for x in sys.argv[1].split(",") if x]
high = [os.dup2(fd, 400 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Keeps what it is told to keep, as systemd's descriptor store does, and passes it at the next start."""

    def __init__(self, directory):
        self.path = f"{directory}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.kept, self.messages = {}, []
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        while True:
            data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(64))
            fds = array.array("i")
            for level, kind, part in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(part[:len(part) - len(part) % fds.itemsize])
            if data == b"end":
                return
            self._take(dict(x.split("=", 1) for x in data.decode().splitlines()), list(fds))

    def _take(self, message, fds):
        self.messages.append(message)
        name = message.get("FDNAME")
        if message.get("FDSTORE") == "1" and fds:
            self._drop(name)
            self.kept[name] = fds.pop()
        elif message.get("FDSTOREREMOVE") == "1":
            self._drop(name)
        for fd in fds:  # the barrier's
            os.close(fd)

    def _drop(self, name):
        if name in self.kept:
            os.close(self.kept.pop(name))

    def start(self, daemon):
        fds, names = list(self.kept.values()), list(self.kept)
        daemon.fds = fds
        daemon.argv0 = [sys.executable, "-S", "-E", "-c", PASS, ",".join(map(str, fds))]
        daemon.env = {"NOTIFY_SOCKET": self.path}
        if fds:
            daemon.env.update(LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=":".join(names))
        daemon.spawn()

    def stop(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"end", self.path)
        self.thread.join()
        for name in list(self.kept):
            self._drop(name)
        self.socket.close()


class Kept:
    """A daemon whose arenas are kept, by a manager or in files."""

    def __init__(self, way, sections=TENANT):
        self.base = tempfile.mkdtemp(prefix="dpq-keep-", dir="/dev/shm")
        sections = {**sections, "daemon": {"cpu": "auto", **sections.get("daemon", {})}}
        self.arena_dir = f"{self.base}/arenas"
        if way == "files":
            sections["daemon"]["arena_dir"] = self.arena_dir
        self.manager = Manager(self.base) if way == "manager" else None
        self.daemon = Daemon(sections, start=False)

    def start(self, wait=True):
        if self.manager:
            self.manager.start(self.daemon)
        else:
            self.daemon.spawn()
        if wait:
            self.daemon.wait_log(r" ready: ")

    def kill(self, number=signal.SIGKILL):
        self.daemon.signal(number)
        return self.daemon.wait()

    def arenas(self):
        """Names of what is kept."""
        return set(self.manager.kept if self.manager else os.listdir(self.arena_dir))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.daemon.__exit__(*exc)
        if self.manager:
            self.manager.stop()
        shutil.rmtree(self.base, ignore_errors=True)


@pytest.fixture(params=["manager", "files"])
def kept(request):
    if request.param == "files" and not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    with Kept(request.param) as k:
        yield k


FAST = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 50))


@contextlib.contextmanager
def stubs_of(api, daemon):
    with open_channel(daemon.grpc_path, *FAST) as channel:
        yield Stubs(api, channel)


def make_profile(api, stubs):
    samples = [random_numbers(1024, seed) for seed in (1, 2)]
    return stubs.profiles.Calibrate(calibrate_requests(api, samples), timeout=120).profile_id


class Text:
    """Tokens, their numbers, and what a daemon makes of them in tiles."""

    def __init__(self, number):
        self.ids = [1000 * (number + 1) + i for i in range(N_TOKENS)]
        self.numbers = random_numbers(N_TOKENS, 100 + number)
        self.coded = None

    def expected(self, n, n_coded):
        return numpy.concatenate([self.coded[:, :, :, :n_coded], self.numbers[:, :, :, n_coded:n]], axis=3)


def create(api, stubs, profile_id, **fields):
    return stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id, **fields),
                                   timeout=60, wait_for_ready=True).sequence_id


def append(api, stubs, sequence, text, first, n):
    part = numpy.ascontiguousarray(text.numbers[:, :, :, first:first + n])
    return stubs.kv.Append(append_request(api, sequence, first, part, text.ids[first:first + n]),
                           timeout=60, wait_for_ready=True)


def read(api, stubs, sequence, n, timeout=60):
    out = numpy.empty((2, 2, 2, n, 32), "float16")
    reply = stubs.kv.Read(api.ReadRequest(sequence_id=sequence, n_tokens=n, tensor=tensor_of(api, out)),
                          timeout=timeout, wait_for_ready=True)
    return numpy.frombuffer(reply.inline_data, "float16").reshape(out.shape), reply.n_coded_tokens


def same(text, n, reply):
    got, n_coded = reply
    return got.tobytes() == numpy.ascontiguousarray(text.expected(n, n_coded)).tobytes()


# --- kill -9 under load --------------------------------------------------------------------------


class Entry:
    """A sequence and what was acknowledged of it."""

    def __init__(self, sequence, text):
        self.sequence, self.text, self.acked, self.released = sequence, text, 0, False


class Load:
    """Two clients that append and one that reads, for as long as the daemon comes and goes."""

    def __init__(self, api, daemon, profile_id, texts):
        self.api, self.daemon, self.profile_id, self.texts = api, daemon, profile_id, texts
        self.lock, self.entries, self.released, self.wrong = threading.Lock(), [], [], []
        self.n_acked = self.n_repeated = self.n_read = self.n_broken = 0
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(f, k))
                        for k, f in enumerate((self._append, self._append, self._read))]
        for thread in self.threads:
            thread.start()

    def _run(self, step, k):
        rng = random.Random(k)
        try:
            with stubs_of(self.api, self.daemon) as stubs:
                while not self.done.is_set():
                    try:
                        step(stubs, rng, k)
                    except grpc.RpcError as error:
                        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                            raise
                        self.n_broken += 1
        except BaseException as error:  # the main thread says so
            self.wrong.append(repr(error))

    def _release_oldest(self, stubs, mine):
        done = [e for e in mine if e.acked == N_TOKENS]
        if len(done) > 2:
            with self.lock:
                done[0].released = True
                self.entries.remove(done[0])
                self.released.append(done[0].sequence)
            with contextlib.suppress(grpc.RpcError):  # it may have been heard or not
                stubs.kv.Release(self.api.ReleaseRequest(sequence_id=done[0].sequence,
                                                         discard=True), timeout=60)

    def _append(self, stubs, rng, k):
        mine = [e for e in self.entries if e.owner == k]
        self._release_oldest(stubs, mine)
        entry = next((e for e in mine if e.acked < N_TOKENS), None)
        if not entry:
            entry = Entry(create(self.api, stubs, self.profile_id), rng.choice(self.texts))
            entry.owner, entry.wish = k, 0
            with self.lock:
                self.entries.append(entry)
        # what was asked for and not answered is asked for again, as it was
        entry.wish = entry.wish or min(rng.choice((1, 3, 40, 130)), N_TOKENS - entry.acked)
        try:
            reply = append(self.api, stubs, entry.sequence, entry.text, entry.acked, entry.wish)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND and entry.acked == 0:
                with self.lock:
                    self.entries.remove(entry)  # an empty sequence goes with its client
                return
            raise
        if reply.n_tokens != entry.acked + entry.wish:
            self.wrong.append(f"{reply.n_tokens} tokens after {entry.acked} and {entry.wish} more")
        with self.lock:
            entry.acked += entry.wish
            self.n_acked += entry.wish
        entry.wish = 0

    def _check(self, stubs, entry):
        n = entry.acked
        try:
            reply = read(self.api, stubs, entry.sequence, n)
        except grpc.RpcError as error:
            if entry.released:
                return
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                self.wrong.append(f"{n} acknowledged tokens: {error.code()}, {error.details()}")
            raise
        if not same(entry.text, n, reply):
            self.wrong.append(f"other numbers in {n} tokens of {entry.sequence}")
        self.n_read += n

    def _read(self, stubs, rng, _):
        with self.lock:
            acked = [e for e in self.entries if e.acked]
        if acked:
            self._check(stubs, rng.choice(acked))
        else:
            time.sleep(0.01)

    def check_all(self, stubs):
        with self.lock:
            entries = [e for e in self.entries if e.acked]
        for entry in entries:
            self._check(stubs, entry)
        assert not self.wrong, self.wrong

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join(120)


def learn(api, stubs, profile_id):
    """What whole texts are, decoded, by a daemon that nobody has killed yet."""
    texts = [Text(i) for i in range(N_TEXTS)]
    for text in texts:
        sequence = create(api, stubs, profile_id)
        append(api, stubs, sequence, text, 0, N_TOKENS)
        got, n_coded = read(api, stubs, sequence, N_TOKENS)
        assert n_coded == N_TOKENS // 128 * 128
        text.coded = got[:, :, :, :n_coded]
        stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))
    return texts


def test_kill_under_load(kept, api):
    rng = random.Random(5)
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, stubs)
        texts = learn(api, stubs, profile_id)
        load = Load(api, kept.daemon, profile_id, texts)
        try:
            for i in range(KILLS):
                early = rng.randrange(10) == 0
                time.sleep(rng.uniform(0.0, 0.05) if early else rng.uniform(0.05, 0.5))
                assert kept.kill() == -signal.SIGKILL
                kept.start(wait=rng.randrange(10) > 0)
                assert not load.wrong, (i, load.wrong)
                if i % 5 == 4:
                    load.check_all(stubs)
        finally:
            load.stop()
        kept.daemon.wait_log(r" ready: ")
        load.check_all(stubs)
        assert "took over an arena" in kept.daemon.log() and "damaged" not in kept.daemon.log()
        print(f"{KILLS} kills: {load.n_acked} tokens acknowledged, {load.n_read} read and compared, "
              f"{load.n_broken} calls broken off")
        assert load.n_acked > 20 * KILLS and load.n_read > 100 * KILLS
        for sequence in [e.sequence for e in load.entries] + load.released:
            try:
                stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))
            except grpc.RpcError as error:  # was heard the first time
                assert error.code() == grpc.StatusCode.NOT_FOUND and sequence in load.released
        status = stubs.monitor.GetStatus(api.GetStatusRequest())
        assert status.n_sequences == 0 and status.tail_bytes == 0
        # tiles of appends that were broken off may be cached; nothing else takes room
        lines = status.tile_stored_bytes - status.arena_used_bytes
        assert 128 * status.n_tiles <= lines <= 2 * 128 * status.n_tiles
        assert status.n_tiles <= load.n_broken


# --- one by one ----------------------------------------------------------------------------------


@pytest.fixture
def text(kept, api):
    """A daemon with one sequence of 300 tokens: (text, sequence, profile_id)"""
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, stubs)
        text = Text(0)
        sequence = create(api, stubs, profile_id)
        append(api, stubs, sequence, text, 0, 300)
        text.coded = read(api, stubs, sequence, 300)[0][:, :, :, :256]
    return text, sequence, profile_id


def test_prefix_and_epoch(kept, api, text):
    text, sequence, profile_id = text
    with stubs_of(api, kept.daemon) as stubs:
        ask = api.LookupRequest(profile_id=profile_id, token_ids=text.ids[:300], sequence_id=sequence,
                                slots=True)
        before = stubs.kv.Lookup(ask)
        kept.kill()
        kept.start()
        after = stubs.kv.Lookup(ask, wait_for_ready=True)
        assert after.epoch == before.epoch + 1
        assert after.n_tokens == 300 and after.n_tile_tokens == 256
        assert [t.SerializeToString() for t in after.tiles] == [t.SerializeToString() for t in before.tiles]
        adopted = create(api, stubs, profile_id, token_ids=text.ids[:256])
        assert same(text, 256, read(api, stubs, adopted, 256))
        assert same(text, 300, read(api, stubs, sequence, 300))


def test_stop_and_start(kept, api, text):
    """A stop in good order, too; and the manager hears of each arena once."""
    text, sequence, _ = text
    kept.daemon.stop()
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        assert same(text, 300, read(api, stubs, sequence, 300))
    assert "did not end in order" not in kept.daemon.log()
    assert kept.arenas() == {"arena-test"}
    if kept.manager:
        stored = [m["FDNAME"] for m in kept.manager.messages if m.get("FDSTORE") == "1"]
        assert stored == ["arena-test"]
        ready = [i for i, m in enumerate(kept.manager.messages) if m.get("READY") == "1"]
        assert ready and "FDSTORE" in kept.manager.messages[0]  # kept before it is said to be ready


def test_mapped_reads_while_down(kept, api, text):
    """A client goes on decoding from the shared memory while no daemon is there, and after."""
    deltapq = pytest.importorskip("deltapq")
    text, sequence, profile_id = text
    with deltapq.Client(kept.daemon.grpc_path, staging_bytes=1 << 20) as client:
        found = client.lookup(profile_id, text.ids[:300], slots=True)
        want = client.decode_local(profile_id, text.ids[:300], found=found, n=256, dtype="f16")
        kept.kill()
        for _ in range(20):
            got = client.decode_local(profile_id, text.ids[:300], found=found, n=256, dtype="f16")
            assert got.tobytes() == want.tobytes()
        kept.start()
        got = client.decode_local(profile_id, text.ids[:300], found=found, n=256, dtype="f16")
        assert got.tobytes() == want.tobytes()


def test_own_faults_are_counted(kept, api, text):
    """Kills do not count; the third fault is the last that gets the arena."""
    text, sequence, profile_id = text
    for _ in range(4):
        kept.kill()
        kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        assert same(text, 300, read(api, stubs, sequence, 300))
    for i in range(3):
        assert kept.kill(signal.SIGABRT) == -signal.SIGABRT
        kept.start()
        log = kept.daemon.log()
        if i < 2:
            assert re.search(rf"warning: .*: {i + 1} earlier runs with this arena ended by their own fault",
                             log), log
    assert re.search(r"error: tenant test: arena-test is not opened: FAULTS. It is kept as kept-test", log)
    assert kept.arenas() == {"arena-test", "kept-test"}
    with stubs_of(api, kept.daemon) as stubs:
        refused(api, "NOT_FOUND", "SEQUENCE", read, api, stubs, sequence, 300)
        sequence = create(api, stubs, profile_id)
        append(api, stubs, sequence, text, 0, 300)
        kept.kill()
        kept.start()
        assert same(text, 300, read(api, stubs, sequence, 300))
    assert kept.arenas() == {"arena-test", "kept-test"}


def test_another_size(kept, api, text):
    """A change of arena_bytes does not cost the cache."""
    text, sequence, _ = text
    kept.kill()
    with open(kept.daemon.config, encoding="utf-8") as file:
        config = file.read()
    with open(kept.daemon.config, "w", encoding="utf-8") as file:
        file.write(config.replace("arena_bytes = 32M", "arena_bytes = 16M"))
    kept.start()
    assert re.search(r"warning: .*the arena that was taken over has 33554432", kept.daemon.log())
    with stubs_of(api, kept.daemon) as stubs:
        assert same(text, 300, read(api, stubs, sequence, 300))
        assert stubs.kv.Attach(api.AttachRequest(protocol=1)).arena_bytes == 32 << 20


def test_arena_without_use():
    """What the manager keeps and nobody asks for is said, and kept on."""
    with Kept("manager") as kept:
        kept.start()
        kept.daemon.stop()
        with open(kept.daemon.config, encoding="utf-8") as file:
            config = file.read()
        with open(kept.daemon.config, "w", encoding="utf-8") as file:
            file.write(config.replace("[daemon]\n", f"[daemon]\narena_dir = {kept.arena_dir}\n"))
        kept.start()
        assert "the service manager keeps arena-test, which this configuration has no use for" in \
            kept.daemon.log()
        kept.daemon.stop()
        with open(kept.daemon.config, "w", encoding="utf-8") as file:
            file.write(config)
        kept.start()
        assert "took over an arena" in kept.daemon.log()


def test_another_version():
    """An arena of a version that this daemon does not know is kept, byte for byte."""
    with Kept("files") as kept:
        kept.start()
        kept.daemon.stop()
        path = f"{kept.arena_dir}/arena-test"
        with open(path, "r+b") as file:
            for at in (0, 1024):
                file.seek(at)
                file.write(b"NOARENA!")
            file.seek(0)
            before = file.read()
        kept.start()
        assert "arena-test is not opened: HEADER" in kept.daemon.log()
        with open(f"{kept.arena_dir}/kept-test", "rb") as file:
            assert file.read() == before
        assert kept.arenas() == {"arena-test", "kept-test"}


def test_refusals():
    """Where a file would not be memory, nothing starts."""
    with Daemon({"daemon": {"arena_dir": "/proc/deltapq"}}, start=False) as d:
        d.spawn()
        assert d.wait() == 1 and "arena_dir /proc/deltapq" in d.log()
