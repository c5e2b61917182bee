"""Monitor.GetRisk, Report, Reset and zone events: what a stream's errors did, and what was done."""

import numpy as np
import pytest
from rpc import append_request, calibrate_requests, events_of, random_numbers, refused
from test_restart import kept, make_profile, stubs_of  # noqa: F401

N_TOKENS = 1024


@pytest.fixture(scope="module")
def watched_id(api, stubs):
    """A profile with an audit, of numbers like random_numbers()."""
    return stubs.profiles.Calibrate(calibrate_requests(
        api, [random_numbers(1024, s) for s in (1, 2)], label="watched")).profile_id


def create(api, stubs, profile_id, **fields):
    return stubs.kv.CreateSequence(
        api.CreateSequenceRequest(profile_id=profile_id, **fields)).sequence_id


def tokens(numbers, first, end):
    return np.ascontiguousarray(numbers[..., first:end, :])


def gone_wrong(first, end):
    """Numbers of which K of layer 1, head 0 is 30 times as large from one token to another."""
    numbers = random_numbers(N_TOKENS, 7).copy()
    numbers[1, 0, 0, first:end] *= np.linspace(1, 30, numbers.shape[4], dtype=np.float32)
    return numbers


def test_zone_events_and_map(api, stubs, watched_id):
    call = stubs.monitor.Watch(api.WatchRequest(from_now=True), timeout=60)
    call.initial_metadata()
    events = events_of(call)
    sequence = create(api, stubs, watched_id)
    stubs.kv.Append(append_request(api, sequence, 0, tokens(gone_wrong(256, N_TOKENS), 0, 640)))
    changes = []
    while not changes or changes[-1].to != 2:
        event = next(events)
        if event.HasField("zone_changed"):
            changes.append(event.zone_changed)
    call.cancel()
    red = changes[-1]
    assert (red.sequence_id, red.layer, red.kind, red.head) == (sequence, 1, 0, 0)
    assert 256 <= red.first_token < 256 + 64 and red.mu >= 1
    risk = stubs.monitor.GetRisk(api.GetRiskRequest(sequence_id=sequence))
    assert risk.n_sequences == 1 and len(risk.streams) == risk.n_layers * 2 * risk.n_kv_heads
    zones = [cell.zone for cell in risk.streams]
    bad = 2 * risk.n_kv_heads
    assert zones[bad] == 2 and risk.red >= 1 and risk.red_entries >= 1
    assert risk.streams[bad].sequence_id == sequence and risk.streams[bad].first_token == 512
    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))
    assert not stubs.monitor.GetRisk(api.GetRiskRequest(sequence_id=sequence)).streams


def test_report_and_reset(api, stubs, watched_id):
    sequence = create(api, stubs, watched_id)
    numbers = random_numbers(N_TOKENS, 8)
    stubs.kv.Append(append_request(api, sequence, 0, tokens(numbers, 0, 200)))
    reply = stubs.monitor.Report(api.ReportRequest(
        sequence_id=sequence, error_ratio=3,
        streams=api.StreamChoice(one_layer=True, one_kind=True, kind=1, one_head=True)))
    assert reply.first_token == 128
    call = stubs.monitor.Watch(api.WatchRequest(from_now=True), timeout=60)
    call.initial_metadata()
    events = events_of(call)
    stubs.kv.Append(append_request(api, sequence, 200, tokens(numbers, 200, 256)))
    event = next(e for e in events if e.HasField("zone_changed"))
    change = event.zone_changed
    assert (change.first_token, change.layer, change.kind, change.head) == (128, 0, 1, 0)
    assert change.to == 2 and change.cause == 8
    assert stubs.monitor.Reset(api.ResetRequest(sequence_id=sequence)).first_token == 256
    stubs.kv.Append(append_request(api, sequence, 256, tokens(numbers, 256, 384)))
    reset = next(e.stream_reset for e in events if e.HasField("stream_reset") and e.stream_reset.all_streams)
    assert (reset.sequence_id, reset.first_token) == (sequence, 256)
    call.cancel()


def test_zones_survive(api, kept):
    """A daemon that is killed and comes again: the map has the zones that tiles say, and the next tile is
    coded as it would have been."""
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        profile_id = make_profile(api, stubs)
        sequence = create(api, stubs, profile_id)
        stubs.kv.Append(append_request(api, sequence, 0, tokens(gone_wrong(256, N_TOKENS), 0, 512)))
        before = stubs.monitor.GetRisk(api.GetRiskRequest(sequence_id=sequence))
        assert 2 in [cell.zone for cell in before.streams]
        kept.kill()
        kept.start()
        after = stubs.monitor.GetRisk(api.GetRiskRequest(sequence_id=sequence), wait_for_ready=True)
        assert [cell.zone for cell in after.streams] == [cell.zone for cell in before.streams]
        other = create(api, stubs, profile_id)
        numbers = gone_wrong(256, N_TOKENS)
        stubs.kv.Append(append_request(api, other, 0, tokens(numbers, 0, 640)))
        stubs.kv.Append(append_request(api, sequence, 512, tokens(numbers, 512, 640)))
        mine, others = (stubs.monitor.GetRisk(api.GetRiskRequest(sequence_id=s)).streams
                        for s in (sequence, other))
        assert [cell.mu for cell in mine] == [cell.mu for cell in others]


def test_refusals(api, stubs, watched_id):
    sequence = create(api, stubs, watched_id)
    report, reset = stubs.monitor.Report, stubs.monitor.Reset
    refused(api, "NOT_FOUND", "SEQUENCE", report, api.ReportRequest(sequence_id=1, error_ratio=1))
    refused(api, "INVALID_ARGUMENT", "RATIO", report,
            api.ReportRequest(sequence_id=sequence, error_ratio=float("nan")))
    refused(api, "OUT_OF_RANGE", "STREAM", report,
            api.ReportRequest(sequence_id=sequence, error_ratio=1,
                              streams=api.StreamChoice(one_layer=True, layer=2**32 - 1)))
    refused(api, "OUT_OF_RANGE", "STREAM", reset, api.ResetRequest(
        sequence_id=sequence, streams=api.StreamChoice(one_kind=True, kind=2)))
    refused(api, "NOT_FOUND", "SEQUENCE", reset, api.ResetRequest(sequence_id=1))
    refused(api, "INVALID_ARGUMENT", "PROFILE", stubs.monitor.GetRisk, api.GetRiskRequest(profile_id=b"x"))


def layers_that_follow(seed, n_layers=4, n_tokens=N_TOKENS):
    """Numbers of layers each of which can be told from the one below: [layers, 2, 1, tokens, 32]."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n_layers, 2, 1, n_tokens, 32)).astype(np.float32)
    for layer in range(1, n_layers):
        x[layer] = .95 * x[layer - 1] + .3 * x[layer]
    return x


def test_a_bad_layer_does_not_poison_those_above(daemon):
    """Layer 1 of four, each predicted from the one below, goes wrong. What is predicted from it does without
    from the next tile on, and is then as good as without any prediction; the one above is predicted from that,
    and is as good as ever."""
    deltapq = pytest.importorskip("deltapq")
    good = layers_that_follow(3)
    bad = good.copy()
    bad[1, :, :, 256:] *= np.where(np.arange(256, N_TOKENS) % 2, -4, 4)[:, None]
    with deltapq.Client(daemon.grpc_path, staging_bytes=4 << 20, timeout=120) as client:
        shape, samples = deltapq.Geometry(4, 1, 32), [(layers_that_follow(s), 0) for s in (1, 2)]
        profiles = {name: client.calibrate(shape, samples, model_name="depth", reference=name).profile_id
                    for name in ("depth-head", "none")}
        errors = {}
        for name, reference, numbers in (("good", "depth-head", good), ("bad", "depth-head", bad),
                                         ("alone", "none", good)):
            sequence = client.create_sequence(profiles[reference], rate="compact")
            client.append(sequence, numbers)
            got = client.read(sequence)
            errors[name] = ((got - numbers) ** 2)[..., 512:, :].mean(axis=(1, 2, 3, 4))
            zones = [cell.zone for cell in client.get_risk(sequence=sequence).streams]
            client.release(sequence, discard=True)
            if name == "bad":
                assert zones[2:4] == [2, 2] and 2 not in zones[6:]
    assert errors["good"][2] < .7 * errors["alone"][2]  # the prediction pays
    assert errors["bad"][2] < 1.1 * errors["alone"][2]
    assert errors["bad"][3] < 1.1 * errors["good"][3] < .8 * errors["alone"][3]
