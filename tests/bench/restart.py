#!/usr/bin/env python3
"""The whole daemon, killed with an arena full of tiles of SmolLM2-135M's geometry, and started again: how
long until it is ready, until a first read of what was stored has come, and what is needed beside the tiles.

usage: tests/bench/restart.py [--gib N] [--rounds N] [--json]   (environment: DELTAPQD, DELTAPQ_LIBRARY; see
scripts/test; PYTHONPATH=clients/python:tests/e2e)

The numbers are random and their token ids all different, so nothing is shared. The arena is a file on
/dev/shm, which has to have the room. Filling takes some two minutes a GiB on two busy cores. Being ready is
read from the log, every 20 ms; bench_store measures the store alone."""

import argparse
import json
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
N_LAYERS, N_HEADS, HEAD_DIM = 30, 3, 64
PART, N_EACH = 1024, 8192  # tokens a request, and a sequence


def anonymous_bytes(daemon) -> int:
    """Of the daemon: without the arena, and what files it maps."""
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def train(client) -> bytes:
    import numpy as np
    from deltapq import Geometry
    rng = np.random.default_rng(2)
    geometry = Geometry(n_layers=N_LAYERS, n_kv_heads=N_HEADS, n_q_heads=9, head_dim=HEAD_DIM,
                        rope_pairing="half", rotary_dim=HEAD_DIM, rope_theta=1e5, n_sink=4)
    samples = [(rng.standard_normal((N_LAYERS, 2, N_HEADS, PART, HEAD_DIM)).astype(np.float16), i * PART)
               for i in range(2)]
    return client.calibrate(geometry, samples, model_name="random", reference="none").profile_id


def fill(client, profile_id, wanted_bytes: int, status):
    """Sequences until so much is in use. The first of them, and what it reads as."""
    import numpy as np
    rng = np.random.default_rng(1)
    numbers = rng.standard_normal((N_LAYERS, 2, N_HEADS, PART, HEAD_DIM)).astype(np.float16)
    first, n = None, 0
    while status().arena_used_bytes < wanted_bytes:
        sequence = client.create_sequence(profile_id)
        for _ in range(N_EACH // PART):
            client.append(sequence, numbers, range(n, n + PART))
            n += PART
        first = first or sequence
    return first, client.read(first, 0, 128, dtype="f16", via="staging")


def restart(daemon, first, want) -> tuple[float, float]:
    """Milliseconds from the start of a process to its being ready, and to a first read."""
    from deltapq import Client
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    begin = time.perf_counter()
    daemon.start()
    ready = time.perf_counter() - begin
    with Client(daemon.grpc_path, staging_bytes=8 << 20) as client:
        assert (client.read(first, 0, 128, dtype="f16") == want).all()
    return 1e3 * ready, 1e3 * (time.perf_counter() - begin)


def measure(gib: float, rounds: int) -> dict:
    from deltapq import Client
    from frame import Daemon
    keep = tempfile.mkdtemp(prefix="dpq-restart-", dir="/dev/shm")
    arena = int((gib * 1.04 + .1) * 1024)
    try:
        with Daemon({"daemon": {"arena_dir": f"{keep}/arenas", "cpu": "auto", "log_level": "info"},
                     "tenant test": {"arena_bytes": f"{arena}M", "staging_bytes": "64M",
                                     "staging_total_bytes": "256M", "monitor": "false"}}) as daemon:
            idle = anonymous_bytes(daemon)
            with Client(daemon.grpc_path, staging_bytes=64 << 20, timeout=600) as client:
                profile_id = train(client)
                first, want = fill(client, profile_id, int(gib * 2 ** 30), client.status)
                status = client.status()
            times = [restart(daemon, first, want) for _ in range(rounds)]
            resident = anonymous_bytes(daemon)
    finally:
        shutil.rmtree(keep)
    slots = (arena << 20) // 16384 * 128
    return {"stored GiB": status.arena_used_bytes / 2 ** 30, "tiles": status.n_tiles,
            "ready, best ms": min(t[0] for t in times), "ready, median ms": statistics.median(t[0] for t in times),
            "first read, median ms": statistics.median(t[1] for t in times),
            "slot table, % of what is stored": 100 * slots / status.arena_used_bytes,
            "anonymous memory beyond an empty daemon's, %": 100 * max(0, resident - idle) / status.arena_used_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.gib, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:50} {value:12.4g}")


if __name__ == "__main__":
    main()
