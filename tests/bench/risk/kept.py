"""What was measured, kept under .cache/risk: a bench that was stopped goes on where it was.

A name is made of all that decides a result: profiles of the library that learned them, what the monitor
did of the daemon, too. Another build starts anew."""
from __future__ import annotations

import hashlib
import json
import pathlib

from frame import BINARY
from kvdump import demo_model
from quality.ours import library_id
from risk import ROOT

FOLDER = ROOT / ".cache/risk"


def daemon_id() -> str:
    return hashlib.sha256(pathlib.Path(BINARY).read_bytes()).hexdigest()


def file(suffix: str, *parts) -> pathlib.Path:
    """Where the result of these parts is kept, of any build."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    key = json.dumps([demo_model.gguf_path().name, *parts], default=str)
    return FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{suffix}"


def data(make, *parts) -> bytes:
    """make() as bytes, or what it gave before under the same parts and library."""
    path = file(".bin", library_id(), *parts)
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_bytes(make())
        part.rename(path)
    return path.read_bytes()


def value(make, *parts):
    """The same of what JSON can say."""
    return json.loads(data(lambda: json.dumps(make()).encode(), *parts))
