"""One codec on one window, kept under .cache/quality: a bench that was stopped goes on where it was."""
from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import torch

from quality import CACHE
from kvdump import demo_model, judge

FIELDS = [f.name for f in dataclasses.fields(judge.Verdict)]


def key(*parts) -> str:
    """Of what decides a result; strings and numbers."""
    return hashlib.sha256(json.dumps([demo_model.gguf_path().name, *parts]).encode()).hexdigest()[:32]


def path(name: str, suffix: str):
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE / f"{name}{suffix}"


def load(name: str):
    """The verdict kept under a key and its true bits {"true_bits", "true_bits_window"}, or None."""
    file = path(name, ".npz")
    if not file.exists():
        return None
    kept = np.load(file)
    return (judge.Verdict(*(torch.from_numpy(kept[f]).double() for f in FIELDS)),
            {k: float(kept[k]) for k in kept.files if k not in FIELDS})


def save(name: str, verdict, bits: dict) -> None:
    part = path(name, ".part.npz")
    numbers = {f: getattr(verdict, f).float().cpu().numpy() for f in FIELDS}
    np.savez(part, **numbers, **bits)
    part.rename(path(name, ".npz"))
