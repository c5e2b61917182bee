#!/usr/bin/env python3
"""Scripts parse, and what starts with #! can be started."""
import ast
import os
import subprocess

from check import Check


def main():
    check = Check()
    for path in check.tracked():
        text = check.read(path)
        if text is None:
            continue
        first = text.split("\n", 1)[0]
        if first.startswith("#!") and not os.access(check.root / path, os.X_OK):
            check.report(path, 1, "begins with #! but is not executable")
        if path.endswith(".py") or ("python" in first and first.startswith("#!")):
            try:
                ast.parse(text, path)
            except SyntaxError as error:
                check.report(path, error.lineno, f"does not parse: {error.msg}")
        elif first.startswith("#!") and first.endswith("sh"):
            done = subprocess.run([first[2:].split()[-1], "-n", check.root / path], capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                check.report(path, 1, f"does not parse: {done.stderr.strip().splitlines()[0]}")
    check.finish()


main()
