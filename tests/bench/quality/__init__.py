"""The quality bench: ours and other codecs on the same windows of real text. See __main__.py.

fly.py         a cache that codes what the model gives it
peers.py       other codecs                             ours.py      profiles of this project, by the library
verdicts.py    one codec on one window, kept on disk    figures.py   what a table says, with intervals
gate.py        the limits                               report.py    Markdown and JSON
generation.py  greedy continuations                     picture.py   KL over bits, SVG
metric.py      the output metric, for calibration       setups.json  which profiles to judge"""
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
for folder in ("clients/python", "tests/model"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

CACHE = ROOT / ".cache/quality"
