"""Profiles.Refine: a profile from what is appended, without anybody noticing."""

import json

import numpy
import pytest
from frame import wait_until
from rpc import Stubs, append_request, open_channel, random_numbers, refused

pytestmark = pytest.mark.slow  # trainings


@pytest.fixture(scope="module")
def refining(api, make_daemon):
    """Stubs of a daemon that may, and a profile."""
    from rpc import calibrate_requests
    daemon = make_daemon({"tenant test": {"arena_bytes": "64M", "refine": "true"}})
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        samples = [random_numbers(1024, seed) for seed in (1, 2)]
        begin, *rest = calibrate_requests(api, samples)
        own = api.CalibrateRequest(stream=api.CalibrateStream(layer=1, kind=1, head=1, dsub=4, planes=2))
        yield daemon, stubs, stubs.profiles.Calibrate(iter([begin, own, *rest])).profile_id
    daemon.stop()


def sequence_of(api, stubs, profile_id, seed, n=1024):
    sequence_id = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
    stubs.kv.Append(append_request(api, sequence_id, 0, random_numbers(n, seed),
                                   [10000 * seed + i for i in range(n)]))
    return sequence_id


def read(api, stubs, sequence_id, n=1024):
    numbers = random_numbers(n)
    from rpc import tensor_of
    return stubs.kv.Read(api.ReadRequest(sequence_id=sequence_id, n_tokens=n,
                                         tensor=tensor_of(api, numbers))).inline_data


def test_off_by_default(api, stubs, profile_id):
    refused(api, "FAILED_PRECONDITION", "REFINE_OFF", stubs.profiles.Refine,
            api.RefineRequest(profile_id=profile_id, sample_rate=1, budget_tokens=4096))


@pytest.mark.parametrize("fields, code, reason", [
    (dict(profile_id=bytes(32)), "NOT_FOUND", "PROFILE"), (dict(profile_id=b"x"), "INVALID_ARGUMENT", "PROFILE"),
    (dict(sample_rate=0), "INVALID_ARGUMENT", "RATE"), (dict(sample_rate=1.5), "INVALID_ARGUMENT", "RATE"),
    (dict(sample_rate=float("nan")), "INVALID_ARGUMENT", "RATE"),
    (dict(budget_tokens=100), "INVALID_ARGUMENT", "BUDGET"),
    (dict(budget_tokens=1 << 40), "INVALID_ARGUMENT", "BUDGET"),
])
def test_refused(api, refining, fields, code, reason):
    _, stubs, profile_id = refining
    refused(api, code, reason, stubs.profiles.Refine, api.RefineRequest(**{**dict(
        profile_id=profile_id, sample_rate=1, budget_tokens=4096), **fields}))


def test_a_new_profile_for_new_sequences(api, refining):
    daemon, stubs, profile_id = refining
    deltapq = pytest.importorskip("deltapq")
    old = sequence_of(api, stubs, profile_id, 50)
    before = read(api, stubs, old)
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        calibration_id = client.refine(profile_id, sample_rate=1, budget_tokens=2048)
        assert client.get_calibration(calibration_id).wanted_tokens == 2048
        for _ in range(2):  # the second time it is stored already: nothing new in it
            sequence_of(api, stubs, profile_id, 51)
            assert client.get_calibration(calibration_id).n_tokens == 1024
        sequence_of(api, stubs, profile_id, 52)
        wait_until(lambda: client.get_calibration(calibration_id).state == 2, timeout=60)
        new = client.get_calibration(calibration_id).profile_id
    assert new != profile_id
    for profile in stubs.profiles.List(api.ListProfilesRequest()).profiles:
        assert json.loads(profile.info_json)["own"] == [[1, 1, 1, 0, 4, 2]]
    assert read(api, stubs, old) == before
    fresh = sequence_of(api, stubs, new, 54)
    got = numpy.frombuffer(read(api, stubs, fresh), "f2").reshape(2, 2, 2, 1024, 32).astype("f4")
    assert ((got - random_numbers(1024, 54).astype("f4")) ** 2).mean() < 0.03
