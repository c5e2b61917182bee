"""KvCache with input that is wrong: a clear error that names what and where, and nothing is stored."""

import mmap

import numpy
import pytest
from frame import connect, side_reply, side_request
from rpc import HEAD_DIM, N_HEADS, N_LAYERS, append_request, random_numbers, refused, tensor_of

N = 200  # tokens of the sequence: one tile and a tail


@pytest.fixture(scope="module")
def numbers():
    return random_numbers(N)


@pytest.fixture(scope="module")
def sequence(api, stubs, profile_id, numbers):
    reply = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id))
    stubs.kv.Append(append_request(api, reply.sequence_id, 0, numbers))
    return reply.sequence_id


@pytest.fixture(autouse=True)
def nothing_is_stored(api, stubs, sequence, numbers):
    """After each test the sequence reads as before."""
    yield
    request = read_request(api, sequence)
    after = numpy.frombuffer(stubs.kv.Read(request).inline_data, "float16").reshape(numbers.shape)
    assert numpy.array_equal(after[:, :, :, 128:], numbers[:, :, :, 128:])
    refused(api, "OUT_OF_RANGE", "TOKEN_RANGE", stubs.kv.Read,
            read_request(api, sequence, n_tokens=N + 1))


def read_request(api, sequence, **fields):
    shape = numpy.empty((N_LAYERS, 2, N_HEADS, N, HEAD_DIM), "float16")
    return api.ReadRequest(**{**dict(sequence_id=sequence, n_tokens=N, tensor=tensor_of(api, shape)),
                              **fields})


class Client:
    """Attached, with its staging segment mapped."""

    def __init__(self, api, stubs, staging_bytes):
        reply = stubs.kv.Attach(api.AttachRequest(protocol=1, staging_bytes=staging_bytes))
        self.client_id = reply.client_id
        self.connection = connect(reply.side_socket)
        self.connection.sendall(side_request(ticket=reply.ticket))
        status, sizes, message, fds = side_reply(self.connection)
        assert status == 0, message
        self.staging = mmap.mmap(fds[1], sizes[1])
        self.n_bytes = sizes[1]


@pytest.fixture(scope="module")
def client(api, stubs):
    return Client(api, stubs, 1 << 20)


# --- Append ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, dtype", [(numpy.nan, "float16"), (numpy.inf, "float32"),
                                          (-numpy.inf, "float16"), (numpy.nan, "float32")])
@pytest.mark.parametrize("place", [(0, 0, 0, 0, 0), (1, 1, 1, 299, 31), (0, 1, 1, 150, 3)])
def test_not_finite(api, stubs, profile_id, value, dtype, place):
    bad = random_numbers(300, dtype=dtype)
    bad[place] = value
    fresh = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
    refusal = refused(api, "INVALID_ARGUMENT", "NOT_FINITE", stubs.kv.Append,
                      append_request(api, fresh, 0, bad))
    layer, kind, head, token, _ = place
    assert {k: refusal.metadata[k] for k in ("layer", "kind", "head", "token")} == \
        {"layer": str(layer), "kind": "KV"[kind], "head": str(head), "token": str(token)}
    assert f"token {token}" in refusal.message and f"layer {layer}" in refusal.message
    assert stubs.kv.Append(append_request(api, fresh, 0, random_numbers(8))).n_tokens == 8
    stubs.kv.Release(api.ReleaseRequest(sequence_id=fresh))


def test_wrong_shape(api, stubs, sequence, numbers):
    few = numbers[:, :, :, :16].copy()
    request = append_request(api, sequence, N, few)
    layer = request.tensor.stride_layer
    for changes in (dict(stride_layer=layer * 2), dict(stride_head=1 << 40), dict(offset=2),
                    dict(stride_kind=-layer), dict(stride_token=-(1 << 62)), dict(stride_token=3),
                    dict(offset=(1 << 64) - 2), dict(dtype=0), dict(dtype=3), dict(dtype=-1)):
        bad = append_request(api, sequence, N, few)
        for field, value in changes.items():
            setattr(bad.tensor, field, value)
        assert "tensor" in refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Append, bad).message
    refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Append,
            append_request(api, sequence, N, few, n_tokens=17))
    refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Append,
            append_request(api, sequence, N, few, inline_data=few.tobytes()[:-1]))
    request.ClearField("tensor")
    refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Append, request)


@pytest.mark.parametrize("code, reason, fields", [
    ("INVALID_ARGUMENT", "LIMIT", dict(n_tokens=0)),
    ("INVALID_ARGUMENT", "TOKEN_IDS", dict(token_ids=[1, 2, 3])),
    ("OUT_OF_RANGE", "FIRST_TOKEN", dict(first_token=N - 1)),
    ("OUT_OF_RANGE", "FIRST_TOKEN", dict(first_token=N + 1)),
    ("OUT_OF_RANGE", "FIRST_TOKEN", dict(first_token=(1 << 64) - 1)),
    ("NOT_FOUND", "SEQUENCE", dict(sequence_id=12345)),
    ("NOT_FOUND", "CLIENT", dict(client_id=12345, inline_data=b"")),
    ("INVALID_ARGUMENT", "INLINE_SIZE", dict(client_id=12345)),
])
def test_append_that_does_not_fit(api, stubs, sequence, numbers, code, reason, fields):
    few = numbers[:, :, :, :16].copy()
    refused(api, code, reason, stubs.kv.Append, append_request(api, sequence, N, few, **fields))


def test_unknown_profile(api, stubs, profile_id):
    for call, request in ((stubs.kv.CreateSequence, api.CreateSequenceRequest),
                          (stubs.kv.Lookup, api.LookupRequest)):
        refused(api, "NOT_FOUND", "PROFILE", call, request(profile_id=bytes(32)))
        for bad in (b"", profile_id[:-1], profile_id + b"\0"):
            refused(api, "INVALID_ARGUMENT", "PROFILE", call, request(profile_id=bad))
        for rate in (3, -1, 1 << 30):
            refused(api, "INVALID_ARGUMENT", "RATE", call, request(profile_id=profile_id, rate=rate))
        for field in ("adapter", "salt"):
            refusal = refused(api, "INVALID_ARGUMENT", "TEXT", call,
                              request(profile_id=profile_id, **{field: "a" * 256}))
            assert field in refusal.message
        refused(api, "INVALID_ARGUMENT", "POSITION", call,
                request(profile_id=profile_id, position_base=(1 << 64) - 1))


# --- Read -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("code, reason, fields", [
    ("OUT_OF_RANGE", "TOKEN_RANGE", dict(n_tokens=N + 1)),
    ("OUT_OF_RANGE", "TOKEN_RANGE", dict(first_token=N, n_tokens=1)),
    ("OUT_OF_RANGE", "TOKEN_RANGE", dict(first_token=N + 1, n_tokens=0)),
    ("OUT_OF_RANGE", "TOKEN_RANGE", dict(first_token=(1 << 64) - 1, n_tokens=2)),
    ("OUT_OF_RANGE", "TOKEN_RANGE", dict(first_token=1, n_tokens=(1 << 64) - 1)),
    ("OUT_OF_RANGE", "LAYER_RANGE", dict(first_layer=2)),
    ("OUT_OF_RANGE", "LAYER_RANGE", dict(n_layers=3)),
    ("OUT_OF_RANGE", "LAYER_RANGE", dict(first_layer=1, n_layers=(1 << 32) - 1)),
    ("NOT_FOUND", "SEQUENCE", dict(sequence_id=12345)),
    ("NOT_FOUND", "CLIENT", dict(client_id=12345)),
])
@pytest.mark.parametrize("staging", [False, True])
def test_read_past_the_end(api, stubs, sequence, client, staging, code, reason, fields):
    if staging:
        fields = {"client_id": client.client_id, **fields}
    refused(api, code, reason, stubs.kv.Read, read_request(api, sequence, **fields))


def test_read_with_a_bad_tensor(api, stubs, sequence):
    for changes in (dict(offset=1 << 20), dict(stride_layer=1 << 60), dict(stride_head=-64),
                    dict(dtype=9), dict(stride_token=1), dict(offset=(1 << 64) - 1)):
        request = read_request(api, sequence)
        for field, value in changes.items():
            setattr(request.tensor, field, value)
        refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Read, request)
    request.ClearField("tensor")
    refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Read, request)


def test_bytes_between_the_elements_are_0(api, stubs, sequence, numbers):
    request = read_request(api, sequence, first_token=128, n_tokens=16)
    request.tensor.stride_token *= 2
    request.tensor.offset = 6
    tail = numbers[:, :, :, 128:144]
    data = stubs.kv.Read(request).inline_data
    wide = numpy.zeros((N_LAYERS, 2, N_HEADS, N, HEAD_DIM), "float16")
    wide[:, :, :, :32:2] = tail
    wide = wide.tobytes()
    assert data[:6] == bytes(6) and data[6:] == wide[:len(data) - 6]
    assert not any(wide[len(data) - 6:])


# --- staging --------------------------------------------------------------------------------------

def test_outside_the_staging_segment(api, stubs, sequence, client, numbers):
    few = numbers[:, :, :, :16].copy()
    place = client.n_bytes - few.nbytes
    for offset in (place + 2, client.n_bytes, 1 << 40, (1 << 64) - 2, place + 1):
        request = append_request(api, sequence, N, few, tensor=tensor_of(api, few, offset),
                                 client_id=client.client_id, inline_data=b"")
        refusal = refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Append, request)
        assert str(client.n_bytes) in refusal.message
        tensor = tensor_of(api, few, offset)
        refused(api, "INVALID_ARGUMENT", "TENSOR", stubs.kv.Read, read_request(
            api, sequence, first_token=N - 16, n_tokens=16, tensor=tensor,
            client_id=client.client_id))


def test_to_the_last_byte_of_the_staging_segment(api, stubs, client, profile_id, numbers):
    fresh = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
    few = numbers[:, :, :, :16].copy()
    place = client.n_bytes - few.nbytes
    client.staging[place:] = few.tobytes()
    tensor = tensor_of(api, few, place)
    reply = stubs.kv.Append(append_request(api, fresh, 0, few, tensor=tensor,
                                           client_id=client.client_id, inline_data=b""))
    assert reply.n_tokens == 16
    client.staging[:] = bytes(client.n_bytes)
    stubs.kv.Read(api.ReadRequest(sequence_id=fresh, n_tokens=16, tensor=tensor,
                                  client_id=client.client_id))
    assert client.staging[:] == bytes(place) + few.tobytes()


def test_staging_that_is_not_there(api, stubs, sequence, numbers):
    few = numbers[:, :, :, :16].copy()
    refusal = refused(api, "RESOURCE_EXHAUSTED", "STAGING", stubs.kv.Attach,
                      api.AttachRequest(protocol=1, staging_bytes=1 << 40))
    assert str(1 << 40) in refusal.message
    unredeemed = stubs.kv.Attach(api.AttachRequest(protocol=1, staging_bytes=4096)).client_id
    refused(api, "FAILED_PRECONDITION", "CLIENT", stubs.kv.Append,
            append_request(api, sequence, N, few, client_id=unredeemed, inline_data=b""))
