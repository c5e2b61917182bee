"""Windows of text: of the genres that profiles are calibrated on, but of other files; and stranger ones.

All from what scripts/deps installs. A window is 1,024 tokens, a sequence of its own."""
from __future__ import annotations

import hashlib
import itertools
import pathlib

import numpy as np
import torch

from deltapq.demo import windows
from kvdump import LIST

GERMAN = windows.HANDBOOK.replace("en-US", "de-DE")


class Strange:
    """Tokens without a text."""

    def __init__(self, genre: str, ids: np.ndarray):
        self.genre, self.ids = genre, torch.from_numpy(ids)[None]
        self.sha256 = hashlib.sha256(ids.tobytes()).hexdigest()


def of_file(genre: str, file: str):
    """All windows of a file, one after another."""
    text = windows.extract(file)
    for first in range(0, len(text) - windows.CHARACTERS + 1, windows.CHARACTERS):
        part = text[first:first + windows.CHARACTERS]
        yield windows.Window("risk", genre, "", "", file, first, hashlib.sha256(part.encode()).hexdigest())


def files(folder: str, pattern: str) -> list[str]:
    """That no window of windows.txt is from."""
    known = {w.file for purpose in ("evaluate", "calibrate") for w in windows.read(LIST, purpose)}
    return [str(p) for p in sorted(pathlib.Path(folder).glob(pattern))
            if p.is_file() and not p.is_symlink() and str(p) not in known]


def fits(window, tokenizer) -> bool:
    try:
        windows.tokens(window, tokenizer)
    except ValueError:
        return False
    return True


def take(genre, names, tokenizer, n):
    """n windows, of each file in turn its next one."""
    turns = itertools.zip_longest(*(of_file(genre, f) for f in names))
    found = (w for turn in turns for w in turn if w is not None and fits(w, tokenizer))
    return list(itertools.islice(found, n))


def held_out(tokenizer, n: int):
    """n windows of the three genres, a third each."""
    fortunes = [f for f in files(windows.FORTUNES, "*") if "." not in pathlib.Path(f).name]
    parts = [take("docs", files(windows.HANDBOOK, "sect.*.html"), tokenizer, -(-n // 3)),
             take("prose", fortunes, tokenizer, -(-n // 3)),
             take("code", files(windows.PYTHON, "*.py"), tokenizer, -(-n // 3))]
    return [w for turn in itertools.zip_longest(*parts) for w in turn if w is not None][:n]


def code(tokenizer, n: int):
    return take("code", files(windows.PYTHON, "*.py"), tokenizer, n)


def german(tokenizer, n: int):
    return take("german", files(GERMAN, "sect.*.html"), tokenizer, n)


def random_tokens(tokenizer, n: int):
    random = np.random.default_rng(1)
    return [Strange("random", random.integers(0, len(tokenizer), windows.TOKENS)) for _ in range(n)]
