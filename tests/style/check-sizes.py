#!/usr/bin/env python3
"""A hub file spoils a code base: caps on files and functions."""
from check import Check

FILE, FUNCTION = 500, 80  # lines
TEST_FILE = 1200          # many small functions, read one at a time


def main():
    check = Check()
    for path in check.files(".c", ".h", under=("lib", "daemon", "clients", "tests")):
        lines = check.read(path).splitlines()
        cap = TEST_FILE if path.startswith("tests/") else FILE
        if len(lines) > cap:
            check.report(path, len(lines), f"{len(lines)} lines; at most {cap}")
        start = None
        for number, line in enumerate(lines, 1):
            if line == "{":
                start = number
            elif line == "}" and start:
                if number - start > FUNCTION:
                    check.report(path, start, f"a function of {number - start} lines; at most {FUNCTION}")
                start = None
    check.finish()


main()
