"""deltapq.Cursor: events over broken connections and restarts, what was missed, how stale a reader is."""

import itertools
import threading
import time

import pytest
from frame import wait_until
from rpc import Stubs, open_channel

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")

HISTORY = 64


@pytest.fixture
def daemon(make_daemon):
    return make_daemon({"daemon": {"event_history": HISTORY}})


@pytest.fixture
def client(daemon):
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        yield client


@pytest.fixture
def cursor(proxy):
    """A function that makes one, behind the proxy."""
    cursors = []

    def make(**options):
        cursors.append(deltapq.Cursor(proxy.path, **options).wait())
        return cursors[-1]

    yield make
    for cursor in cursors:
        cursor.cancel()


def happen(client, n):
    """n events at least."""
    for _ in range(n):
        with deltapq.Client(client._socket, staging_bytes=0):  # attached, and gone soon after
            pass


def attached(cursor, n):
    """The next n events, of whatever kind."""
    return list(itertools.islice(cursor, n))


def published(client):
    return client.status().events_published


def test_goes_on_after_a_break(client, proxy, cursor):
    events = cursor(from_now=True)
    begin = published(client)
    happen(client, 2)
    assert [e.seq for e in attached(events, 2)] == [begin + 1, begin + 2]
    proxy.refuse = True
    proxy.cut()
    happen(client, 3)
    threading.Timer(.3, setattr, (proxy, "refuse", False)).start()
    assert [e.seq for e in attached(events, 3)] == [begin + 3, begin + 4, begin + 5]
    assert (events.lost, events.n_received, events.n_restarts) == (0, 5, 0)
    proxy.cut()
    n_before = published(client)
    happen(client, HISTORY + 10)  # more than is kept
    n = published(client)
    assert n >= n_before + HISTORY + 10
    while events.seq < n:
        next(events)
    assert events.lost >= n - n_before - HISTORY > 0
    assert events.n_received + events.lost == events.seq - begin


def test_a_break_before_the_first_event(client, proxy, cursor):
    events = cursor(from_now=True)
    begin = published(client)
    proxy.cut()
    happen(client, 1)
    assert next(events).seq == begin + 1 and events.lost == 0


def test_another_process_goes_on(client, cursor):
    events = cursor(from_now=True)
    happen(client, 2)
    seen = attached(events, 1)
    other = cursor(**events.position())
    assert next(other).seq == seen[0].seq + 1


def test_goes_on_after_a_restart(daemon, client, proxy, cursor):
    events = cursor(from_now=True)
    happen(client, 2)
    attached(events, 2)
    before = events.incarnation
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as again:
        event = next(e for e in events if events.incarnation != before)
        assert event.seq == 1
        assert events.incarnation == again.status().incarnation != before
        assert events.n_restarts == 1 and events.lost == 0


def test_gives_up(proxy, cursor):
    events = cursor(from_now=True, resume_seconds=.3)
    proxy.refuse = True
    proxy.cut()
    with pytest.raises(deltapq.DeltaPQError) as e:
        next(events)
    assert e.value.code == "UNAVAILABLE"


def test_acknowledges_what_was_handled(client, cursor):
    events = cursor(from_now=True)
    happen(client, 3)
    first = next(events)
    assert client.status().subscriber_lag_events >= 3  # it may still be at work on the first
    threading.Thread(target=lambda: attached(events, 1000), daemon=True).start()
    wait_until(lambda: client.status().subscriber_lag_events == 0)
    assert first.seq < published(client)
    events.cancel()
    wait_until(lambda: client.status().subscribers == 0)


def test_does_not_acknowledge(client, cursor):
    events = cursor(from_now=True, acknowledge=False)
    happen(client, 1)
    wait_until(lambda: client.status().subscriber_lag_events == 0)  # sent is enough
    assert next(events).HasField("client_attached")


def test_cancel_from_another_thread(client, cursor):
    events = cursor(from_now=True)
    threading.Timer(.2, events.cancel).start()
    assert not [e for e in events if not e.WhichOneof("what")]


def test_a_slow_reader(client, cursor):
    """It does not hold up the daemon, and knows in the end what it missed."""
    events = cursor(from_now=True, queue=8)
    begin = events.seq
    next_to = time.monotonic()
    happen(client, 300)
    assert time.monotonic() - next_to < 60
    n = published(client)
    while events.seq < n:
        next(events)
    assert events.n_received + events.lost == events.seq - begin


def test_stubs_see_the_same(api, daemon, client, cursor):
    events = cursor(from_now=True)
    with open_channel(daemon.grpc_path) as channel:
        call = Stubs(api, channel).monitor.Watch(api.WatchRequest(from_now=True), timeout=60)
        assert next(call).next_seq == events.seq + 1
        happen(client, 1)
        assert next(call).events[0].SerializeToString() == next(events).SerializeToString()
