"""What the risk monitor does with caches of the real model. See __main__.py.

texts.py      windows that no profile was learned from, German, random tokens
models.py     the model, the same with other weights, a profile with a damaged predictor
kept.py       results on disk
replay.py     a cache through a daemon: its events, its bits, what comes back
scenarios.py  what is replayed, and what should be seen
report.py     figures, Markdown, the picture of μ over tokens"""
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
for folder in ("clients/python", "tests/model", "tests/e2e", "tests/bench"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
