"""Profiles: calibrate, list, get, install; and what is no profile is refused and leaves nothing."""

import hashlib
import time

import grpc
import numpy
import pytest
from frame import wait_until
from rpc import (Refusal, Stubs, append_request, calibrate_requests, events_of, geometry, open_channel,
                 random_numbers, refused, tensor_of)


def download(api, stubs, profile_id, piece=0):
    data, total = b"", None
    while total is None or len(data) < total:
        reply = stubs.profiles.Get(api.GetProfileRequest(profile_id=profile_id, offset=len(data),
                                                         max_bytes=piece))
        assert reply.HasField("info") == (not data)
        data, total = data + reply.data, reply.total_bytes
    return data


def install(api, stubs, data, timeout=60):
    return stubs.profiles.Install(api.InstallRequest(data=data, total_bytes=len(data)),
                                  timeout=timeout)


def install_in_pieces(api, stubs, data, piece, timeout=60):
    upload_id = 0
    for offset in range(0, len(data), piece):
        reply = stubs.profiles.Install(api.InstallRequest(
            data=data[offset:offset + piece], offset=offset, total_bytes=len(data),
            upload_id=upload_id), timeout=timeout)
        upload_id = reply.upload_id
    return reply


def ids(api, stubs):
    return {p.profile_id for p in stubs.profiles.List(api.ListProfilesRequest()).profiles}


@pytest.fixture(scope="module")
def file(api, stubs, profile_id):
    return download(api, stubs, profile_id)


@pytest.fixture
def other(api, make_daemon):
    """Stubs of a daemon without profiles."""
    daemon = make_daemon()
    with open_channel(daemon.grpc_path) as channel:
        yield Stubs(api, channel)
    daemon.stop()


# --- the good way ---------------------------------------------------------------------------------

def test_a_profile_is_named_by_its_bytes(api, stubs, profile_id, file):
    assert hashlib.sha256(file).digest() == profile_id
    assert download(api, stubs, profile_id, piece=10007) == file
    info, = [p for p in stubs.profiles.List(api.ListProfilesRequest()).profiles
             if p.profile_id == profile_id]
    assert info.file_bytes == len(file) and info.model_name == "tiny"
    expected = geometry(api)
    for field in ("n_layers", "n_kv_heads", "head_dim", "rope_pairing", "rotary_dim", "n_sink"):
        assert getattr(info.geometry, field) == getattr(expected, field)
    assert info.geometry.attention_scaling == 1
    frequencies = 10000.0 ** (-2 * numpy.arange(16) / 32)
    assert numpy.array_equal(numpy.float32(frequencies), numpy.float32(info.geometry.inv_freq))
    assert stubs.profiles.Get(api.GetProfileRequest(profile_id=profile_id)).info == info


def test_same_samples_and_seed_same_profile(api, stubs, profile_id):
    pieces = [random_numbers(1024, s) for s in (1, 2)]
    halves = [n[:, :, :, i:i + 512].copy() for n in pieces for i in (0, 512)]
    reply = stubs.profiles.Calibrate(calibrate_requests(api, halves))
    assert reply.profile_id == profile_id and reply.n_tokens == 2048
    assert reply.train_seconds > 0 and reply.info_json.startswith("{")


def test_install(api, other, profile_id, file):
    assert install(api, other, file).profile_id == profile_id
    assert install(api, other, file).profile_id == profile_id  # again: fine
    assert download(api, other, profile_id) == file
    assert ids(api, other) == {profile_id}


def test_install_in_pieces(api, other, profile_id, file):
    assert install_in_pieces(api, other, file, 1 + len(file) // 3).profile_id == profile_id
    assert ids(api, other) == {profile_id}


def test_profiles_survive_a_restart(api, make_daemon, profile_id, file):
    daemon = make_daemon()
    with open_channel(daemon.grpc_path) as channel:
        install(api, Stubs(api, channel), file)
    daemon.stop()
    daemon.start()
    with open_channel(daemon.grpc_path) as channel:
        assert ids(api, Stubs(api, channel)) == {profile_id}


def test_remove(api, make_daemon, profile_id, file):
    """Not while something needs it; then it is gone, and can come again."""
    daemon = make_daemon()
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        remove = api.RemoveProfileRequest(profile_id=profile_id)
        refused(api, "NOT_FOUND", "PROFILE", stubs.profiles.Remove, remove)
        refused(api, "INVALID_ARGUMENT", "PROFILE", stubs.profiles.Remove,
                api.RemoveProfileRequest(profile_id=b"x"))
        install(api, stubs, file)
        sequence = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
        stubs.kv.Append(append_request(api, sequence, 0, random_numbers(150)))
        refusal = refused(api, "FAILED_PRECONDITION", "IN_USE", stubs.profiles.Remove, remove)
        assert "1 sequences, 2 stored tiles and tails and 0 calibrations" in refusal.message
        stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence))
        refusal = refused(api, "FAILED_PRECONDITION", "IN_USE", stubs.profiles.Remove, remove)
        assert "0 sequences, 1 stored tiles and tails" in refusal.message
        assert ids(api, stubs) == {profile_id}
    daemon.stop()  # what is cached ends with this daemon's arena
    daemon.start()
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        assert ids(api, stubs) == {profile_id}
        stubs.profiles.Remove(remove, timeout=60)
        refused(api, "NOT_FOUND", "PROFILE", stubs.profiles.Remove, remove)
        refused(api, "NOT_FOUND", "PROFILE", stubs.profiles.Get,
                api.GetProfileRequest(profile_id=profile_id))
        assert ids(api, stubs) == set()
        event = next(events_of(stubs.monitor.Watch(api.WatchRequest(), timeout=60)))
        assert event.profile_removed.profile_id == profile_id
        assert event.profile_removed.model_name == "tiny"
    daemon.stop()
    daemon.start()
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        assert ids(api, stubs) == set()
        assert install(api, stubs, file).profile_id == profile_id
    daemon.stop()


# --- what is no profile ---------------------------------------------------------------------------

def test_truncated_files(api, other, file):
    for n in (1, 7, 8, 64, len(file) // 2, len(file) - 1):
        refused(api, "INVALID_ARGUMENT", "PROFILE_CORRUPT", install, api, other, file[:n])
    refused(api, "INVALID_ARGUMENT", "PROFILE_CORRUPT", install, api, other, file + b"\0")
    assert ids(api, other) == set()


def test_flipped_bits(api, other, file):
    rng = numpy.random.default_rng(5)
    places = [*range(0, 64, 3), *rng.integers(64, len(file), 60), len(file) - 1]
    for place in places:
        bad = bytearray(file)
        bad[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(grpc.RpcError) as error:
            install(api, other, bytes(bad))
        refusal = Refusal(api, error.value)
        assert refusal.code.name == "INVALID_ARGUMENT", (place, refusal.message)
        assert refusal.reason in ("PROFILE_CORRUPT", "PROFILE_VERSION"), (place, refusal.message)
    refused(api, "INVALID_ARGUMENT", "PROFILE_CORRUPT", install_in_pieces, api, other,
            file[:-1] + bytes([file[-1] ^ 1]), 1 + len(file) // 3)
    assert ids(api, other) == set()


@pytest.mark.parametrize("code, fields", [
    ("INVALID_ARGUMENT", dict(data=b"", total_bytes=0)),
    ("INVALID_ARGUMENT", dict(data=b"", total_bytes=5)),
    ("INVALID_ARGUMENT", dict(data=b"abc", total_bytes=2)),
    ("INVALID_ARGUMENT", dict(data=b"abc", total_bytes=(1 << 30) + 1)),
    ("INVALID_ARGUMENT", dict(data=b"abc", offset=1, total_bytes=10)),
    ("INVALID_ARGUMENT", dict(data=b"abc", offset=(1 << 64) - 1, total_bytes=10, upload_id=1)),
    ("NOT_FOUND", dict(data=b"abc", offset=1, total_bytes=10, upload_id=12345)),
])
def test_pieces_that_do_not_fit(api, stubs, code, fields):
    refused(api, code, "UPLOAD", stubs.profiles.Install, api.InstallRequest(**fields))


@pytest.mark.parametrize("total_bytes, n", [(100, 4), (1 << 29, 2)])
def test_uploads_are_limited(api, other, total_bytes, n):
    request = api.InstallRequest(data=b"abc", total_bytes=total_bytes)
    upload_id = [other.profiles.Install(request).upload_id for _ in range(n)][-1]
    refusal = refused(api, "RESOURCE_EXHAUSTED", "UPLOAD", other.profiles.Install, request)
    assert refusal.retry_ms > 0
    request = api.InstallRequest(data=b"abc", offset=4, total_bytes=total_bytes, upload_id=upload_id)
    assert "offset 3" in refused(api, "OUT_OF_RANGE", "UPLOAD", other.profiles.Install,
                                 request).message


def test_get_what_is_not_there(api, stubs, profile_id, file):
    get = stubs.profiles.Get
    refused(api, "NOT_FOUND", "PROFILE", get, api.GetProfileRequest(profile_id=bytes(32)))
    refused(api, "INVALID_ARGUMENT", "PROFILE", get, api.GetProfileRequest(profile_id=b"abc"))
    refused(api, "OUT_OF_RANGE", "OFFSET", get,
            api.GetProfileRequest(profile_id=profile_id, offset=len(file) + 1))
    assert not get(api.GetProfileRequest(profile_id=profile_id, offset=len(file))).data


# --- calibration ----------------------------------------------------------------------------------

def begin(api, **changes):
    return next(calibrate_requests(api, [], **changes))


def samples(api, numbers, **fields):
    return api.CalibrateRequest(samples=api.CalibrateSamples(**{**dict(
        tensor=tensor_of(api, numbers), n_tokens=numbers.shape[3], inline_data=numbers.tobytes()),
        **fields}))


def test_calibrate_in_the_wrong_order(api, stubs):
    numbers = random_numbers(16)
    for requests in ([], [samples(api, numbers)], [begin(api), begin(api)], [api.CalibrateRequest()],
                     [begin(api), api.CalibrateRequest()]):
        refused(api, "INVALID_ARGUMENT", "STEP", stubs.profiles.Calibrate, iter(requests))


@pytest.mark.parametrize("changes, text", [
    (dict(head_dim=33), "head_dim"), (dict(n_layers=0), "n_layers"), (dict(n_layers=1025), "n_layers"),
    (dict(rotary_dim=34), "rotary_dim"), (dict(rotary_dim=31), "rotary_dim"),
    (dict(rotary_dim=1 << 31), "rotary_dim"), (dict(rope_theta=0), "rope_theta"),
    (dict(rope_theta=float("nan")), "rope_theta"), (dict(inv_freq=[1.0] * 15), "inv_freq"),
    (dict(inv_freq=[float("inf")] * 16), "inv_freq"), (dict(rope_pairing=7), "pairing"),
    (dict(attention_scaling=float("nan")), "attention_scaling"), (dict(n_sink=129), "n_sink"),
])
def test_bad_geometry(api, stubs, changes, text):
    refusal = refused(api, "INVALID_ARGUMENT", "GEOMETRY", stubs.profiles.Calibrate,
                      iter([begin(api, **changes)]))
    assert text in refusal.message


def test_bad_samples(api, stubs):
    numbers = random_numbers(64)
    bad = numbers.copy()
    bad[1, 0, 1, 40, 7] = numpy.nan
    calibrate = stubs.profiles.Calibrate
    refusal = refused(api, "INVALID_ARGUMENT", "NOT_FINITE", calibrate,
                      iter([begin(api), samples(api, numbers), samples(api, bad)]))
    assert {k: refusal.metadata[k] for k in ("layer", "kind", "head", "token")} == \
        {"layer": "1", "kind": "K", "head": "1", "token": "40"}
    for fields in (dict(n_tokens=65), dict(inline_data=b"")):
        refused(api, "INVALID_ARGUMENT", "TENSOR", calibrate,
                iter([begin(api), samples(api, numbers, **fields)]))
    refused(api, "INVALID_ARGUMENT", "INLINE_SIZE", calibrate,
            iter([begin(api), samples(api, numbers, inline_data=bytes((1 << 20) + 1))]))
    refused(api, "FAILED_PRECONDITION", "TOO_FEW_TOKENS", calibrate,
            iter([begin(api), samples(api, numbers)]))


def test_cancelled_calibrations_leave_room(api, stubs, profile_id):
    """More of them than may be under way at a time; each is cancelled somewhere else."""
    pieces = [random_numbers(1024, s) for s in (1, 2)]
    for i in range(12):
        call = stubs.profiles.Calibrate.future(calibrate_requests(api, pieces, n_iterations=100))
        time.sleep(i * 0.01)
        call.cancel()

    def calibrate():
        try:
            return stubs.profiles.Calibrate(calibrate_requests(api, pieces)).profile_id == profile_id
        except grpc.RpcError as error:
            assert Refusal(api, error).reason == "LIMIT"
            return False

    wait_until(calibrate, timeout=60)
