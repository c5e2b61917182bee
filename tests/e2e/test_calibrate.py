"""Calibrations with options and metrics, and those that outlive their connection."""

import itertools
import json
import os
import threading
import time

import grpc
import numpy
import pytest
from frame import wait_until
from rpc import (HEAD_DIM, N_HEADS, N_LAYERS, Refusal, Stubs, calibrate_requests, geometry, open_channel,
                 random_numbers, refused, tensor_of)

pytestmark = pytest.mark.slow  # trainings

_ids = itertools.count(int(time.time() * 1000) << 16)


def begin(api, **fields):
    return api.CalibrateRequest(begin=api.CalibrateBegin(**{**dict(
        model_name="tiny", geometry=geometry(api), seed=1, n_iterations=3), **fields}))


def samples(api, numbers, first, **fields):
    return api.CalibrateRequest(samples=api.CalibrateSamples(**{**dict(
        tensor=tensor_of(api, numbers), n_tokens=numbers.shape[3], first_position=first, first_token=first,
        inline_data=numbers.tobytes()), **fields}))


def metric(api, matrix=numpy.eye(HEAD_DIM), layer=0, kind=0, head=0):
    return api.CalibrateRequest(metric=api.CalibrateMetric(
        layer=layer, kind=kind, head=head, matrix=matrix.astype("<f4").tobytes()))


def all_metrics(api, seed=3):
    rng = numpy.random.default_rng(seed)
    for layer, kind, head in numpy.ndindex(N_LAYERS, 2, N_HEADS):
        g = rng.standard_normal((400, HEAD_DIM)) * numpy.linspace(0.1, 3, HEAD_DIM)
        yield metric(api, g.T @ g / 400, layer, kind, head)


@pytest.fixture(scope="module")
def numbers():
    return random_numbers(2048, 21)


def pieces(api, numbers, step=512, start=0):
    for at in range(start, numbers.shape[3], step):
        yield samples(api, numbers[:, :, :, at:at + step].copy(), at)


def info_of(api, stubs, profile_id):
    info, = [p for p in stubs.profiles.List(api.ListProfilesRequest()).profiles
             if p.profile_id == profile_id]
    return info.info_json


# --- options --------------------------------------------------------------------------------------

@pytest.mark.parametrize("fields, text", [
    (dict(reference=5), "reference"), (dict(dsub_k=3), "dsub"), (dict(dsub_v=8), "dsub"),
    (dict(group_tokens=31), "group_tokens"), (dict(leak=1.5), "leak"), (dict(leak=float("nan")), "leak"),
    (dict(metric_lambda=float("nan")), "lambda"), (dict(balanced_bits=9.0), "bits"),
    (dict(bound=0.5), "bound"), (dict(max_decode_mflop=-1.0), "mflop"), (dict(n_iterations=101), "101"),
    (dict(preset="huge"), "preset"),
])
def test_bad_options(api, stubs, fields, text):
    refusal = refused(api, "INVALID_ARGUMENT", "OPTIONS", stubs.profiles.Calibrate,
                      iter([begin(api, **fields)]))
    assert text in refusal.message


def test_references_and_presets_are_different_profiles(api, stubs, numbers):
    ids = {}
    for name, fields in dict(auto={}, none=dict(reference=1), temporal=dict(reference=2),
                             depth_head=dict(reference=3), depth=dict(reference=4),
                             tiny=dict(reference=1, preset="tiny"),
                             quality=dict(reference=1, preset="quality", dsub_k=2)).items():
        reply = stubs.profiles.Calibrate(iter([begin(api, **fields), *pieces(api, numbers)]))
        ids[name] = reply.profile_id
    assert ids["quality"] == ids["none"]
    assert len({*ids.values()} - {ids["auto"]}) == 5  # auto may have come to what another was told
    assert len({stubs.profiles.Get(api.GetProfileRequest(profile_id=ids[n])).total_bytes
                for n in ("none", "depth")}) == 2
    assert '"dsub":[4,4]' in info_of(api, stubs, ids["tiny"])


def test_metrics_count(api, stubs, numbers):
    plain = stubs.profiles.Calibrate(iter([begin(api, reference=1), *pieces(api, numbers)]))
    weighed = stubs.profiles.Calibrate(iter([begin(api, reference=1), *all_metrics(api),
                                             *pieces(api, numbers)]))
    again = stubs.profiles.Calibrate(iter([begin(api, reference=1), *pieces(api, numbers),
                                           *all_metrics(api)]))
    assert weighed.profile_id == again.profile_id != plain.profile_id
    assert '"metric":"given"' in weighed.info_json and '"metric":"identity"' in plain.info_json


def test_streams_of_their_own(api, stubs, numbers):
    def stream(**fields):
        return api.CalibrateRequest(stream=api.CalibrateStream(**fields))
    reply = stubs.profiles.Calibrate(iter([begin(api, reference=1), stream(layer=1, kind=1, head=0, reference=4, planes=2),
                                           *pieces(api, numbers)]))
    assert json.loads(reply.info_json)["references"] == {
        "none": 2 * N_LAYERS * N_HEADS - 1, "temporal": 0, "depth-head": 0, "depth": 1}
    for bad in (stream(reference=3), stream(layer=N_LAYERS), stream(kind=2), stream(dsub=3), stream(planes=3)):
        refused(api, "INVALID_ARGUMENT", "STREAM", stubs.profiles.Calibrate, iter([begin(api), bad]))
    refused(api, "INVALID_ARGUMENT", "STEP", stubs.profiles.Calibrate, iter([stream()]))


def test_bad_metrics(api, stubs):
    nan = numpy.eye(HEAD_DIM)
    nan[3, 4] = numpy.nan
    for bad in (metric(api, numpy.eye(HEAD_DIM - 1)), metric(api, layer=N_LAYERS), metric(api, kind=2),
                metric(api, head=1 << 31), metric(api, nan)):
        refused(api, "INVALID_ARGUMENT", "METRIC", stubs.profiles.Calibrate, iter([begin(api), bad]))
    refused(api, "INVALID_ARGUMENT", "STEP", stubs.profiles.Calibrate, iter([metric(api)]))


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ,
                    reason="a sanitizer keeps what was freed")
def test_samples_do_not_stay_in_memory(api, make_daemon):
    """32 MiB of them: held in a file without a name."""
    daemon = make_daemon()

    def memory():
        with open(f"/proc/{daemon.process.pid}/status", encoding="utf-8") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssShmem")))

    def requests(before, after):
        piece = random_numbers(2048, 22)
        yield begin(api)
        yield samples(api, piece, 0)
        before.append(memory())
        for i in range(1, 32):
            yield samples(api, piece, 2048 * i)
        time.sleep(0.5)
        after.append(memory())
        yield api.CalibrateRequest()  # ends it

    before, after = [], []
    with open_channel(daemon.grpc_path) as channel:
        refused(api, "INVALID_ARGUMENT", "STEP", Stubs(api, channel).profiles.Calibrate,
                requests(before, after))
    assert after[0] - before[0] < 12 << 10
    assert sorted(os.listdir(f"{daemon.directory}/state")) == ["profiles", "secret"]
    daemon.stop()


# --- with an id -----------------------------------------------------------------------------------

def get(api, stubs, calibration_id):
    return stubs.profiles.GetCalibration(api.GetCalibrationRequest(calibration_id=calibration_id))


def feed_and_break(api, stubs, requests, calibration_id, n_tokens):
    """A call that is cancelled when the daemon has so many tokens; parked afterwards."""
    held = threading.Event()

    def stream():
        yield from requests
        held.wait(30)

    call = stubs.profiles.Calibrate.future(stream())

    def has_them():
        try:
            return get(api, stubs, calibration_id).n_tokens >= n_tokens
        except grpc.RpcError:
            return False

    wait_until(has_them, timeout=20)
    call.cancel()
    held.set()


def go_on(api, stubs, *requests):
    """As soon as the daemon has noticed that the other call is over."""
    while True:
        try:
            return stubs.profiles.Calibrate(iter(requests), timeout=60)
        except grpc.RpcError as error:
            refusal = Refusal(api, error)
            if refusal.reason != "CALIBRATION_BUSY":
                raise
            assert refusal.code.name == "ABORTED" and refusal.retry_ms > 0
            time.sleep(0.05)


def test_go_on_after_a_break(api, stubs, numbers):
    whole = stubs.profiles.Calibrate(iter([begin(api), *pieces(api, numbers)]))
    calibration_id = next(_ids)
    first = begin(api, calibration_id=calibration_id)
    feed_and_break(api, stubs, [first, *pieces(api, numbers[:, :, :, :1024])], calibration_id, 1024)
    assert get(api, stubs, calibration_id).state == 0
    for bad, code, reason in [
            ([begin(api, calibration_id=calibration_id, seed=2)], "ALREADY_EXISTS", "CALIBRATION_ID"),
            ([first, samples(api, numbers[:, :, :, 1025:1100].copy(), 1025)], "OUT_OF_RANGE",
             "FIRST_TOKEN")]:
        with pytest.raises(grpc.RpcError) as error:
            go_on(api, stubs, *bad)
        refusal = Refusal(api, error.value)
        assert (refusal.code.name, refusal.reason) == (code, reason)
    reply = go_on(api, stubs, first, *pieces(api, numbers, step=200, start=800))  # 224 tokens again
    assert reply.profile_id == whole.profile_id and reply.n_tokens == 2048
    done = get(api, stubs, calibration_id)
    assert (done.state, done.progress, done.profile_id) == (2, 1, whole.profile_id)
    assert go_on(api, stubs, first).profile_id == whole.profile_id  # the answer, once more


def test_training_outlives_its_client(api, stubs, numbers):
    calibration_id = next(_ids)
    call = stubs.profiles.Calibrate.future(iter([begin(api, calibration_id=calibration_id),
                                                 *pieces(api, numbers)]))

    def state():
        try:
            return get(api, stubs, calibration_id).state
        except grpc.RpcError:
            return None

    wait_until(lambda: state() in (1, 2), timeout=20)
    call.cancel()
    wait_until(lambda: state() == 2, timeout=60)
    assert len(get(api, stubs, calibration_id).profile_id) == 32


def test_how_it_failed(api, stubs, numbers):
    calibration_id = next(_ids)
    first = begin(api, calibration_id=calibration_id)
    few = samples(api, numbers[:, :, :, :64].copy(), 0)
    refused(api, "FAILED_PRECONDITION", "TOO_FEW_TOKENS", stubs.profiles.Calibrate, iter([first, few]))
    reply = get(api, stubs, calibration_id)
    assert (reply.state, reply.error_reason) == (3, "TOO_FEW_TOKENS") and "64 tokens" in reply.error


def test_nobody_elses(api, stubs):
    for calibration_id in (0, 12345):
        refused(api, "NOT_FOUND", "CALIBRATION", stubs.profiles.GetCalibration,
                api.GetCalibrationRequest(calibration_id=calibration_id))


def test_parked_for_so_long(api, make_daemon, numbers):
    daemon = make_daemon({"daemon": {"calibration_park_seconds": 1}})
    with open_channel(daemon.grpc_path) as channel:
        stubs, calibration_id = Stubs(api, channel), next(_ids)
        feed_and_break(api, stubs, [begin(api, calibration_id=calibration_id), *pieces(api, numbers)],
                       calibration_id, 2048)

        def is_gone():
            try:
                get(api, stubs, calibration_id)
            except grpc.RpcError as error:
                return Refusal(api, error).reason == "CALIBRATION"

        wait_until(is_gone, timeout=10)
        without = stubs.profiles.Calibrate(calibrate_requests(api, [numbers]))
        assert without.n_tokens == 2048
    daemon.stop()


# --- the Python client ----------------------------------------------------------------------------

def test_python_goes_on_by_itself(api, stubs, proxy):
    """Cut twice while it sends and once while the daemon trains."""
    deltapq = pytest.importorskip("deltapq")
    shape, calibration_id, cuts = deltapq.Geometry(N_LAYERS, N_HEADS, HEAD_DIM), next(_ids), []
    windows = [random_numbers(1024, 30 + i) for i in range(8)]

    def cut():
        proxy.refuse = True
        proxy.cut()
        threading.Timer(0.7, setattr, (proxy, "refuse", False)).start()
        cuts.append(get(api, stubs, calibration_id).state)

    def cut_in_training():
        wait_until(lambda: get(api, stubs, calibration_id).state != 0, timeout=30)
        cut()

    def numbers(broken):
        for i, window in enumerate(windows):
            if broken and i in (3, 6):
                cut()
            yield window, 1024 * i
        if broken:
            threading.Thread(target=cut_in_training).start()

    with deltapq.Client(proxy.path, staging_bytes=0) as client:
        want = client.calibrate(shape, numbers(False), model_name="tiny")
        got = client.calibrate(shape, numbers(True), model_name="tiny", calibration_id=calibration_id)
    assert cuts == [0, 0, 1]
    assert got.profile_id == want.profile_id and got.n_tokens == 8 * 1024


def test_progress_comes_back(api, stubs, proxy, numbers):
    """After the connection broke the client listens again, to whatever goes on under its label."""
    deltapq = pytest.importorskip("deltapq")
    seen = []

    def trained():
        stubs.profiles.Calibrate(calibrate_requests(api, [numbers], label="comes back"))
        return seen

    with deltapq.Client(proxy.path, staging_bytes=0) as client:
        stop = client._watch_progress("comes back", lambda *done: seen.append(done))
        wait_until(trained, timeout=60)
        proxy.cut()
        seen.clear()
        wait_until(trained, timeout=60)
        stop()
    assert {total for _, total in seen} == {N_LAYERS * 2 * N_HEADS}


def test_python_says_what_it_can_not_do(daemon, numbers):
    deltapq = pytest.importorskip("deltapq")
    shape = deltapq.Geometry(N_LAYERS, N_HEADS, HEAD_DIM)
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        with pytest.raises(ValueError, match="reference"):
            client.calibrate(shape, [], model_name="m", reference="sideways")
        with pytest.raises(ValueError, match="metric"):
            client.calibrate(shape, [], model_name="m", metric=numpy.zeros((1, 2, 3)))
        with pytest.raises(ZeroDivisionError):  # of whoever makes the samples
            client.calibrate(shape, ((numbers, 1 // n) for n in (1, 0)), model_name="m")
        with pytest.raises(deltapq.DeltaPQError) as e:
            client.calibrate(shape, [(numbers, 0)], model_name="m", dsub=(2, 3))
        assert e.value.reason == "OPTIONS"


def test_python_in_two_processes(daemon, numbers):
    """The second one, with the same id, samples and options, sends only what is missing."""
    deltapq = pytest.importorskip("deltapq")
    shape, calibration_id = deltapq.Geometry(N_LAYERS, N_HEADS, HEAD_DIM), next(_ids)
    pieces = [(numbers[:, :, :, at:at + 256], at) for at in range(0, 2048, 256)]
    identity = numpy.broadcast_to(numpy.eye(HEAD_DIM, dtype="f4"),
                                  (N_LAYERS, 2, N_HEADS, HEAD_DIM, HEAD_DIM))
    how = dict(model_name="tiny", calibration_id=calibration_id, metric=identity, dsub=(2, 4),
               reference="depth-head")

    def dies():
        yield from pieces[:4]
        wait_until(lambda: client.get_calibration(calibration_id).n_tokens == 1024, timeout=20)
        raise KeyError("power cut")

    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        with pytest.raises(KeyError):
            client.calibrate(shape, dies(), **how)
    with deltapq.Client(daemon.grpc_path, staging_bytes=0) as client:
        assert client.get_calibration(calibration_id).n_tokens == 1024
        reply = client.calibrate(shape, pieces, **how)
        assert reply.n_tokens == 2048
        assert client.get_calibration(calibration_id).profile_id == reply.profile_id
