#!/usr/bin/env python3
"""A module is a file (or a family: tile_encode.c, tile_view.c), its prefix and its test.

Base names are unique; a unit test is called after its module and says its name on its first line.
"""
import pathlib
import re

from check import Check

SOURCES = ("lib", "daemon", "clients")


def main():
    check = Check()
    at = {}
    for path in check.files(".c", ".h", under=SOURCES):
        name = pathlib.PurePosixPath(path).name
        if name in at:
            check.report(path, 1, f"{name} is also in {at[name]}: base names are unique")
        at[name] = path
    for path in check.files(".c", under=("tests/unit",)):
        module = re.fullmatch(r"test_(\w+)\.c", pathlib.PurePosixPath(path).name)
        if not module:
            check.report(path, 1, "unit tests are called test_<module>.c")
            continue
        if not any(re.fullmatch(rf"{module[1]}(_\w+)?\.[ch]", name) for name in at):
            check.report(path, 1, f"there is no module {module[1]}")
        text = check.read(path)
        first = re.match(r"\s*(/\*.*?\*/|//[^\n]*)", text, re.S)
        if not first or not re.search(rf"\b{module[1]}\b", first[1].splitlines()[0]):
            check.report(path, 1, f"the first line is a comment that names the module {module[1]}")
    check.finish()


main()
