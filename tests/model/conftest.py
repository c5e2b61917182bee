"""Fixtures of the model tests: the real model, a daemon, one profile."""

import os

import pytest

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from kvdump import LIST, Smol, windows  # noqa: E402
from deltapq import Client  # noqa: E402
from frame import Daemon  # noqa: E402

FULL = os.environ.get("DELTAPQ_FULL") == "1"


@pytest.fixture(scope="session")
def smol():
    return Smol()


@pytest.fixture(scope="session")
def client():
    sizes = {"arena_bytes": "256M", "staging_bytes": "64M", "staging_total_bytes": "256M"}
    with Daemon({"tenant test": sizes}) as daemon, \
            Client(daemon.grpc_path, name="model-tests", timeout=120) as client:
        yield client
        client.close()
        daemon.stop()


@pytest.fixture(scope="session")
def profile_id(client, smol):
    chosen = windows.read(LIST, "calibrate")
    reply = smol.calibrate(client, chosen)
    print(f"\ncalibrated on {reply.n_tokens} tokens of {len(chosen)} windows: training took "
          f"{reply.train_seconds:.1f} s")
    return reply.profile_id


@pytest.fixture(scope="session")
def evaluated(smol):
    """[(window, exact logits)], two windows a genre."""
    return [(w, smol.logits(w)) for w in windows.read(LIST, "evaluate", None if FULL else 2)]
