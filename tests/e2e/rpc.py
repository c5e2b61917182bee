"""The daemon's gRPC interface for tests: messages and stubs straight from the .proto files, without
generated code, and what refused calls say."""

import pathlib
import subprocess
import tempfile

import grpc
import numpy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROTO = ROOT / "proto"

# What is in grpc-status-details-bin: google.rpc's messages, field by field.
DETAILS_PROTO = """
syntax = "proto3";
package google.rpc;
message Any { string type_url = 1; bytes value = 2; }
message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
"""


class Api:
    """api["deltapq.v1.AttachRequest"] is a message class; api.AttachRequest is the same."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "details.proto").write_text(DETAILS_PROTO)
            out = f"{directory}/set"
            names = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
            subprocess.run(["protoc", f"-I{PROTO}", f"-I{directory}", "--include_imports",
                            f"--descriptor_set_out={out}", *names, "details.proto"], check=True)
            self.files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out).read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        for file in self.files.file:
            self.pool.AddSerializedFile(file.SerializeToString())
        self.services = {f"{f.package}.{s.name}": self.pool.FindServiceByName(f"{f.package}.{s.name}")
                         for f in self.files.file for s in f.service}

    def __getitem__(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def __getattr__(self, name):
        try:
            return self[f"deltapq.v1.{name}"]
        except KeyError:
            raise AttributeError(name) from None

    def stub(self, channel, service):
        return Stub(self, channel, self.services[service])


class Stub:
    """stub.Append(request or fields…) as generated stubs do it."""

    def __init__(self, api, channel, service):
        for method in service.methods:
            kind = "_".join("stream" if s else "unary"
                            for s in (method.client_streaming, method.server_streaming))
            request = message_factory.GetMessageClass(method.input_type)
            reply = message_factory.GetMessageClass(method.output_type)
            call = getattr(channel, kind)(f"/{service.full_name}/{method.name}",
                                          request.SerializeToString, reply.FromString)
            setattr(self, method.name, call)


class Stubs:
    def __init__(self, api, channel):
        self.kv = api.stub(channel, "deltapq.v1.KvCache")
        self.profiles = api.stub(channel, "deltapq.v1.Profiles")
        self.monitor = api.stub(channel, "deltapq.v1.Monitor")
        self.health = api.stub(channel, "grpc.health.v1.Health")
        self.reflection = api.stub(channel, "grpc.reflection.v1.ServerReflection")


def events_of(call):
    """The events of a Watch call, one after another."""
    for message in call:
        yield from message.events


_n_channels = 0


def open_channel(path, *options):
    """A connection of its own: channels with the same options share one within a process."""
    global _n_channels
    _n_channels += 1
    return grpc.insecure_channel(f"unix:{path}", [("deltapq.test_channel", _n_channels), *options])


class Refusal:
    """What came with an error: code, message, reason, metadata, retry_ms."""

    def __init__(self, api, error):
        self.code, self.message = error.code(), error.details()
        self.reason, self.metadata, self.retry_ms = None, {}, 0
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                self._read(api, value)

    def _read(self, api, value):
        status = api["google.rpc.Status"].FromString(value)
        assert status.code == self.code.value[0] and status.message == self.message
        for detail in status.details:
            name = detail.type_url.removeprefix("type.googleapis.com/")
            message = api[name].FromString(detail.value)
            if name == "google.rpc.ErrorInfo":
                assert message.domain == "deltapq.v1"
                self.reason, self.metadata = message.reason, dict(message.metadata)
            else:
                self.retry_ms = message.retry_delay.seconds * 1000 + message.retry_delay.nanos // 10**6


def refused(api, code, reason, call, *args, **kwargs):
    """The call must fail so; its Refusal. code: "NOT_FOUND"; reason: None for errors of gRPC's own."""
    try:
        reply = call(*args, **{"timeout": 60, **kwargs})
        if hasattr(reply, "__next__"):
            reply = list(reply)
    except grpc.RpcError as error:
        refusal = Refusal(api, error)
        assert (refusal.code.name, refusal.reason) == (code, reason), \
            (refusal.code, refusal.reason, refusal.message)
        return refusal
    raise AssertionError(f"no error, but {reply}")


# --- numbers of a tiny model ----------------------------------------------------------------------

N_LAYERS, N_HEADS, HEAD_DIM = 2, 2, 32
DTYPES = {numpy.dtype("float32"): 0, numpy.dtype("float16"): 1}


def geometry(api, **changes):
    fields = dict(n_layers=N_LAYERS, n_kv_heads=N_HEADS, n_q_heads=N_HEADS, head_dim=HEAD_DIM,
                  rope_pairing=1, rotary_dim=HEAD_DIM, rope_theta=10000.0, n_sink=4)
    return api.Geometry(**{**fields, **changes})


def random_numbers(n_tokens, seed=0, dtype="float16"):
    """[layer, kind, head, token, dim]"""
    rng = numpy.random.default_rng(seed)
    return rng.standard_normal((N_LAYERS, 2, N_HEADS, n_tokens, HEAD_DIM)).astype(dtype)


def tensor_of(api, numbers, offset=0):
    """The TensorDesc of an array [layer, kind, head, token, dim]."""
    layer, kind, head, token, dim = numbers.strides
    assert dim == numbers.itemsize
    return api.TensorDesc(dtype=DTYPES[numbers.dtype], offset=offset, stride_layer=layer,
                          stride_kind=kind, stride_head=head, stride_token=token)


def append_request(api, sequence_id, first_token, numbers, token_ids=(), /, **fields):
    return api.AppendRequest(**{**dict(
        sequence_id=sequence_id, first_token=first_token, n_tokens=numbers.shape[3],
        token_ids=token_ids, tensor=tensor_of(api, numbers), inline_data=numbers.tobytes()), **fields})


def calibrate_requests(api, samples, label="test", n_iterations=3, **changes):
    """The stream of a whole calibration; samples: arrays of 1 MiB at most."""
    yield api.CalibrateRequest(begin=api.CalibrateBegin(
        model_name="tiny", geometry=geometry(api, **changes), seed=1, n_iterations=n_iterations,
        label=label))
    position = 0
    for numbers in samples:
        yield api.CalibrateRequest(samples=api.CalibrateSamples(
            tensor=tensor_of(api, numbers), n_tokens=numbers.shape[3], first_position=position,
            inline_data=numbers.tobytes()))
        position += numbers.shape[3]
