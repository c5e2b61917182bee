"""The gRPC server: every method is there and says so, bad bytes are refused, many calls and cancelled
ones do no harm, and it stops in order."""

import itertools
import os
import pathlib
import threading
import time

import grpc
import pytest
from frame import BINARY, wait_until
from rpc import (Refusal, Stubs, append_request, calibrate_requests, open_channel, random_numbers,
                 refused, tensor_of)

SERVICES = ["deltapq.v1.KvCache", "deltapq.v1.Monitor", "deltapq.v1.Profiles",
            "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"]
MESSAGE_LIMIT = 4 << 20


def is_sanitized():
    data = pathlib.Path(BINARY).read_bytes()
    return b"__asan_init" in data or b"__tsan_init" in data


# --- what is there --------------------------------------------------------------------------------

def ask(api, channel, version, questions):
    stub = api.stub(channel, f"grpc.reflection.{version}.ServerReflection")
    request = api[f"grpc.reflection.{version}.ServerReflectionRequest"]
    return list(stub.ServerReflectionInfo(iter([request(**q) for q in questions]), timeout=20))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_everything(api, channel, version):
    listed, = ask(api, channel, version, [{"list_services": "*"}])
    assert sorted(s.name for s in listed.list_services_response.service) == SERVICES
    symbols = [f"{s.full_name}{m}" for s in api.services.values()
               for m in ["", *(f".{m.name}" for m in s.methods)]]
    symbols += [f"{f.package}.{m.name}" for f in api.files.file if f.package != "google.rpc"
                for m in [*f.message_type, *f.enum_type]]
    symbols += ["grpc.health.v1.HealthCheckResponse.ServingStatus", "deltapq.v1.Event.tile_stored"]
    for symbol, reply in zip(symbols, ask(api, channel, version,
                                          [{"file_containing_symbol": s} for s in symbols])):
        data, = reply.file_descriptor_response.file_descriptor_proto
        file = next(f for f in api.files.file if symbol.startswith(f.package + ".")
                    and f.name.encode() in data)
        assert reply.original_request.file_containing_symbol == symbol
        by_name, = ask(api, channel, version, [{"file_by_filename": file.name}])
        got = type(file).FromString(by_name.file_descriptor_response.file_descriptor_proto[0])
        got.ClearField("source_code_info")
        assert got == file


def test_reflection_of_what_is_not_there(api, channel):
    names = ["", ".", "deltapq", "deltapq.v1", "deltapq.v1.", "deltapq.v1.KvCache.Nope",
             "deltapq.v1.TensorDesc..", "deltapq.v1.Geometry.inv_freq.inv_freq.x.y", "a" * 10000]
    questions = [{"file_containing_symbol": n} for n in names]
    questions += [{"file_by_filename": n} for n in ("", "types.proto", "/etc/passwd")]
    questions += [{}, {"all_extension_numbers_of_type": "deltapq.v1.Event"}]
    for question, reply in zip(questions, ask(api, channel, "v1", questions)):
        assert reply.WhichOneof("message_response") == "error_response", question
        assert reply.error_response.error_message


def test_every_method_is_served(api, channel):
    for service, method in [(s, m) for s in api.services.values() for m in s.methods]:
        kind = "stream" if method.client_streaming else "unary"
        call = getattr(channel, f"{kind}_stream")(f"/{service.full_name}/{method.name}")
        replies = call(iter([b""]) if method.client_streaming else b"", timeout=2)
        try:
            next(replies, None)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED",
                                         "FAILED_PRECONDITION"), (method.full_name, error)
        replies.cancel()


def test_unknown_methods(api, channel):
    for path in ("/deltapq.v1.KvCache/Nope", "/deltapq.v1.KvCache/AppendX", "/x", "/"):
        for data in (b"", b"\xff" * 100000):
            refused(api, "UNIMPLEMENTED", None, channel.unary_unary(path), data)


def test_health(api, stubs):
    for service in ("", "deltapq.v1.KvCache", "deltapq.v1.Profiles", "deltapq.v1.Monitor"):
        request = api["grpc.health.v1.HealthCheckRequest"](service=service)
        assert stubs.health.Check(request, timeout=20).status == 1
        watch = stubs.health.Watch(request, timeout=20)
        assert next(watch).status == 1
        watch.cancel()
    request = api["grpc.health.v1.HealthCheckRequest"](service="nope")
    refused(api, "NOT_FOUND", "SERVICE", stubs.health.Check, request)
    watch = stubs.health.Watch(request, timeout=20)
    assert next(watch).status == 3
    watch.cancel()


# --- bad bytes ------------------------------------------------------------------------------------

@pytest.mark.parametrize("data", [b"\x22\xff", b"\x07", b"\x0b\x0c", b"\xff" * 11, b"\x0a\x05abc",
                                  b"\x08" + b"\xff" * 9 + b"\x02"])
def test_bytes_that_are_no_message(api, channel, data):
    for method in ("KvCache/Append", "KvCache/Lookup", "Profiles/Install", "Monitor/Watch"):
        call = channel.unary_stream(f"/deltapq.v1.{method}")
        assert "deltapq.v1." in refused(api, "INVALID_ARGUMENT", "MESSAGE", call, data).message
    call = channel.stream_unary("/deltapq.v1.Profiles/Calibrate")
    refused(api, "INVALID_ARGUMENT", "MESSAGE", call, iter([data]))


@pytest.mark.parametrize("unit", [b"\x78\x00", b"\xfa\x3f\x00", b"\x30\x01"])
def test_messages_that_would_take_far_more_memory(api, daemon, channel, unit):
    bomb = unit * (MESSAGE_LIMIT // len(unit))  # unknown fields, or numbers that are not packed
    before = daemon.peak_bytes()
    for method in ("KvCache/Lookup", "KvCache/CreateSequence", "Profiles/List"):
        call = channel.unary_unary(f"/deltapq.v1.{method}")
        refused(api, "INVALID_ARGUMENT", "MESSAGE", call, bomb)
    if not is_sanitized():
        assert daemon.peak_bytes() - before < 64 << 20


def test_many_small_token_ids(api, stubs, profile_id):
    request = api.LookupRequest(profile_id=profile_id, token_ids=[1] * (1 << 20))
    assert stubs.kv.Lookup(request, timeout=60).n_tokens == 0


def test_oversize_messages(api, stubs):
    numbers = random_numbers(8)
    request = append_request(api, 1, 0, numbers, inline_data=bytes(MESSAGE_LIMIT + 5000))
    assert "larger than max" in refused(api, "RESOURCE_EXHAUSTED", None, stubs.kv.Append,
                                        request).message
    request.inline_data = bytes((1 << 20) + 1)
    assert "1048577" in refused(api, "INVALID_ARGUMENT", "INLINE_SIZE", stubs.kv.Append,
                                request).message


def test_compressed_messages(api, stubs):
    refused(api, "UNIMPLEMENTED", None, stubs.kv.Attach, api.AttachRequest(client_name="a" * 60),
            compression=grpc.Compression.Gzip)


def test_metadata_is_limited(api, daemon):
    with open_channel(daemon.grpc_path) as channel:  # of its own: it may be closed
        refused(api, "RESOURCE_EXHAUSTED", None, Stubs(api, channel).monitor.GetStatus,
                api.GetStatusRequest(), metadata=[("x", "a" * 100000)])


def test_texts(api, stubs, channel):
    attach = stubs.kv.Attach
    assert "64 bytes" in refused(api, "INVALID_ARGUMENT", "TEXT", attach, api.AttachRequest(
        protocol=1, client_name="x" * 64)).message
    raw = channel.unary_unary("/deltapq.v1.KvCache/Attach")
    for text in (b"a\xc3(", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        data = b"\x08\x01\x1a" + bytes([len(text)]) + text
        assert "UTF-8" in refused(api, "INVALID_ARGUMENT", "TEXT", raw, data).message
    assert attach(api.AttachRequest(protocol=1, client_name="h\u00e9 \u20ac \U0001f600")).client_id
    refusal = refused(api, "FAILED_PRECONDITION", "PROTOCOL", attach, api.AttachRequest(protocol=9))
    assert "9" in refusal.message


# --- many calls, and calls that nobody waits for --------------------------------------------------

def test_parallel_calls(api, stubs, profile_id):
    ids = [stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
           for _ in range(64)]
    numbers = [random_numbers(160, seed) for seed in range(64)]
    calls = [stubs.kv.Append.future(append_request(api, i, 0, n)) for i, n in zip(ids, numbers)]
    assert [c.result(timeout=60).n_tokens for c in calls] == [160] * 64
    calls = [stubs.kv.Read.future(api.ReadRequest(
        sequence_id=i, first_token=128, n_tokens=32, tensor=tensor_of(api, n[:, :, :, 128:].copy())))
        for i, n in zip(ids, numbers)]
    for call, n in zip(calls, numbers):  # the raw tail comes back as it was
        assert call.result(timeout=60).inline_data == n[:, :, :, 128:].tobytes()
    for i in ids:
        stubs.kv.Release(api.ReleaseRequest(sequence_id=i, discard=True))


def test_cancelled_calls(api, daemon, stubs, profile_id):
    sequence = stubs.kv.CreateSequence(api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
    numbers, n_acknowledged, n_attempts = random_numbers(128), 0, 40
    for i in range(n_attempts):
        length = stubs.kv.Append(append_request(api, sequence, n_acknowledged, numbers)).n_tokens
        assert length == n_acknowledged + 128
        call = stubs.kv.Append.future(append_request(api, sequence, length, numbers))
        time.sleep(i % 4 / 1000)
        call.cancel()
        # it was stored or it was not: nothing between
        probe = refused(api, "OUT_OF_RANGE", "FIRST_TOKEN", stubs.kv.Append,
                        append_request(api, sequence, 1 << 19, numbers)).message
        n_acknowledged = length + 128 if f"has {length + 128} tokens" in probe else length
        assert f"has {n_acknowledged} tokens" in probe
    for i in range(20):
        with pytest.raises(grpc.RpcError) as error:
            stubs.kv.Append(append_request(api, sequence, n_acknowledged + (i + 1) * 128, numbers),
                            timeout=0.0001 * i)
        assert error.value.code().name in ("DEADLINE_EXCEEDED", "OUT_OF_RANGE")
    stubs.kv.Release(api.ReleaseRequest(sequence_id=sequence, discard=True))
    assert daemon.process.poll() is None


def test_connections_that_come_and_go(api, daemon):
    errors = []

    def churn():
        try:
            for _ in range(15):
                with open_channel(daemon.grpc_path) as channel:
                    stubs = Stubs(api, channel)
                    watch = stubs.monitor.Watch(api.WatchRequest(queue=2))
                    watch.initial_metadata()
                    stubs.kv.Attach(api.AttachRequest(protocol=1), timeout=20)
                    stubs.kv.Attach.future(api.AttachRequest(protocol=1)).cancel()
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=churn) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_errors_are_counted(api, stubs):
    before = stubs.monitor.GetStatus(api.GetStatusRequest()).errors
    refused(api, "NOT_FOUND", "SEQUENCE", stubs.kv.Release, api.ReleaseRequest(sequence_id=1))
    assert stubs.monitor.GetStatus(api.GetStatusRequest()).errors == before + 1


# --- the end --------------------------------------------------------------------------------------

def collect(replies, out):
    try:
        for reply in replies:
            out.append(reply)
    except grpc.RpcError as error:
        out.append((error.code().name, error.details()))


def test_shutdown_ends_watchers(api, make_daemon):
    daemon = make_daemon()
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        health, events = [], [[] for _ in range(10)]
        request = api["grpc.health.v1.HealthCheckRequest"]()
        calls = [(stubs.health.Watch(request), health)]
        calls += [(stubs.monitor.Watch(api.WatchRequest(flush_ms=1000 * i)), out) for i, out in enumerate(events)]
        threads = [threading.Thread(target=collect, args=c) for c in calls]
        for thread in threads:
            thread.start()
        for call, _ in calls:
            call.initial_metadata()
        wait_until(lambda: health)
        daemon.stop(timeout=10)
        for thread in threads:
            thread.join()
    end = ("UNAVAILABLE", "the daemon is shutting down")
    assert [r if isinstance(r, tuple) else r.status for r in health] == [1, 2, end]
    assert all(out[-1] == end for out in events)


def test_shutdown_cancels_what_does_not_end(api, make_daemon):
    daemon = make_daemon({"daemon": {"grace_seconds": 1}})
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        samples = itertools.repeat(random_numbers(1024))
        slow = (time.sleep(0.2) or r for r in calibrate_requests(api, samples))
        stuck = stubs.profiles.Calibrate.future(slow)
        time.sleep(1)
        began = time.monotonic()
        daemon.stop(timeout=20)
        assert 0.8 < time.monotonic() - began < 15
        assert Refusal(api, stuck.exception()).code.name in ("UNAVAILABLE", "CANCELLED")


def test_stop_while_big_replies_go_out(api, stubs, make_daemon, profile_id):
    """They arrive whole, and a write that had to wait does not hold up the end (gRPC's poller)."""
    file = stubs.profiles.Get(api.GetProfileRequest(profile_id=profile_id)).data
    numbers = random_numbers(2000)
    for _ in range(6):
        daemon = make_daemon()
        with open_channel(daemon.grpc_path) as channel:
            own = Stubs(api, channel)
            own.profiles.Install(api.InstallRequest(data=file, total_bytes=len(file)))
            sequence = own.kv.CreateSequence(
                api.CreateSequenceRequest(profile_id=profile_id)).sequence_id
            own.kv.Append(append_request(api, sequence, 0, numbers))
            request = api.ReadRequest(sequence_id=sequence, n_tokens=2000,
                                      tensor=tensor_of(api, numbers))
            calls = [own.kv.Read.future(request) for _ in range(4)]
            own.monitor.GetStatus(api.GetStatusRequest())  # they are under way
            began = time.monotonic()
            daemon.stop(timeout=20)
            assert time.monotonic() - began < 5
            assert {len(c.result(20).inline_data) for c in calls} == {numbers.nbytes}


def test_stop_while_calls_come(api, make_daemon):
    daemon = make_daemon()
    codes, stop = set(), threading.Event()

    def call():
        with open_channel(daemon.grpc_path) as channel:
            stubs = Stubs(api, channel)
            while not stop.is_set():
                try:
                    stubs.monitor.GetStatus(api.GetStatusRequest(), timeout=5)
                except grpc.RpcError as error:
                    codes.add(error.code().name)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    daemon.stop(timeout=10)
    stop.set()
    for thread in threads:
        thread.join()
    assert codes <= {"UNAVAILABLE", "CANCELLED"}
    assert not os.path.exists(daemon.grpc_path)
