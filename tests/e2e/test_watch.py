"""Monitor.Watch: what happens is told, in order, to everybody who keeps up."""

import itertools
import time

import pytest
from frame import wait_until
from rpc import (Stubs, append_request, calibrate_requests, events_of, open_channel, random_numbers,
                 refused)


@pytest.fixture
def watch(api, stubs):
    """A function that starts watching and gives what comes, once it is heard: see Watch."""
    calls = []

    def start(stub=None, **fields):
        calls.append(Watch((stub or stubs).monitor.Watch(api.WatchRequest(**fields), timeout=60)))
        return calls[-1]

    yield start
    for call in calls:
        call.cancel()


class Watch:
    """Messages of a call, and the events in them. first: the greeting; message: the latest."""

    def __init__(self, call):
        self.call = call
        self.first = self.message = next(call)
        self.events = self._events()
        self.n_received, self.next_seq = 0, self.first.next_seq
        assert not self.first.events and self.first.subscriber_id

    def _events(self):
        for self.message in self.call:
            assert 1 <= len(self.message.events) <= 256 and self.message.ByteSize() < 65536
            assert self.message.next_seq == self.first.next_seq + self.n_received + \
                self.message.lost - self.first.lost  # received and lost are all there were
            for i, event in enumerate(self.message.events):
                assert event.seq == self.message.next_seq + i
                self.n_received += 1
                yield event

    def __iter__(self):
        return self.events

    def __next__(self):
        return next(self.events)

    def cancel(self):
        self.call.cancel()


def create(api, stubs, profile_id, **fields):
    return stubs.kv.CreateSequence(
        api.CreateSequenceRequest(profile_id=profile_id, **fields)).sequence_id


def take(call, kind, n=1):
    """The next n events of that kind."""
    events = []
    while len(events) < n:
        event = next(call)
        if event.WhichOneof("what") == kind:
            events.append(event)
    return events


def test_store_events(api, stubs, profile_id, watch):
    call = watch(from_now=True)
    sequence = create(api, stubs, profile_id)
    numbers = random_numbers(300)
    ids = range(1000, 1300)
    stubs.kv.Append(append_request(api, sequence, 0, numbers, ids))
    other = create(api, stubs, profile_id, token_ids=ids)
    stubs.kv.Release(api.ReleaseRequest(sequence_id=other))
    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))
    events = []
    while not events or not (events[-1].HasField("sequence_released") and
                             events[-1].sequence_released.sequence_id == sequence):
        events.append(next(call))
    kinds = [e.WhichOneof("what") for e in events]
    assert kinds[0] == "sequence_created" and events[0].sequence_created.sequence_id == sequence
    stored = [e.tile_stored for e in events if e.HasField("tile_stored")]
    assert [(t.sequence_id, t.first_token) for t in stored] == [(sequence, 0), (sequence, 128)]
    assert all(t.stored_bytes > 0 for t in stored)
    assert stored[0].generation < stored[1].generation or len(stored) == 2
    created = [e.sequence_created for e in events if e.HasField("sequence_created")]
    assert [(c.sequence_id, c.n_tokens) for c in created] == [(sequence, 0), (other, 256)]
    status = stubs.monitor.GetStatus(api.GetStatusRequest())
    for before, event in zip(events, events[1:]):
        assert event.seq == before.seq + 1  # one tenant: no gaps
    assert call.first.incarnation == call.message.incarnation == status.incarnation
    assert all(e.time_unix_ms > 10**12 for e in events) and call.message.lost == 0


def test_attach_and_calibration_events(api, stubs, watch):
    call = watch(from_now=True)
    client = stubs.kv.Attach(api.AttachRequest(protocol=1, client_name="h\u00e9"))
    event, = take(call, "client_attached")
    assert (event.client_attached.client_id, event.client_attached.client_name) == \
        (client.client_id, "h\u00e9")
    reply = stubs.profiles.Calibrate(calibrate_requests(
        api, [random_numbers(1024, s) for s in (1, 2)], label="my label", n_sink=8))
    event, = take(call, "calibration_progress")
    progress = event.calibration_progress
    assert progress.label == "my label" and progress.done <= progress.total
    event, = take(call, "profile_installed")
    assert event.profile_installed.profile_id == reply.profile_id
    assert event.profile_installed.model_name == "tiny"


def test_resume(api, stubs, profile_id, watch):
    for _ in range(5):
        create(api, stubs, profile_id)
    call = watch()
    seen = [next(call) for _ in range(5)]
    incarnation = call.first.incarnation
    call.cancel()
    assert next(watch(after_seq=0, incarnation=incarnation)).seq == seen[0].seq
    call = watch(after_seq=seen[2].seq, incarnation=incarnation)
    assert [next(call).seq for _ in range(2)] == [seen[3].seq, seen[4].seq]
    call = watch(after_seq=seen[2].seq)
    assert next(call).seq == seen[3].seq
    call = watch(after_seq=1 << 60, incarnation=incarnation ^ 1)  # another daemon's: all it still has
    assert next(call).seq == seen[0].seq
    call = watch(from_now=True)
    sequence = create(api, stubs, profile_id)
    event = next(call)
    assert event.sequence_created.sequence_id == sequence and call.message.lost == 0


def test_a_backlog_of_several_messages(api, stubs, profile_id, watch):
    """A full message is followed by the next one, though nothing happens any more."""
    status = stubs.monitor.GetStatus(api.GetStatusRequest())
    for _ in range(200):
        stubs.kv.Release(api.ReleaseRequest(sequence_id=create(api, stubs, profile_id)))
    call = watch(after_seq=status.events_published, incarnation=status.incarnation)
    sizes = {}
    for _ in itertools.islice(call, 400):
        sizes[call.message.next_seq] = len(call.message.events)
    assert list(sizes.values())[0] == 256 and call.message.lost == 0


def test_two_watchers_of_which_one_is_slow(api, daemon, stubs, profile_id, watch):
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
    with open_channel(daemon.grpc_path, *options) as channel:
        slow = watch(Stubs(api, channel), from_now=True, queue=8)
        fast = watch(from_now=True, queue=65536)
        n = 3000
        for _ in range(n // 2):
            stubs.kv.Release(api.ReleaseRequest(sequence_id=create(api, stubs, profile_id)))
        events = [next(fast) for _ in range(n)]
        assert fast.message.lost == 0
        for event in slow:
            if event.seq >= events[-1].seq:
                break
        assert slow.message.lost > 0 and slow.n_received + slow.message.lost == n
        assert stubs.monitor.GetStatus(api.GetStatusRequest()).events_lost >= slow.message.lost


def test_events_gather(api, stubs, profile_id, watch):
    """Events that follow one another at once come together."""
    call = watch(from_now=True)
    for _ in range(200):
        stubs.kv.Release(api.ReleaseRequest(sequence_id=create(api, stubs, profile_id)))
    sizes = []
    while sum(sizes) < 400:
        next(call)
        sizes += [len(call.message.events)]
        for _ in range(sizes[-1] - 1):
            next(call)
    assert max(sizes) > 1 and len(sizes) < 400


def test_who_can_wait_gets_fewer_messages(api, stubs, profile_id, watch):
    """Full ones, in time, each with what came meanwhile, and at most one more for each 10 s."""
    calls = [watch(from_now=True, flush_ms=10000, queue=512) for _ in range(2)]
    begin = time.monotonic()
    for _ in range(600):
        stubs.kv.Release(api.ReleaseRequest(sequence_id=create(api, stubs, profile_id)))
    for call in calls:
        messages = {call.message.next_seq for _ in itertools.islice(call, 1024)}
        assert len(messages) <= 9 + (time.monotonic() - begin) // 10 and call.message.lost == 0


def test_acknowledgements(api, stubs, profile_id, watch):
    """What a subscriber has not dealt with is to be seen, though it was sent long ago."""
    def status():
        return stubs.monitor.GetStatus(api.GetStatusRequest())

    wait_until(lambda: status().subscribers == 0, timeout=30)  # of earlier tests
    call = watch(from_now=True, acknowledges=True)
    assert status().subscribers == 1
    for _ in range(3):
        create(api, stubs, profile_id)
    seqs = [next(call).seq for _ in range(3)]
    assert seqs[-1] == status().events_published
    assert status().subscriber_lag_events >= 3
    ack, subscriber = stubs.monitor.Ack, call.first.subscriber_id
    reply = ack(api.AckRequest(subscriber_id=subscriber, seq=seqs[0]))
    assert (reply.acknowledged_seq, reply.last_seq) == (seqs[0], seqs[2])
    age = status().subscriber_lag_ms
    assert status().subscriber_lag_events >= 2
    time.sleep(.05)
    assert status().subscriber_lag_ms >= age + 40
    refused(api, "OUT_OF_RANGE", "SEQ", ack, api.AckRequest(subscriber_id=subscriber, seq=seqs[2] + 1))
    refused(api, "NOT_FOUND", "SUBSCRIBER", ack, api.AckRequest(subscriber_id=subscriber + 1, seq=1))
    assert ack(api.AckRequest(subscriber_id=subscriber, seq=seqs[2])).acknowledged_seq == seqs[2]
    assert ack(api.AckRequest(subscriber_id=subscriber, seq=1)).acknowledged_seq == seqs[2]
    call.cancel()
    while status().subscribers:
        time.sleep(.01)
    refused(api, "NOT_FOUND", "SUBSCRIBER", ack, api.AckRequest(subscriber_id=subscriber, seq=seqs[2]))


def test_what_is_asked_for_is_limited(api, stubs):
    refused(api, "INVALID_ARGUMENT", "QUEUE", stubs.monitor.Watch, api.WatchRequest(queue=65537))
    refused(api, "INVALID_ARGUMENT", "FLUSH_MS", stubs.monitor.Watch, api.WatchRequest(flush_ms=10001))
