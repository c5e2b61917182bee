"""A daemon under test, and the plainest of clients: what the tests of its frame need, without gRPC."""

import contextlib
import os
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pytest

BINARY = os.environ.get("DELTAPQD", "deltapqd")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SIDE_MAGIC = 0x31515044


def write_config(directory, sections):
    """sections: {name: {key: value}}, laid over what makes a small daemon that tests may talk to."""
    merged = {
        "daemon": {"runtime_dir": f"{directory}/run", "state_dir": f"{directory}/state",
                   "allow_same_uid": "true", "grace_seconds": 2, "log_level": "debug"},
        "http": {"listen": "127.0.0.1:0"},
        "tenant test": {"uids": "self", "arena_bytes": "4M", "staging_bytes": "1M",
                        "staging_total_bytes": "4M"},
    }
    for name, keys in sections.items():
        merged.setdefault(name, {}).update(keys)
    path = f"{directory}/deltapqd.conf"
    with open(path, "w", encoding="utf-8") as file:
        for name, keys in merged.items():
            file.write(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))
    return path


class Daemon:
    """Starts deltapqd in a directory of its own; stop() asserts a clean end."""

    def __init__(self, sections=None, nofile=None, env=None, argv0=(), start=True, fds=()):
        self.directory = tempfile.mkdtemp(prefix="dpq-")
        self.config = write_config(self.directory, sections or {})
        self.grpc_path = f"{self.directory}/run/grpc.sock"
        self.side_path = f"{self.directory}/run/fd.sock"
        self.log_path = f"{self.directory}/log"
        self.nofile, self.env, self.argv0, self.fds = nofile, env or {}, list(argv0), fds
        self.process, self.log_from = None, 0
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if self.process and self.process.poll() is None:
                if kind is None:
                    self.stop()
                else:
                    self.process.kill()
                    self.process.wait()
        finally:
            if kind is not None:
                print(self.log())
            shutil.rmtree(self.directory, ignore_errors=True)

    def spawn(self):
        """Without waiting for it to be ready."""
        def limit():
            if self.nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))

        with open(self.log_path, "ab") as log:
            self.log_from = log.tell()
            self.process = subprocess.Popen(
                [*self.argv0, BINARY, "--config", self.config], stderr=log, preexec_fn=limit,
                env={**os.environ, **self.env}, pass_fds=self.fds)
        return self.process

    def start(self):
        self.spawn()
        self.wait_log(r" ready: ")

    def log(self):
        """Of the last start."""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            file.seek(self.log_from)
            return file.read()

    def wait_log(self, pattern, timeout=30):
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.log())
            if found:
                return found
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log()}"
            assert time.monotonic() < end, f"no {pattern!r} in: {self.log()}"
            time.sleep(0.02)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=30):
        return self.process.wait(timeout)

    def stop(self, timeout=30):
        self.signal()
        if "TSAN_OPTIONS" in os.environ:
            self._ask_again()
        code = self.wait(timeout)
        assert code == 0, f"ended with {code}: {self.log()}"
        assert "runtime error" not in self.log(), self.log()

    def _ask_again(self):
        """gcc 12's thread sanitizer forgets a signal that comes just before epoll_wait(): of those
        sent right after the start, one in ten. Nothing is pending then, and the handler never ran."""
        try:
            self.wait(5)
        except subprocess.TimeoutExpired:
            if ": stopping" not in self.log():
                self.signal()

    def peak_bytes(self):
        """VmHWM: the most memory that it has had."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def url(self, path):
        return f"http://127.0.0.1:{self.wait_log(r'status pages on http://127.0.0.1:([0-9]+)/')[1]}{path}"

    def get(self, path, method="GET", data=None):
        """(status, headers, text)"""
        request = urllib.request.Request(self.url(path), method=method, data=data)
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return reply.status, reply.headers, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def counters(self):
        """/metrics as {series: value}"""
        lines = self.get("/metrics")[2].splitlines()
        return {n: float(v) for n, v in (x.rsplit(" ", 1) for x in lines if x[:1] != "#")}


def connect(path, timeout=5):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(path)
    return s


def served(path, timeout=5):
    """Does an HTTP/2 server answer? (its SETTINGS frame comes first)"""
    try:
        with connect(path, timeout) as s:
            s.sendall(PREFACE)
            head = s.recv(9)
            return len(head) == 9 and head[3] == 4
    except OSError:
        return False


def wait_until(condition, timeout=5, what="it"):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about within {timeout} s"
        time.sleep(0.02)


def is_closed(s):
    """Has the other side closed? Does not wait."""
    s.setblocking(False)
    try:
        while True:
            if not s.recv(4096):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def side_request(op=1, ticket=b"\0" * 16, digest=b"\0" * 32, magic=SIDE_MAGIC):
    return struct.pack("<II16s32s8x", magic, op, ticket, digest)


def side_reply(s):
    """(status, sizes, message, descriptors)"""
    data, fds, _, _ = socket.recv_fds(s, 128, 4)
    assert len(data) == 128, data
    magic, status, n_fds, _, a, b, message = struct.unpack("<IIIIQQ96s", data)
    assert magic == SIDE_MAGIC and n_fds == len(fds)
    return status, (a, b), message.rstrip(b"\0").decode(), fds


def other_user():
    """uid of a user that is not us; None when we may not become one."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


@contextlib.contextmanager
def held_call(d):
    """A call that is in flight and does not end by itself; needs grpcio. Gives its future."""
    grpc = pytest.importorskip("grpc")
    accepted = 'deltapq_connections_accepted_total{socket="grpc"}'
    before = d.counters()[accepted]
    released = threading.Event()

    def never():
        released.wait(60)
        yield from ()

    with grpc.insecure_channel(f"unix:{d.grpc_path}") as channel:
        future = channel.stream_unary("/deltapq.v1.Profiles/Calibrate").future(never())
        wait_until(lambda: d.counters()[accepted] > before, what="the connection")
        time.sleep(0.2)  # for the call on it, which nobody counts
        assert not future.done(), future.exception()
        try:
            yield future
        finally:
            released.set()


class Proxy:
    """Between a client and the daemon, until it is cut."""

    def __init__(self, target):
        self._directory = tempfile.TemporaryDirectory(prefix="dpq-")
        self.path, self._target = f"{self._directory.name}/grpc.sock", target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._pairs, self.n_bytes, self.refuse, self.delay = [], 0, False, 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.refuse:
                    near.close()
                    continue
                far = socket.socket(socket.AF_UNIX)
                if far.connect_ex(self._target):  # it is away
                    near.close()
                    far.close()
                    continue
                self._pairs.append((near, far))
                threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near, far):
        with contextlib.suppress(OSError, ValueError):
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return self._end((near, far))
                    self.n_bytes += len(data) if ready is near else 0
                    time.sleep(self.delay)
                    (far if ready is near else near).sendall(data)
        self._end((near, far))

    @staticmethod
    def _end(pair):
        for s in pair:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for pair in self._pairs:
            self._end(pair)
        self._pairs = []

    def close(self):
        self.cut()
        self._listener.close()
        self._directory.cleanup()
