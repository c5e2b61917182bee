"""Profiles.Audit: what is said about each stream, by the daemon and by the Python client."""

import json
import pathlib
import subprocess
import sys

import numpy
import pytest
from rpc import HEAD_DIM, N_HEADS, N_LAYERS, calibrate_requests, random_numbers, refused

pytestmark = pytest.mark.slow  # trainings

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
N_STREAMS = N_LAYERS * 2 * N_HEADS


def following_numbers(n_tokens, seed, rho=0.95):
    """Values that follow the token before; keys that don't (they would, but for RoPE)."""
    x = random_numbers(n_tokens, seed, "float32")
    for t in range(1, n_tokens):
        x[:, 1, :, t] = rho * x[:, 1, :, t - 1] + (1 - rho * rho) ** 0.5 * x[:, 1, :, t]
    return x.astype("float16")


@pytest.fixture(scope="module")
def samples():
    return [following_numbers(1024, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def audited(api, stubs, samples):
    """A profile with reference AUTO."""
    return stubs.profiles.Calibrate(calibrate_requests(api, samples), timeout=120).profile_id


def audit(api, stubs, profile_id, **fields):
    return stubs.profiles.Audit(api.AuditRequest(profile_id=profile_id, **fields))


def test_every_stream_and_why(api, stubs, audited):
    reply = audit(api, stubs, audited)
    places = [(r.layer, r.kind, r.head) for r in reply.rows]
    assert places == [*numpy.ndindex(N_LAYERS, 2, N_HEADS)] and reply.n_all_rows == N_STREAMS
    for row in reply.rows:
        of = {c.reference: c for c in row.candidates}
        assert row.reference == ("temporal" if row.kind else "none"), row.text
        assert row.reason == ("BEST" if row.kind else "NO_GAIN") and row.reference in row.text
        assert of["none"].measured_bits == 0 and of["none"].error_base > 0
        chosen = of[row.reference]
        assert chosen.n_tokens >= 512 and chosen.has_fine and 0 < chosen.error_fine < chosen.error_base
        delta = of["temporal a=1"]
        assert delta.is_predicted and delta.is_compared
        if row.kind:
            assert chosen.is_certified and chosen.measured_bits > 0.5 and chosen.domination < 1
            assert abs(chosen.predicted_bits - chosen.measured_bits) < 0.4
        else:
            assert delta.measured_bits < -0.2 and delta.predicted_bits < -0.2 and delta.domination > 1


def test_the_summary(api, stubs, audited):
    summary = audit(api, stubs, audited, max_rows=1).summary
    chosen = {c.reference: c.n_streams for c in summary.chosen}
    assert summary.n_streams == N_STREAMS
    assert chosen["none"] == chosen["temporal"] == N_STREAMS // 2 and sum(chosen.values()) == N_STREAMS
    assert summary.n_delta == N_STREAMS and summary.n_delta_foretold >= N_STREAMS // 2
    assert summary.measured_bits > 0.2 and "temporal for 4 of 8 streams" in summary.text


def test_forced_references_say_so(api, stubs, samples):
    requests = [*calibrate_requests(api, samples)]
    requests[0].begin.reference = 1
    profile_id = stubs.profiles.Calibrate(iter(requests), timeout=120).profile_id
    rows = audit(api, stubs, profile_id).rows
    assert {(r.reference, r.reason) for r in rows} == {("none", "FORCED")}
    assert all(len(r.candidates) > 1 and "none as told" in r.text for r in rows)


def test_some_rows(api, stubs, audited):
    every = audit(api, stubs, audited).rows
    assert audit(api, stubs, audited, first_row=3, max_rows=2).rows == every[3:5]
    assert not audit(api, stubs, audited, first_row=N_STREAMS).rows
    refused(api, "OUT_OF_RANGE", "ROW", stubs.profiles.Audit,
            api.AuditRequest(profile_id=audited, first_row=N_STREAMS + 1))


def test_profiles_without_one(api, stubs):
    data = (ROOT / "tests/golden/toy.profile").read_bytes()
    reply = stubs.profiles.Install(api.InstallRequest(data=data, total_bytes=len(data)))
    refused(api, "NOT_FOUND", "NO_AUDIT", stubs.profiles.Audit,
            api.AuditRequest(profile_id=reply.profile_id))
    refused(api, "NOT_FOUND", "PROFILE", stubs.profiles.Audit, api.AuditRequest(profile_id=bytes(32)))
    refused(api, "INVALID_ARGUMENT", "PROFILE", stubs.profiles.Audit, api.AuditRequest(profile_id=b"x"))


def run(*args):
    return subprocess.run([sys.executable, "-m", "deltapq.audit", *args], capture_output=True, text=True,
                          timeout=60, check=False)


def test_the_table(daemon, audited):
    deltapq = pytest.importorskip("deltapq")
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        found = client.audit(audited)
    lines = found.table().splitlines()
    assert len(lines) == 1 + N_STREAMS and len(found.rows) == N_STREAMS
    assert lines[3].split()[:3] == ["0", "V", "0"] and "*" in lines[3] and lines[3].endswith("best")
    assert lines[1].endswith("no gain")
    printed = run(daemon.grpc_path, audited.hex()[:16])
    assert printed.returncode == 0 and printed.stdout == f"{found}\n"
    assert "layer 1 V head 1: temporal" in run(daemon.grpc_path, audited.hex(), "--why").stdout
    told = json.loads(run(daemon.grpc_path, audited.hex(), "--json").stdout)
    assert len(told["rows"]) == N_STREAMS and told["summary"]["nStreams"] == N_STREAMS


def test_the_table_of_nothing(daemon, audited):
    assert run().returncode == 2 and run(daemon.grpc_path, "a", "--loud").returncode == 2
    missing = run(daemon.grpc_path, "zz")
    assert missing.returncode == 1 and "0 profiles" in missing.stderr
    assert run(f"{daemon.directory}/none.sock").returncode == 1


def test_it_does_not_depend_on_threads_or_time(api, stubs, samples, audited):
    again = stubs.profiles.Calibrate(calibrate_requests(api, samples), timeout=120)
    assert again.profile_id == audited  # the audit is in the file that the id is the hash of
    assert HEAD_DIM == 32
