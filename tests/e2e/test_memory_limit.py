"""A control group whose limit leaves the daemon just what it asks for: it refuses what does not fit,
makes room and pushes back, and is never killed. Skipped where no group can be made."""

import os
import tempfile
import threading

import pytest

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")
import grpc  # noqa: E402
import numpy  # noqa: E402
from frame import Daemon, wait_until  # noqa: E402
from rpc import (Refusal, Stubs, append_request, calibrate_requests, open_channel,  # noqa: E402
                 random_numbers)

pytestmark = pytest.mark.skipif("ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ,
                                reason="a sanitizer takes memory of its own")
MIB = 1 << 20
ARENA, STAGING, RESERVE = 64, 16, 64  # MiB
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
                   "daemon": {"cold_seconds": 0, "cpu": "auto"}}, argv0=[*ENTER, group.path], **options)


def test_what_does_not_fit_is_refused(group):
    with daemon_in(group, ARENA + 1, start=False) as d:
        d.spawn()
        assert d.wait() > 0
        assert f"control group has a memory limit (memory.max, MemoryMax=) of {ARENA + STAGING + RESERVE}.0 MiB" \
            in d.log()
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
