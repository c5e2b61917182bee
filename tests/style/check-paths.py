#!/usr/bin/env python3
"""The tree is the same everywhere: no path of one machine, no stray artefact, no line end of another system."""
import re

from check import Check

# In two pieces, so that this file passes.
MACHINE = re.compile(r"(?<![\w.$}])/" + r"(work|root|home/\w+|tmp/(?:venv|b-|p/)|Users)/[\w.]")
ARTEFACT = re.compile(r".*\.(o|a|so|pyc|orig|rej|swp|whl|egg|log)$|.*~$|(.*/)?core$")
LARGE = 2 << 20  # bytes


def main():
    check = Check()
    for path in check.tracked():
        if ARTEFACT.fullmatch(path):
            check.report(path, 1, "an artefact")
            continue
        size = (check.root / path).stat().st_size
        if size > LARGE:
            check.report(path, 1, f"{size} bytes are more than a source tree should carry in one file")
            continue
        text = check.read(path)
        if text is None:
            continue
        if text and not text.endswith("\n"):
            check.report(path, text.count("\n") + 1, "no newline at the end")
        for number, line in enumerate(text.split("\n"), 1):
            if MACHINE.search(line):
                check.report(path, number, "a path of one machine")
            if line.endswith("\r"):
                check.report(path, number, "a carriage return")
            if line.rstrip("\r") != line.rstrip() and not path.endswith(".md"):
                check.report(path, number, "white space at the end")
            if "\t" in line and re.search(r"\.(c|h|py|proto|build)$", path):
                check.report(path, number, "a tabulator")
    check.finish()


main()
