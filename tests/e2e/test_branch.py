"""Deletions and pins: what they say, what reads give afterwards, and that all of it is there after
kill -9."""

import time

import pytest

pytest.importorskip("grpc")
import numpy  # noqa: E402
from rpc import append_request, random_numbers, refused, tensor_of  # noqa: E402
from test_restart import create, kept, make_profile, stubs_of  # noqa: E402, F401

NUMBERS = random_numbers(2000, 77)


def append(api, stubs, sequence, first, n, at=None, ids=True):
    """n tokens of NUMBERS from at on (as in the sequence, by default)."""
    at = first if at is None else at
    part = numpy.ascontiguousarray(NUMBERS[:, :, :, at:at + n])
    return stubs.kv.Append(append_request(api, sequence, first, part, range(at, at + n) if ids else ()),
                           timeout=60, wait_for_ready=True)


def read(api, stubs, sequence, n):
    out = numpy.empty((2, 2, 2, max(n, 1), 32), "float16")
    reply = stubs.kv.Read(api.ReadRequest(sequence_id=sequence, n_tokens=n, tensor=tensor_of(api, out)),
                          timeout=60, wait_for_ready=True)
    return numpy.frombuffer(reply.inline_data, "float16").reshape(2, 2, 2, n, 32), reply


def pin(api, stubs, sequence, ttl_ms):
    return stubs.kv.Pin(api.PinRequest(sequence_id=sequence, ttl_ms=ttl_ms), timeout=60,
                        wait_for_ready=True).left_ms


def delete(api, stubs, sequence):
    return stubs.kv.Delete(api.DeleteRequest(sequence_id=sequence), timeout=60)


def n_stored(api, stubs, profile_id, ids):
    return stubs.kv.Lookup(api.LookupRequest(profile_id=profile_id, token_ids=ids)).n_tokens


def test_delete(api, stubs, profile_id):
    """Private tiles go, the others are found."""
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 128)
    append(api, stubs, sequence, 128, 200, ids=False)
    n_tiles = stubs.monitor.GetStatus(api.GetStatusRequest()).n_tiles
    assert delete(api, stubs, sequence).freed_bytes > 0
    refused(api, "NOT_FOUND", "SEQUENCE", stubs.kv.Delete, api.DeleteRequest(sequence_id=sequence))
    assert stubs.monitor.GetStatus(api.GetStatusRequest()).n_tiles == n_tiles - 1
    assert n_stored(api, stubs, profile_id, range(256)) == 128


def test_errors(api, stubs, profile_id):
    sequence = create(api, stubs, profile_id)
    append(api, stubs, sequence, 0, 10)
    for call, request, fields in ((stubs.kv.Delete, api.DeleteRequest, {}),
                                  (stubs.kv.Pin, api.PinRequest, {"ttl_ms": 1}),
                                  (stubs.kv.Unpin, api.UnpinRequest, {})):
        refused(api, "NOT_FOUND", "SEQUENCE", call, request(sequence_id=sequence + 1, **fields))
    for ttl_ms in (0, 86_400_001, 2**64 - 1):
        refused(api, "INVALID_ARGUMENT", "TTL", stubs.kv.Pin,
                api.PinRequest(sequence_id=sequence, ttl_ms=ttl_ms))
    assert not stubs.kv.Unpin(api.UnpinRequest(sequence_id=sequence)).was_pinned
    assert pin(api, stubs, sequence, 86_400_000) == 86_400_000
    assert pin(api, stubs, sequence, 5) > 86_000_000
    assert stubs.kv.Unpin(api.UnpinRequest(sequence_id=sequence)).was_pinned
    delete(api, stubs, sequence)


def test_python_client(daemon, profile_id):
    deltapq = pytest.importorskip("deltapq")
    with deltapq.Client(daemon.grpc_path, staging_bytes=2 << 20) as client:
        sequence = client.create_sequence(profile_id)
        client.append(sequence, NUMBERS[:, :, :, :300], range(5000, 5300))
        assert client.pin(sequence, 10) == 10 and client.unpin(sequence) and not client.unpin(sequence)
        client.delete(sequence)
        with pytest.raises(deltapq.DeltaPQError, match="SEQUENCE"):
            client.delete(sequence)


def test_restart(kept, api):  # noqa: F811
    """What is left of a pin is left, and then it ends."""
    kept.start()
    with stubs_of(api, kept.daemon) as stubs:
        empty = create(api, stubs, make_profile(api, stubs))
        begun = time.monotonic()
        pin(api, stubs, empty, 6000)
        for _ in range(2):
            kept.kill()
            kept.start()
            read(api, stubs, empty, 0)
        left = pin(api, stubs, empty, 1) / 1000
        assert 0 < left <= 6 - (time.monotonic() - begun) + 0.1
        while time.monotonic() < begun + 20:
            if stubs.monitor.GetStatus(api.GetStatusRequest()).n_sequences == 0:
                break
            time.sleep(0.2)
        assert begun + 6 < time.monotonic() < begun + 20
