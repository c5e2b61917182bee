"""A cache through a daemon: what the monitor said, what was stored, what comes back."""
from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np

from deltapq import Client
from frame import Daemon

GREEN, YELLOW, RED = 0, 1, 2
TILE = 128


@dataclasses.dataclass
class Replay:
    n_tokens: int
    n_streams: int
    events: list  # ZoneChanged, in the order of their tokens
    true_bits: float
    numbers: np.ndarray | None  # as they came back, fp32

    def plain(self) -> dict:
        """As JSON can say it, without the numbers."""
        return {**vars(self), "events": [list(vars(e).values()) for e in self.events], "numbers": None}

    @staticmethod
    def of(plain: dict) -> "Replay":
        return Replay(**{**plain, "events": [Change(*e) for e in plain["events"]]})

    def entries(self, zone: int) -> np.ndarray:
        """How often each stream rose to a zone, or beyond it."""
        counts = np.zeros(self.n_streams, int)
        for e in self.events:
            counts[e.stream] += e.came_from < zone <= e.to
        return counts

    def first(self, zone: int) -> np.ndarray:
        """Tokens that each stream had had when it was first judged to be in a zone or beyond; infinity:
        it never was."""
        first = np.full(self.n_streams, np.inf)
        for e in self.events:
            if e.to >= zone:
                first[e.stream] = min(first[e.stream], e.first_token + 32)
        return first


@dataclasses.dataclass
class Change:
    stream: int
    first_token: int
    came_from: int
    to: int
    cause: int
    mu: float


class Monitored:
    """A daemon, a client, and a watcher that sorts events by sequence."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.n_streams = geometry.n_layers * 2 * geometry.n_kv_heads
        self.daemon = Daemon({"tenant test": {"arena_bytes": "512M", "staging_bytes": "64M",
                                              "staging_total_bytes": "256M"}, "daemon": {"log_level": "info"}})
        self.client = Client(self.daemon.grpc_path, timeout=1800)
        self._changes, self._n_seen, self._condition = {}, 0, threading.Condition()
        self._watcher = self.client.watch(from_now=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for event in self._watcher:
            with self._condition:
                self._n_seen += 1
                if event.WhichOneof("what") == "zone_changed":
                    c = event.zone_changed
                    stream = (2 * c.layer + c.kind) * self.geometry.n_kv_heads + c.head
                    self._changes.setdefault(c.sequence_id, []).append(Change(
                        stream, c.first_token, getattr(c, "from"), c.to, c.cause, c.mu))
                self._condition.notify_all()

    def _settle(self, sequence, n_tokens):
        """Until the monitor has told of the last tile, and events have stopped coming."""
        def current(risk):
            return risk.n_layers and max(c.first_token for c in risk.streams) == n_tokens - TILE
        while not current(self.client.get_risk(sequence=sequence)):
            time.sleep(0.005)
        with self._condition:
            seen = -1
            while seen != self._n_seen:
                seen = self._n_seen
                self._condition.wait(0.05)

    def replay(self, profile_id: bytes, numbers: np.ndarray, rate: str = "quality", read: bool = True) -> Replay:
        """numbers of whole tiles, as one sequence from position 0."""
        before = self.client.status()
        sequence = self.client.create_sequence(profile_id, rate=rate)
        self.client.append(sequence, numbers)
        after = self.client.status()
        n = numbers.shape[3]
        self._settle(sequence, n)
        kept = self.client.read(sequence, 0, n, dtype="f32") if read else None
        self.client.release(sequence, discard=True)
        stored = after.tile_stored_bytes - before.tile_stored_bytes
        events = sorted(self._changes.pop(sequence.id, []), key=lambda e: e.first_token)
        return Replay(n, self.n_streams, events, 8 * stored / (after.tile_numbers - before.tile_numbers), kept)

    def levels(self, profile_id: bytes, numbers: np.ndarray, rate: str) -> np.ndarray:
        """μ of each stream after each tile: [tiles, streams]."""
        sequence, rows = self.client.create_sequence(profile_id, rate=rate), []
        for first in range(0, numbers.shape[3], TILE):
            self.client.append(sequence, numbers[:, :, :, first:first + TILE])
            self._settle(sequence, first + TILE)
            rows.append([c.mu for c in self.client.get_risk(sequence=sequence).streams])
        self.client.release(sequence, discard=True)
        return np.array(rows)

    def close(self):
        self._watcher.cancel()
        self.client.close()
        self.daemon.stop()
