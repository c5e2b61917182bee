"""Fixtures of the model tests: the real model, its KV on real text, a daemon, one profile.

The KV of each window is kept under .cache/kv, so that a second run does not compute it again."""

import hashlib
import os
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
sys.path.insert(0, str(ROOT / "clients/python"))
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from deltapq import Client, hf  # noqa: E402
from deltapq.demo import judge, model as demo_model, windows  # noqa: E402
from frame import Daemon  # noqa: E402

FULL = os.environ.get("DELTAPQ_FULL") == "1"
LIST = ROOT / "tests/data/windows.txt"


@pytest.fixture(scope="session")
def smollm():
    """(model, tokenizer)"""
    return demo_model.load()


@pytest.fixture(scope="session")
def numbers(smollm):
    """A function: the KV of a window, float16 [layers, 2, heads, 1024, head_dim]."""
    model, tokenizer = smollm
    cache = ROOT / ".cache/kv"
    cache.mkdir(parents=True, exist_ok=True)

    def of(window):
        key = hashlib.sha256((demo_model.gguf_path().name + window.sha256).encode()).hexdigest()[:24]
        path = cache / f"{key}.npy"
        if not path.exists():
            output = hf.forward(model.model, windows.tokens(window, tokenizer))
            part = path.with_suffix(".part.npy")
            np.save(part, hf.numbers_of(hf.cache_of(output)))
            part.rename(path)
        return np.load(path)
    return of


@pytest.fixture(scope="session")
def client():
    daemon = Daemon({"tenant test": {"arena_bytes": "768M", "staging_bytes": "64M",
                                     "staging_total_bytes": "256M"}})
    with daemon, Client(daemon.grpc_path, name="model-tests", timeout=120) as client:
        yield client
        client.close()
        daemon.stop()


@pytest.fixture(scope="session")
def profile_id(client, smollm, numbers):
    chosen = windows.read(LIST, "calibrate", None if FULL else 3)
    reply = client.calibrate(hf.geometry_of(smollm[0]), ((numbers(w), 0) for w in chosen),
                             model_name=demo_model.NAME)
    print(f"\ncalibrated on {reply.n_tokens} tokens of {len(chosen)} windows in "
          f"{reply.train_seconds:.1f} s")
    return reply.profile_id


@pytest.fixture(scope="session")
def evaluated(smollm):
    """[(window, token ids, exact logits)], two windows a genre."""
    model, tokenizer = smollm
    out = []
    for window in windows.read(LIST, "evaluate", None if FULL else 2):
        ids = windows.tokens(window, tokenizer)
        out.append((window, ids, hf.forward(model, ids).logits[0].half()))
    return out


def verdict(model, ids, exact, kept):
    """Of a pass whose attention sees kept (float32 NumPy) instead of what the model computes."""
    import torch
    logits = judge.logits_with(model, ids, torch.from_numpy(kept))
    return judge.Verdict.of(exact.float(), logits, ids[0, 1:])
