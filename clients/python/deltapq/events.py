"""Events of Monitor.Watch: a cursor over them that survives broken connections and knows what it missed."""
from __future__ import annotations

import collections
import os
import threading

import grpc

from .errors import DeltaPQError
from .streams import Patience
from .v1 import monitor_pb2 as monitor, monitor_pb2_grpc as monitor_grpc

# Small windows: what a slow reader has not read waits in the daemon, where it is counted.
OPTIONS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]


class Cursor:
    """An iterator over events, without an end of its own, on a channel of its own.

        with client.watch() as cursor:
            for event in cursor:                 # an Event of monitor.proto
                handle(event)                    # acknowledged when the next one is asked for

    seq          of the last event that was handed out; 0: none yet
    incarnation  of the daemon that it is of
    n_received   events handed out
    lost         events that were published and missed since the beginning: too slow, or away too long.
                 n_received and lost together are all there were
    n_restarts   how often another daemon's events began; what the one before had to say at its end is in
                 neither count

    When the connection breaks it goes on by itself after the last event, unless that takes more than
    resume_seconds: then, and on a refusal, DeltaPQError. position() is for going on in another process.

    Thread: one at a time, except cancel().
    """

    def __init__(self, socket: str, *, after_seq: int = 0, incarnation: int = 0, from_now: bool = False,
                 queue: int = 0, flush_ms: int = 0, acknowledge: bool = True, resume_seconds: float = 60.0):
        self.seq, self.incarnation = after_seq, incarnation
        self.n_received = self.lost = self.n_restarts = 0
        self._from_now, self._queue, self._acknowledges = from_now, queue, acknowledge
        self._flush_ms = flush_ms
        self._patience, self._cancelled = Patience(resume_seconds), False
        self._lost_before, self._events = 0, collections.deque()
        self._subscriber = 0
        self._lock, self._ack = threading.Lock(), None  # the acknowledgement under way
        self._acked = self._handled = 0
        self._channel = grpc.insecure_channel(f"unix:{os.path.abspath(socket)}", options=OPTIONS)
        self._stub = monitor_grpc.MonitorStub(self._channel)
        self._subscribe()

    def _subscribe(self) -> None:
        with self._lock:
            self._subscriber, self._lost_before, self._acked = 0, self.lost, 0
            self._call = self._stub.Watch(monitor.WatchRequest(
                incarnation=self.incarnation, after_seq=self.seq, from_now=self._from_now, queue=self._queue,
                acknowledges=self._acknowledges, flush_ms=self._flush_ms))
            if self._cancelled:
                self._call.cancel()

    # --- receiving ------------------------------------------------------------------------------

    def _take(self, message: monitor.Events) -> None:
        if self.incarnation not in (0, message.incarnation):
            self.n_restarts += 1
            self.seq = message.next_seq - 1
        if not self.incarnation or self._from_now:
            self.seq = message.next_seq - 1
        self.incarnation, self._from_now = message.incarnation, False
        self._subscriber = message.subscriber_id
        self.lost = self._lost_before + message.lost
        self._events.extend(message.events)

    def _receive(self) -> bool:
        """One message, on this connection or the next one; False: cancelled."""
        while True:
            try:
                self._take(next(self._call))
                self._patience.gets_on()
                return True
            except (grpc.RpcError, StopIteration) as e:
                if self._cancelled:
                    return False
                error = (DeltaPQError.from_rpc(e) if isinstance(e, grpc.RpcError) else
                         DeltaPQError("UNAVAILABLE", "", "the stream has ended"))
                self._patience.wait(error)
                self._subscribe()

    def __iter__(self) -> "Cursor":
        return self

    def __next__(self) -> monitor.Event:
        self._handled = self.seq if self.n_received else 0
        try:
            while not self._events:
                self._acknowledge()
                if not self._receive():
                    raise StopIteration
        except BaseException:
            self.cancel()
            raise
        event = self._events.popleft()
        self.seq = event.seq
        self.n_received += 1
        return event

    def wait(self) -> "Cursor":
        """Until the daemon has answered: what happens from here on is not missed."""
        if not self._subscriber:
            self._receive()
        return self

    # --- acknowledging --------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        """What was handled, unless an acknowledgement is under way: then after it."""
        if not self._acknowledges:
            return
        with self._lock:
            if self._ack or self._cancelled or not (self._subscriber and self._handled > self._acked):
                return
            self._ack = self._stub.Ack.future(monitor.AckRequest(
                subscriber_id=self._subscriber, seq=self._handled), timeout=10)
            ack, self._acked = self._ack, self._handled
        ack.add_done_callback(self._acknowledged)

    def _acknowledged(self, _) -> None:
        with self._lock:  # one that failed is made good by the next one
            self._ack = None
        if not self._events:
            self._acknowledge()

    # --- life -----------------------------------------------------------------------------------

    def position(self) -> dict:
        """Arguments for Client.watch() that go on after the last event handed out."""
        return {"incarnation": self.incarnation, "after_seq": self.seq}

    def cancel(self) -> None:
        """End the iteration, from any thread."""
        with self._lock:
            self._cancelled = True
            self._call.cancel()
        self._channel.close()

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *exc) -> None:
        self.cancel()
