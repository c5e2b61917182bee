"""The C client's own program against a real daemon: staging, inline and local decode."""

import os
import pathlib
import re
import subprocess

import pytest

pytest.importorskip("grpc")
PROGRAM = pathlib.Path(os.environ.get("DELTAPQD", "deltapqd")).parent.parent / "clients/c/test_client"


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} was not built")
def test_c_client(make_daemon, api, tmp_path):
    from rpc import Stubs, calibrate_requests, open_channel, random_numbers
    daemon = make_daemon({"tenant test": {"arena_bytes": "64M", "staging_bytes": "256M",
                                          "staging_total_bytes": "256M"}})
    with open_channel(daemon.grpc_path) as channel:
        stubs = Stubs(api, channel)
        digest = stubs.profiles.Calibrate(
            calibrate_requests(api, [random_numbers(1024, seed) for seed in (1, 2)]),
            timeout=120).profile_id
        data, total = b"", 1
        while len(data) < total:
            reply = stubs.profiles.Get(api.GetProfileRequest(profile_id=digest, offset=len(data)))
            data, total = data + reply.data, reply.total_bytes
    file = tmp_path / "profile"
    file.write_bytes(data)
    # gcc's thread sanitizer can't cope with the widest address layouts
    done = subprocess.run(["setarch", "-R", str(PROGRAM), daemon.grpc_path, str(file)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert not re.search(r"^not ok", done.stdout, re.M), done.stdout
    assert len(re.findall(r"^ok", done.stdout, re.M)) >= 20
