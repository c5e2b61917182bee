"""What the exact model makes of windows of real text. Its KV is kept under .cache/kv: a second run, and
tests/bench/quality.py, do not compute it again."""

import hashlib
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "clients/python"), str(ROOT / "tests/e2e")]

from deltapq.demo import model as demo_model, judge, windows  # noqa: E402
from deltapq import hf  # noqa: E402
import torch  # noqa: E402  after demo, which silences what it brings

LIST = ROOT / "tests/data/windows.txt"


class Smol:
    """The model, and what it says about a window."""

    def __init__(self):
        self.model, self.tokenizer = demo_model.load()
        self.geometry = hf.geometry_of(self.model)
        self.folder = ROOT / ".cache/kv"
        self.folder.mkdir(parents=True, exist_ok=True)

    def ids(self, window):
        return windows.tokens(window, self.tokenizer)

    def numbers(self, window):
        """float16 [layers, 2, heads, 1024, head_dim]"""
        made_of = demo_model.gguf_path().name + window.sha256
        path = self.folder / f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, hf.numbers_of(hf.cache_of(hf.forward(self.model.model, self.ids(window)))))
            part.rename(path)
        return np.load(path)

    def logits(self, window):
        """Exact ones, float16 to save memory: 2e-4 of a logit do not matter here."""
        return hf.forward(self.model, self.ids(window)).logits[0].half()

    def verdict(self, window, exact, kept):
        """Of a pass whose attention sees kept instead of what the model computes, at every position."""
        logits = judge.logits_with(self.model, self.ids(window), torch.from_numpy(kept))
        return judge.Verdict.of(exact.float(), logits, self.ids(window)[0, 1:])

    def through(self, client, profile_id, window, rate):
        """The window's KV as it comes back from the daemon, float32, and the true bits a number."""
        tokens = self.ids(window)[0].tolist()
        before = client.status()
        sequence = client.create_sequence(profile_id, rate=rate)
        client.append(sequence, self.numbers(window), tokens)
        after = client.status()
        kept = client.decode_local(profile_id, tokens, rate=rate)
        client.release(sequence, discard=True)
        stored = after.tile_stored_bytes - before.tile_stored_bytes
        return kept, 8 * stored / (after.tile_numbers - before.tile_numbers)

    def calibrate(self, client, chosen, progress=None):
        return client.calibrate(self.geometry, ((self.numbers(w), 0) for w in chosen),
                                model_name=demo_model.NAME, progress=progress)
