"""Restarts and branches while the arena is full. After each kill -9 what was acknowledged is there, bit
for bit in one of its announced states, or was evicted, and says so; what was created to be kept is there.
What a daemon that nobody writes to said of each sequence last, the next one says, too. Of a sequence that
lost everything only the event tells, which a daemon that is killed at once may not have sent: such are
counted. Tiles are coded without the monitor here, so that a tile's numbers follow from its tokens.

DELTAPQ_RESTART_KILLS=300 (or DELTAPQ_FULL=1) for the nightly size."""

import os
import random
import signal
import threading
import time

import pytest

pytest.importorskip("grpc")
import grpc  # noqa: E402
import numpy  # noqa: E402
from frame import Daemon  # noqa: E402
from rpc import Refusal, append_request, events_of, random_numbers, tensor_of  # noqa: E402
from test_restart import Kept, make_profile, stubs_of  # noqa: E402

KILLS = int(os.environ.get("DELTAPQ_RESTART_KILLS") or (300 if os.environ.get("DELTAPQ_FULL") else 12))
N_TEXTS, N_TOKENS, TILE = 40, 420, 128
N_WRITERS, N_LIVE, N_KEPT = 2, 24, 2  # each writer's sequences, and of these, those that are kept
TENANT = {"arena_bytes": "2M", "staging_bytes": "1M", "monitor": "false"}
PRESSED = {"tenant test": TENANT,
           "daemon": {"cold_seconds": 0, "lease_seconds": 1, "event_history": 65536}}
AWAY = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED


class Content:
    """Tokens and their numbers; the same ids have the same numbers before them."""

    def __init__(self, ids, numbers):
        self.ids, self.numbers, self.decoded = ids, numbers, None

    def branch(self, n, other):
        return Content(self.ids[:n] + other.ids[n:],
                       numpy.concatenate([self.numbers[:, :, :, :n], other.numbers[:, :, :, n:]], axis=3))


def append(api, stubs, sequence, content, first, n):
    part = numpy.ascontiguousarray(content.numbers[:, :, :, first:first + n])
    return stubs.kv.Append(append_request(api, sequence, first, part, content.ids[first:first + n]), timeout=60)


def read(api, stubs, sequence, n, **fields):
    shape = 2, 2, 2, n, 32
    reply = stubs.kv.Read(api.ReadRequest(sequence_id=sequence, n_tokens=n, **fields,
                                          tensor=tensor_of(api, numpy.empty(shape, "float16"))), timeout=60)
    return reply, numpy.frombuffer(reply.inline_data, "float16").reshape(shape)


class Judge:
    """A daemon with room for everything: what tiles are with both planes, and with the base alone."""

    def __init__(self, api, stubs, profile_id):
        self.api, self.stubs, self.profile_id, self.lock = api, stubs, profile_id, threading.Lock()

    def decoded(self, content):
        with self.lock:
            if content.decoded is None:
                sequence = self.stubs.kv.CreateSequence(
                    self.api.CreateSequenceRequest(profile_id=self.profile_id)).sequence_id
                append(self.api, self.stubs, sequence, content, 0, N_TOKENS)
                content.decoded = [read(self.api, self.stubs, sequence, N_TOKENS, base_only=b)[1]
                                   for b in (False, True)]
                self.stubs.kv.Delete(self.api.DeleteRequest(sequence_id=sequence))
            return content.decoded

    def complaint(self, content, reply, got):
        """What is wrong with it; None."""
        n, n_dropped, n_either = got.shape[3], 0, 0
        for first in range(0, reply.n_coded_tokens, TILE):
            part = slice(first, min(first + TILE, n))
            whole, base = (x[:, :, :, part].tobytes() for x in self.decoded(content))
            if got[:, :, :, part].tobytes() == whole == base:  # no more than a sequence's first, which are raw
                n_either += part.stop - part.start
            elif got[:, :, :, part].tobytes() == base:
                n_dropped += part.stop - part.start
            elif got[:, :, :, part].tobytes() != whole:
                return f"tokens from {first} on are of no announced state"
        if not n_dropped <= reply.n_dropped_tokens <= n_dropped + n_either:
            return f"{n_dropped} tokens without a fine plane, {reply.n_dropped_tokens} announced"
        raw = slice(reply.n_coded_tokens, n)
        same = got[:, :, :, raw].tobytes() == content.numbers[:, :, :, raw].tobytes()
        return None if same else f"other raw rows from {raw.start} on"


class Watcher:
    """What was announced, over all daemons: sequences that lost everything; of this one, how many tokens."""

    def __init__(self, api, daemon):
        self.api, self.daemon = api, daemon
        self.emptied, self.n_evicted, self.over = set(), 0, False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.over:
            with stubs_of(self.api, self.daemon) as stubs:
                self.n_evicted = 0
                try:
                    call = stubs.monitor.Watch(self.api.WatchRequest(queue=65536), wait_for_ready=True)
                    for event in events_of(call):
                        if event.WhichOneof("what") == "tokens_evicted":
                            self._take(event.tokens_evicted)
                except grpc.RpcError:
                    pass

    def _take(self, evicted):
        if evicted.first_token == 0:
            self.emptied.add(evicted.sequence_id)
        self.n_evicted += evicted.n_tokens

    def drain(self, stubs):
        """All that this daemon has announced has come. How many tokens that is"""
        end = time.monotonic() + 30
        while True:
            n = stubs.monitor.GetStatus(self.api.GetStatusRequest(), wait_for_ready=True).tokens_evicted
            if n == self.n_evicted:
                return n
            assert time.monotonic() < end, f"{self.n_evicted} of {n} evicted tokens were announced"
            time.sleep(.02)


class Entry:
    """A sequence and what was acknowledged of it."""

    def __init__(self, sequence, content, keep, n_tokens=0):
        self.sequence, self.content, self.keep, self.acked = sequence, content, keep, n_tokens
        self.wish, self.deleted = 0, False


class Writer:
    """Creates, appends, forks and deletes, and asks again for what was not answered."""

    def __init__(self, load, seed):
        self.load, self.api, self.rng = load, load.api, random.Random(seed)
        self.entries, self.fork, self.step_lock = [], None, threading.Lock()
        self.n_forks = self.n_resumed = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with stubs_of(self.api, self.load.daemon) as stubs:
                while not self.load.over:
                    with self.step_lock:
                        self._try(stubs)
                    time.sleep(.001)  # whoever waits for the lock gets it
        except BaseException as error:  # the main thread says so
            self.load.wrong.append(repr(error))

    def _try(self, stubs):
        try:
            self._step(stubs)
        except grpc.RpcError as error:
            if error.code() not in AWAY:
                raise
            time.sleep(.01)

    def _step(self, stubs):
        unfinished = next((e for e in self.entries if e.acked < N_TOKENS and not e.deleted), None)
        if self.fork:
            self._fork(stubs)
        elif unfinished and self.rng.random() < .9:
            self._append(stubs, unfinished)
        elif len(self.entries) >= N_LIVE:
            self._delete(stubs, self.rng.choice(self.entries))
        elif self.rng.random() < .5:
            self._create(stubs)
        else:
            self._wish_fork()

    def _create(self, stubs):
        keep = sum(e.keep for e in self.entries) < N_KEPT
        reply = stubs.kv.CreateSequence(self.api.CreateSequenceRequest(
            profile_id=self.load.profile_id, keep_tokens=keep), timeout=60)
        self.entries.append(Entry(reply.sequence_id, self.rng.choice(self.load.texts), keep))

    def _delete(self, stubs, entry):
        entry.deleted = True
        self.entries.remove(entry)
        try:
            stubs.kv.Delete(self.api.DeleteRequest(sequence_id=entry.sequence), timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise

    def _append(self, stubs, entry):
        entry.wish = entry.wish or min(self.rng.choice((1, 3, 40, 130, 200)), N_TOKENS - entry.acked)
        try:
            reply = append(self.api, stubs, entry.sequence, entry.content, entry.acked, entry.wish)
        except grpc.RpcError as error:
            self._refused(stubs, entry, error)
            return
        if reply.n_tokens != entry.acked + entry.wish:
            self.load.wrong.append(f"{reply.n_tokens} tokens after {entry.acked} and {entry.wish} more")
        entry.acked, entry.wish = entry.acked + entry.wish, 0

    def _refused(self, stubs, entry, error):
        refusal = Refusal(self.api, error)
        if refusal.code in AWAY:
            raise error
        if refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            time.sleep(.01)
        elif refusal.reason == "EVICTED":
            self._shortened(entry, int(refusal.metadata["token"]))
        elif refusal.reason == "SEQUENCE":
            self.load.is_gone(entry)
            self.entries.remove(entry)
        elif refusal.reason == "FIRST_TOKEN":  # what was not answered had been done, and may be gone again
            asked = stubs.kv.AppendStream(iter([self.api.AppendRequest(sequence_id=entry.sequence)]), timeout=60)
            self._shortened(entry, next(asked).n_tokens)
        else:
            self.load.wrong.append(f"Append: {refusal.reason}, {refusal.message}")

    def _shortened(self, entry, n_tokens):
        if entry.keep and n_tokens < entry.acked:
            self.load.wrong.append(f"{entry.sequence} keeps {entry.acked} tokens and has {n_tokens}")
        self.n_resumed += n_tokens < entry.acked
        entry.acked, entry.wish = n_tokens, 0

    def _wish_fork(self):
        """At a tile's end or within the tail: elsewhere rows would be decoded ones."""
        origins = [e for e in self.entries if e.acked and (not e.keep or self.rng.random() < .2)]
        if origins:
            origin = self.rng.choice(origins)
            ends = [*range(TILE, origin.acked, TILE), origin.acked, (origin.acked - 1) // TILE * TILE + 1]
            self.fork = (origin, self.rng.randrange(1, 1 << 63), self.rng.choice(ends),
                         self.rng.choice(self.load.texts), [])

    def _fork(self, stubs):
        origin, key, n, other, tries = self.fork
        try:
            reply = stubs.kv.Fork(self.api.ForkRequest(sequence_id=origin.sequence, n_tokens=n, fork_key=key),
                                  timeout=60)
        except grpc.RpcError as error:
            refusal = Refusal(self.api, error)
            if refusal.code in AWAY:
                raise
            tries.append(refusal.reason)
            if refusal.code != grpc.StatusCode.RESOURCE_EXHAUSTED or len(tries) > 10:
                self.fork = None
            if refusal.reason not in ("ARENA_FULL", "BUSY", "TOKEN_RANGE", "SEQUENCE") or \
                    origin.keep and refusal.reason in ("TOKEN_RANGE", "SEQUENCE"):
                self.load.wrong.append(f"Fork: {refusal.reason}, {refusal.message}")
            return
        self.fork = None
        fork = Entry(reply.sequence_id, origin.content.branch(n, other), origin.keep, reply.n_tokens)
        self.entries.append(fork)
        self.n_forks += 1
        if reply.n_lossy_tokens or origin.keep and sum(e.keep for e in self.entries) > 2 * N_KEPT:
            self._delete(stubs, fork)
        elif reply.n_tokens > n or fork.keep and reply.n_tokens != n:
            self.load.wrong.append(f"a fork of {n} tokens has {reply.n_tokens}")


class Load:
    """Writers and a reader, for as long as daemons come and go."""

    def __init__(self, api, daemon, profile_id, judge):
        self.api, self.daemon, self.profile_id, self.judge = api, daemon, profile_id, judge
        self.texts = [Content([1000 * (k + 1) + i for i in range(N_TOKENS)], random_numbers(N_TOKENS, 100 + k))
                      for k in range(N_TEXTS)]
        self.over, self.wrong, self.n_read, self.n_unseen = False, [], 0, 0
        self.watcher = Watcher(api, daemon)
        self.writers = [Writer(self, seed) for seed in range(N_WRITERS)]
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def entries(self):
        return [e for w in self.writers for e in list(w.entries)]

    def is_gone(self, entry):
        """A daemon knows nothing of it: only of what lost everything may that be."""
        if entry.keep and entry.acked:
            self.wrong.append(f"{entry.sequence} keeps {entry.acked} tokens and is gone")
        elif entry.acked and entry.sequence not in self.watcher.emptied:
            self.n_unseen += 1  # it was announced by a daemon that was killed at once

    def look(self, stubs, entry):
        """("whole" | "cut" | "gone", tokens, generation), and the numbers are right. Whoever asks again, of what
        is left, may find that cut, too, and a writer may have deleted it by then."""
        n, refusal = entry.acked, None
        while n:
            try:
                reply, got = read(self.api, stubs, entry.sequence, n)
                break
            except grpc.RpcError as error:
                refusal = Refusal(self.api, error)
                if refusal.code in AWAY:
                    raise
            if refusal.reason == "SEQUENCE" or entry.deleted:
                return "gone", 0, 0
            if refusal.reason != "EVICTED":
                self.wrong.append(f"{n} tokens of {entry.sequence}: {refusal.reason}, {refusal.message}")
                return "gone", 0, 0
            n = int(refusal.metadata["token"])
        else:
            return "cut", 0, 0
        complaint = self.judge.complaint(entry.content, reply, got)
        if complaint:
            self.wrong.append(f"{n} tokens of {entry.sequence}: {complaint}")
        self.n_read += n
        return "cut" if refusal else "whole", n, reply.generation

    def _read(self):
        rng = random.Random(9)
        with stubs_of(self.api, self.daemon) as stubs:
            while not self.over:
                entries = [e for e in self.entries() if e.acked]
                try:
                    if entries:
                        self._look_at(stubs, rng.choice(entries))
                except grpc.RpcError as error:
                    if error.code() not in AWAY:
                        self.wrong.append(repr(error))
                except BaseException as error:
                    self.wrong.append(repr(error))
                time.sleep(.001)

    def _look_at(self, stubs, entry):
        what, _, _ = self.look(stubs, entry)
        if entry.keep and what != "whole" and not entry.deleted:
            self.wrong.append(f"{entry.sequence} keeps its tokens and is {what}")

    def pause(self):
        for writer in self.writers:
            writer.step_lock.acquire()

    def go_on(self):
        for writer in self.writers:
            writer.step_lock.release()

    def accept(self, states):
        """What a quiet daemon says is what holds from here on. Paused."""
        for writer in self.writers:
            for entry in list(writer.entries):
                what, n, _ = states.get(entry, ("whole", entry.acked, 0))
                if what == "gone":
                    self.is_gone(entry)
                    writer.entries.remove(entry)
                elif what == "cut":
                    entry.acked, entry.wish = n, 0

    def stop(self):
        self.over = self.watcher.over = True
        for writer in self.writers:
            writer.thread.join(120)
        self.reader.join(120)


@pytest.fixture(params=["manager", "files"])
def kept(request):
    if request.param == "files" and not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    with Kept(request.param, PRESSED) as k:
        k.start()
        yield k


def quiet_restart(kept, load, stubs):
    """Nobody writes; the next daemon says what the last one said. How many were whole, cut, gone."""
    load.pause()
    try:
        n_evicted = load.watcher.drain(stubs)
        before = {e: load.look(stubs, e) for e in load.entries() if e.acked}
        load.accept({e: s for e, s in before.items() if s[0] == "gone"})
        assert kept.kill() == -signal.SIGKILL
        kept.start()
        with stubs_of(load.api, kept.daemon) as fresh:
            after = {e: load.look(fresh, e) for e in load.entries() if e.acked}
        for entry, (what, n, generation) in after.items():
            if before[entry][0:2] != (what, n) and not (before[entry][0:2] == ("cut", 0) and what == "gone"):
                load.wrong.append(f"{entry.sequence}: {before[entry]} before, {what} with {n} after")
            if generation < before[entry][2] and what != "gone":
                load.wrong.append(f"{entry.sequence}: generation {before[entry][2]}, then {generation}")
            if entry.keep and what != "whole":
                load.wrong.append(f"{entry.sequence} keeps its tokens and is {what}")
        load.watcher.emptied |= {e.sequence for e, s in before.items() if s[0:2] == ("cut", 0)}
        load.accept(after)
        assert not load.wrong, load.wrong
        return n_evicted, [s[0] for s in after.values()]
    finally:
        load.go_on()


def test_kill_under_pressure(kept, api):
    rng = random.Random(7)
    with Daemon({"tenant test": {**TENANT, "arena_bytes": "16M"}, "daemon": {"cpu": "auto"}}) as other, \
            stubs_of(api, other) as judges, stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, judges)
        file = judges.profiles.Get(api.GetProfileRequest(profile_id=profile_id)).data
        stubs.profiles.Install(api.InstallRequest(data=file, total_bytes=len(file)))
        load = Load(api, kept.daemon, profile_id, Judge(api, judges, profile_id))
        found, n_evicted = [], 0
        try:
            for i in range(KILLS):
                time.sleep(rng.uniform(.1, .6))
                if i % 3 == 2:
                    n, states = quiet_restart(kept, load, stubs)
                    n_evicted += n
                    found += states
                else:
                    assert kept.kill() == -signal.SIGKILL
                    kept.start(wait=rng.randrange(4) > 0)
                assert not load.wrong, (i, load.wrong)
        finally:
            load.stop()
        n_forks = sum(w.n_forks for w in load.writers)
        print(f"{KILLS} kills: {n_forks} forks, {sum(w.n_resumed for w in load.writers)} sequences gone on "
              f"with after a cut, {load.n_read} tokens read and compared; {KILLS // 3} kills of quiet daemons: "
              f"{', '.join(f'{found.count(w)} sequences {w}' for w in sorted(set(found)))}, {n_evicted} tokens "
              f"evicted; {load.n_unseen} sequences lost everything and nobody had heard")
        assert n_forks and n_evicted and {"whole", "cut"} <= set(found)
        for entry in load.entries():
            try:
                stubs.kv.Delete(api.DeleteRequest(sequence_id=entry.sequence), timeout=60, wait_for_ready=True)
            except grpc.RpcError as error:
                assert Refusal(api, error).reason == "SEQUENCE"
        assert "damaged" not in kept.daemon.log()
