"""What the checks share: the tree to look at, and how a finding is reported.

    check-X.py ROOT [--expect FILE]

Without --expect, any finding fails. With it, ROOT is a tree of planted violations and the findings must
be exactly FILE's lines (path:line, and a word of the message): a check that finds nothing is worth nothing.
"""
import argparse
import os
import pathlib
import subprocess
import sys

IGNORED = {".git", ".venv", ".deps", ".cache", "__pycache__"}


class Check:
    """Collects findings; finish() ends the program."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("root", type=pathlib.Path)
        parser.add_argument("--expect", type=pathlib.Path)
        parser.add_argument("rest", nargs="*")
        args = parser.parse_args()
        self.root, self.expect, self.rest = args.root.resolve(), args.expect, args.rest
        self.found = []

    def tracked(self):
        """What git tracks or would add; every file where there is no git. Not the planted violations."""
        try:
            done = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
                                   "--exclude-standard", "."], cwd=self.root, capture_output=True, check=True)
            listed = sorted({os.fsdecode(name) for name in done.stdout.split(b"\0") if name})
        except (OSError, subprocess.CalledProcessError):
            listed = []
            for here, folders, names in os.walk(self.root):
                folders[:] = sorted(f for f in folders if f not in IGNORED and not f.startswith("build"))
                listed += [(pathlib.Path(here) / name).relative_to(self.root).as_posix() for name in sorted(names)]
        return [p for p in listed if "style/bad-" not in p and (self.root / p).is_file()]

    def files(self, *suffixes, under):
        """Those with one of the suffixes below one of the folders."""
        return [p for p in self.tracked() if p.endswith(suffixes) and p.startswith(tuple(f"{f}/" for f in under))]

    def read(self, path):
        """Text, or None for what is not text."""
        try:
            return (self.root / path).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return None

    def report(self, path, line, message):
        self.found.append((path, line, message))
        print(f"{path}:{line}: {message}")

    def finish(self):
        if self.expect is None:
            sys.exit(bool(self.found))
        expected = [line.split(None, 1) for line in self.expect.read_text(encoding="utf-8").splitlines()]
        left = list(self.found)
        wrong = 0
        for place, word in expected:
            match = [f for f in left if f"{f[0]}:{f[1]}" == place and word in f[2]]
            if match:
                left.remove(match[0])
            else:
                wrong += 1
                print(f"not found: {place}: {word}")
        for path, line, message in left:
            wrong += 1
            print(f"not expected: {path}:{line}: {message}")
        sys.exit(bool(wrong or not expected))
