#!/usr/bin/env python3
"""check-format.py ROOT CLANG-FORMAT: the layout is .clang-format's, and it is version 14's reading of it."""
import pathlib
import re
import subprocess
import sys

from check import Check


def main():
    check = Check()
    tool = check.rest[0] if check.rest else ""
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout if tool else ""
    if "version 14." not in version:
        print("clang-format-14 is needed: other versions lay out differently")
        sys.exit(1)
    names = list(check.files(".c", ".h", under=("lib", "daemon", "clients", "tests")))
    done = subprocess.run([tool, "--dry-run", *names], cwd=check.root, capture_output=True, text=True, check=True)
    for path, line in sorted(set(re.findall(r"^(\S+?):(\d+):\d+: warning: ", done.stderr, re.M))):
        check.report(pathlib.PurePosixPath(path), line, "clang-format lays this out differently")

    # Does it tell at all?
    bad = subprocess.run([tool, "--dry-run", "-Werror", f"--assume-filename={check.root}/lib/x.c"], input="int  x ;\n",
                         capture_output=True, text=True, check=False)
    if bad.returncode == 0:
        check.report(".clang-format", 1, "accepts anything")
    check.finish()


main()
