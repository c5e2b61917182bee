"""bench_scale in its smallest form: that it measures all it says, not how fast anything is."""

import json
import os
import pathlib
import subprocess

import pytest

DAEMON = pathlib.Path(os.environ.get("DELTAPQD", "deltapqd"))
PROGRAM = DAEMON.parent.parent / "clients/c/bench_scale"
PROFILE = pathlib.Path(__file__).resolve().parents[1] / "golden/toy.profile"


SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ


def bench(*options):
    """Lines, by what they are of."""
    # a process that forks is better off without OpenBLAS' threads
    done = subprocess.run(["setarch", "-R", str(PROGRAM), "--json", "--daemon", str(DAEMON), "--profile", str(PROFILE),
                           *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    of = {}
    for line in map(json.loads, done.stdout.splitlines()):
        of.setdefault(line["bench"], []).append(line)
    return of


@pytest.mark.skipif(not PROGRAM.exists() or SANITIZED, reason="a bench of what is released")
def test_bench_scale():
    of = bench("--tokens", "128,256,512", "--gib", "0,0.002", "--clients", "1,2", "--requests", "512", "--rounds", "2",
               "--seconds", ".1")
    assert len(of["length"]) == 8 * 2 * 3 and len(of["slope"]) == 8 * 2
    assert [x["clients"] for x in of["clients"]] == [1, 2, 1, 2]
    assert all(x["tokens_per_s"] > 0 for x in of["clients"])
    assert [x["same_numbers"] for x in of["share"]] == [True] and of["share"][0]["cpu_share"] > 0
    assert of["call"][0]["p50_us"] > 0
    assert of["memory"][0]["tokens"] == 512


@pytest.mark.skipif(not PROGRAM.exists() or SANITIZED, reason="counted in a daemon as it is released")
def test_limits():
    of = bench("--tokens", "128,65536", "--only", "memory,allocations", "--counter",
               str(PROGRAM.with_name("libcount_alloc.so")))
    # 4 MiB of encoded tiles are made meanwhile
    assert of["memory"][0]["peak_mib"] < 2
    assert of["allocations_per_token"][0]["read"] == 0
    assert of["allocations_per_token"][0]["append"] < .2  # some a tile
