"""Events through the C client: in order, over broken connections and restarts, with what was missed."""

import os
import pathlib
import subprocess
import threading

import pytest
from frame import wait_until

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")
PROGRAM = pathlib.Path(os.environ.get("DELTAPQD", "deltapqd")).parent.parent / "clients/c/test_client_watch"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} was not built")
HISTORY, ATTACHED, GONE = 64, 15, 16
INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNAVAILABLE, CANCELLED, NOT_FOUND = 3, 4, 14, 1, 5


@pytest.fixture
def daemon(make_daemon):
    return make_daemon({"daemon": {"event_history": HISTORY}})


@pytest.fixture
def client(daemon):
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        yield client


class Watch:
    """test_client_watch, and what it says."""

    def __init__(self, socket, incarnation=0, after_seq=0, from_now=1, queue=0):
        # gcc's thread sanitizer can't cope with the widest address layouts
        command = ["setarch", "-R", str(PROGRAM), socket, *map(str, (incarnation, after_seq, from_now, queue))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.began = int(self.process.stdout.readline())

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def next(self, ms=60000):
        """(seq, what, id, text), or a code."""
        code, *event = self.ask(f"next {ms}")
        return (*map(int, event[:3]), *event[3:]) if code == "0" else int(code)

    def position(self):
        return dict(zip(("incarnation", "seq", "n_received", "n_lost", "n_restarts"), map(int, self.ask("position"))))

    def end(self):
        self.process.stdin.close()
        return self.process.wait(timeout=30)


@pytest.fixture
def watch(proxy):
    started = []

    def start(**fields):
        started.append(Watch(proxy.path, **fields))
        return started[-1]

    yield start
    for w in started:
        assert w.end() == 0


def happen(client, n):
    for _ in range(n):
        with deltapq.Client(client._socket, name="somebody", staging_bytes=0):
            pass


def test_events_and_acknowledgements(client, watch):
    w = watch()
    begin = w.position()["seq"]
    assert w.began == 0 and w.next(0) == DEADLINE_EXCEEDED
    happen(client, 2)
    first = w.next()
    assert first[:2] == (begin + 1, ATTACHED) and first[2] and first[3] == "somebody"
    assert client.status().subscriber_lag_events >= 1
    while w.position()["seq"] < client.status().events_published or w.next(200) != DEADLINE_EXCEEDED:
        w.next(0)
    assert w.ask("ack") == ["0"]
    assert client.status().subscriber_lag_events == 0
    p = w.position()
    assert (p["n_received"], p["n_lost"], p["n_restarts"]) == (p["seq"] - begin, 0, 0)
    assert p["incarnation"] == client.status().incarnation


def test_goes_on_after_a_break(client, proxy, watch):
    w = watch()
    begin = w.position()["seq"]
    happen(client, 1)
    assert w.next()[0] == begin + 1
    proxy.refuse = True
    proxy.cut()
    while (got := w.next(100)) != UNAVAILABLE:
        assert isinstance(got, tuple)
    assert w.ask("ack") == [str(UNAVAILABLE)]
    seq = w.position()["seq"]
    happen(client, 2)
    proxy.refuse = False
    assert w.next()[0] == seq + 1
    wait_until(lambda: client.status().n_clients == 1)
    proxy.cut()
    happen(client, HISTORY)  # more events than are kept
    wait_until(lambda: client.status().n_clients == 1)
    n = client.status().events_published
    while w.position()["seq"] < n:
        w.next()
    p = w.position()
    assert p["n_lost"] >= HISTORY / 2 and p["n_received"] + p["n_lost"] == p["seq"] - begin
    proxy.cut()
    happen(client, 1)
    assert w.next()[0] == p["seq"] + 1 and w.position()["n_lost"] == p["n_lost"]


def test_another_process_goes_on(client, watch):
    happen(client, 2)
    w = watch(from_now=0)
    assert w.next()[0] == 1
    p = w.position()
    other = watch(incarnation=p["incarnation"], after_seq=p["seq"], from_now=0)
    assert other.next()[0] == 2 and other.position()["n_received"] == 1


def test_goes_on_after_a_restart(daemon, client, watch):
    w = watch()
    happen(client, 1)
    w.next()
    before = w.position()
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as again:
        happen(again, 1)
        while w.position()["incarnation"] == before["incarnation"]:
            w.next()
        p = w.position()
        assert p["n_restarts"] == 1 and p["n_lost"] == 0 and p["incarnation"] == again.status().incarnation
        assert w.ask("ack") == ["0"]


def test_a_slow_reader(client, watch):
    w = watch(queue=8)
    begin = w.position()["seq"]
    happen(client, 300)
    wait_until(lambda: client.status().n_clients == 1)
    n = client.status().events_published
    while w.position()["seq"] < n:
        w.next()
    p = w.position()
    assert p["n_received"] + p["n_lost"] == p["seq"] - begin


def test_cancel_from_another_thread(client, watch):
    w = watch()
    assert w.ask("cancel 200") == ["0"]
    while (got := w.next()) != CANCELLED:
        assert isinstance(got, tuple)
    assert w.next() == CANCELLED
    wait_until(lambda: client.status().subscribers == 0)


def test_cancel_while_there_is_no_connection(client, proxy, watch):
    w = watch()
    proxy.refuse = True
    proxy.cut()
    assert w.ask("cancel 200") == ["0"]
    assert w.next() == CANCELLED


def test_refusals(client, proxy, watch):
    assert watch(queue=65537).began == INVALID_ARGUMENT
    proxy.refuse = True
    assert watch().began == UNAVAILABLE
