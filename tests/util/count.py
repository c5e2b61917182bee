#!/usr/bin/env python3
"""count.py FILE...: print "passed failed skipped" of JUnit files; no file or no test is one failure."""
import sys
import xml.etree.ElementTree as tree


def count(path):
    """One file's counts."""
    passed = failed = skipped = 0
    for case in tree.parse(path).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main():
    total = [0, 0, 0]
    for path in sys.argv[1:]:
        try:
            counts = count(path)
        except (OSError, tree.ParseError):
            counts = 0, 1, 0
        total = [a + b for a, b in zip(total, counts)]
    if not any(total):
        total[1] = 1
    print(*total)


main()
