"""False alarms of the monitor on held-out text, and that it does speak up: tests/bench/risk in a reduced
form. One profile of reference auto, learned from all calibration windows; it is kept under .cache/risk."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))

from risk import texts  # noqa: E402
from risk.replay import RED, YELLOW, Monitored  # noqa: E402
from risk.scenarios import Bench, alarms  # noqa: E402

N_WINDOWS = 16  # of 1,024 tokens
LIMITS = {"yellow": 2.0, "red": 0.1}  # entries in 10,000 tokens, mean over streams; of the worst 10 times it


@pytest.fixture(scope="module")
def bench(smol):
    monitored = Monitored(smol.geometry)
    yield Bench(smol, monitored)
    monitored.close()


def test_false_alarms(bench, smol):
    """16,384 tokens of other files of the genres that were learned."""
    profile_id = bench.learned("auto")
    found = alarms([bench.watched(profile_id, w) for w in texts.held_out(smol.tokenizer, N_WINDOWS)])
    print(f"\nentries in 10,000 tokens: {found}")
    for zone, limit in LIMITS.items():
        assert found[zone]["mean"] <= limit
        assert found[zone]["worst_stream"] <= 10 * limit or zone == "red"  # one entry of 16 windows is .6


def test_turned_values(bench, smol):
    """Values times a random orthogonal matrix a head are not what the profile knows: nearly all their
    streams are judged Red on the samples of two groups."""
    window, random = texts.held_out(smol.tokenizer, 1)[0], np.random.default_rng(1)
    numbers = smol.numbers(window).astype(np.float32)
    for layer in range(smol.geometry.n_layers):
        for head in range(smol.geometry.n_kv_heads):
            turn = np.linalg.qr(random.standard_normal((smol.geometry.head_dim,) * 2))[0]
            numbers[layer, 1, head] = numbers[layer, 1, head] @ turn.astype(np.float32)
    replay = bench.monitored.replay(bench.learned("auto"), numbers.astype(np.float16), read=False)
    is_value = np.arange(replay.n_streams) // smol.geometry.n_kv_heads % 2 == 1
    judged = (replay.first(RED) <= 64)[is_value].mean()
    print(f"\nvalues judged Red within 64 tokens: {judged:.1%}; Yellow: {(replay.first(YELLOW) <= 64)[is_value].mean():.1%}")
    assert judged >= 0.95
