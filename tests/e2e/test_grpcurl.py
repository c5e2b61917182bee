"""grpcurl and ghz, which know nothing but what reflection tells them, against a real daemon."""

import base64
import json
import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("grpcurl"),
                                reason="no grpcurl: scripts/deps installs it")

METHODS = {  # a request, and what its answer shows; "!" before a reason: the call is refused with it
    "deltapq.v1.KvCache/Attach": ({"protocol": 1, "clientName": "grpcurl"}, "clientId"),
    "deltapq.v1.KvCache/CreateSequence": ({"profileId": "PROFILE"}, "sequenceId"),
    "deltapq.v1.KvCache/Append": ({"sequenceId": "SEQUENCE", "nTokens": 1, "inlineData": "ROW", "tensor": {
        "dtype": "F16", "strideLayer": 256, "strideKind": 128, "strideHead": 64,
        "strideToken": 512}}, "nTokens"),
    "deltapq.v1.KvCache/Read": ({"sequenceId": "SEQUENCE", "nTokens": 1, "tensor": {
        "dtype": "F16", "strideLayer": 256, "strideKind": 128, "strideHead": 64,
        "strideToken": 512}}, "inlineData"),
    "deltapq.v1.KvCache/AppendStream": ({"sequenceId": "7", "nTokens": 1}, "!TENSOR"),
    "deltapq.v1.KvCache/ReadStream": ({"sequenceId": "SEQUENCE", "nTokens": 1, "dtype": "F16"}, "inlineData"),
    "deltapq.v1.KvCache/Export": ({"sequenceId": "SEQUENCE"}, "!EXPORT_IDS"),
    "deltapq.v1.KvCache/Import": ({"data": "AAAA"}, "!IMPORT_"),
    "deltapq.v1.KvCache/Lookup": ({"profileId": "PROFILE", "tokenIds": [1, 2]}, "epoch"),
    "deltapq.v1.KvCache/Fork": ({"sequenceId": "SEQUENCE"}, "nTokens"),
    "deltapq.v1.KvCache/Trim": ({"sequenceId": "SEQUENCE", "nTokens": 1}, "nTokens"),
    "deltapq.v1.KvCache/Pin": ({"sequenceId": "SEQUENCE", "ttlMs": 1000}, "leftMs"),
    "deltapq.v1.KvCache/Unpin": ({"sequenceId": "SEQUENCE"}, "wasPinned"),
    "deltapq.v1.KvCache/Delete": ({"sequenceId": "7"}, "!SEQUENCE"),
    "deltapq.v1.KvCache/Release": ({"sequenceId": "SEQUENCE"}, "freedBytes"),
    "deltapq.v1.Profiles/Calibrate": ({"begin": {"geometry": {}}}, "!GEOMETRY"),
    "deltapq.v1.Profiles/GetCalibration": ({"calibrationId": 7}, "!CALIBRATION"),
    "deltapq.v1.Profiles/Refine": ({"profileId": "PROFILE", "sampleRate": 1, "budgetTokens": 4096},
                                   "!REFINE_OFF"),
    "deltapq.v1.Profiles/Install": ({"data": "AAAA", "totalBytes": 3}, "!PROFILE_CORRUPT"),
    "deltapq.v1.Profiles/Remove": ({"profileId": "A" * 43 + "="}, "!PROFILE"),
    "deltapq.v1.Profiles/List": ({}, "profiles"),
    "deltapq.v1.Profiles/Get": ({"profileId": "PROFILE", "maxBytes": 8}, "totalBytes"),
    "deltapq.v1.Profiles/Audit": ({"profileId": "PROFILE", "maxRows": 1}, "summary"),
    "deltapq.v1.Monitor/GetStatus": ({}, "daemonVersion"),
    "deltapq.v1.Monitor/Watch": ({"queue": 16}, "incarnation"),
    "deltapq.v1.Monitor/Ack": ({"subscriberId": "7"}, "!SUBSCRIBER"),
    "deltapq.v1.Monitor/GetRisk": ({}, "{"),
    "deltapq.v1.Monitor/Report": ({"sequenceId": "7", "errorRatio": 1}, "!SEQUENCE"),
    "deltapq.v1.Monitor/Reset": ({"sequenceId": "7"}, "!SEQUENCE"),
    "grpc.health.v1.Health/Check": ({}, "SERVING"),
    "grpc.health.v1.Health/Watch": ({}, "SERVING"),
}


def grpcurl(daemon, *args, limit=20):
    done = subprocess.run(["grpcurl", "-plaintext", "-unix", *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=limit)
    return done.returncode, done.stdout


def test_list_and_describe(daemon):
    code, out = grpcurl(daemon, daemon.grpc_path, "list")
    assert code == 0, out
    services = set(out.split())
    assert {m.split("/")[0] for m in METHODS} <= services
    listed = set()
    for service in services:
        code, out = grpcurl(daemon, daemon.grpc_path, "list", service)
        assert code == 0, out
        listed |= {".".join(line.split(".")[:-1]) + "/" + line.split(".")[-1] for line in out.split()}
        assert grpcurl(daemon, daemon.grpc_path, "describe", service)[0] == 0
    assert {m for m in listed if "reflection" not in m} == set(METHODS)


def test_every_method_can_be_called(daemon, profile_id):
    fill = {"PROFILE": base64.b64encode(profile_id).decode(), "ROW": base64.b64encode(bytes(512)).decode()}
    for method, (request, shown) in METHODS.items():
        text = json.dumps(request)
        for name, value in fill.items():
            text = text.replace(f'"{name}"', json.dumps(value))
        watches = method.endswith("/Watch")
        code, out = grpcurl(daemon, *(["-max-time", "1"] if watches else []), "-d", text,
                            daemon.grpc_path, method)
        assert shown.lstrip("!") in out, (method, out)
        assert watches or (code == 0) == (shown[0] != "!"), (method, out)
        if method.endswith("CreateSequence"):
            fill["SEQUENCE"] = json.loads(out)["sequenceId"]


@pytest.mark.skipif(not shutil.which("ghz"), reason="no ghz: scripts/deps installs it")
def test_ghz(daemon):
    """2,000 calls, 16 at a time, all answered."""
    done = subprocess.run(["ghz", "--insecure", "--call", "deltapq.v1.Monitor/GetStatus", "-n", "2000",
                           "-c", "16", "-d", "{}", "-O", "json", f"unix://{daemon.grpc_path}"],
                          stdout=subprocess.PIPE, text=True, timeout=60,
                          env={**os.environ, "GOMAXPROCS": "2"})
    report = json.loads(done.stdout)
    assert report["statusCodeDistribution"] == {"OK": 2000}
