#!/usr/bin/env python3
"""Who may include whom. Arrows between folders, and one door for each thing from outside."""
import pathlib
import re

from check import Check

LIB = {"lib", "lib/base", "lib/kern", "lib/codec", "lib/risk", "lib/store"}
ALLOWED = {  # folder: the project's folders it may include; "lib" is lib/deltapq.h
    "lib":         {"lib", "lib/base"},
    "lib/base":    {"lib/base"},
    "lib/kern":    {"lib/base", "lib/kern"},
    "lib/codec":   {"lib", "lib/base", "lib/kern", "lib/codec"},
    "lib/risk":    {"lib", "lib/base", "lib/kern", "lib/risk"},
    "lib/store":   {"lib", "lib/base", "lib/store"},
    "daemon":      LIB | {"daemon"},
    "daemon/rpc":  {"lib", "lib/base", "daemon", "daemon/rpc", "proto"},
    "clients/c":   {"lib", "lib/base", "clients/c", "proto"},
    "clients/ctl": {"lib", "clients/c", "clients/ctl"},
}
MAIN = {"daemon/main.c": {"daemon/rpc"}, "daemon/life.c": {"daemon/rpc"}}  # start and stop both sides
DOOR = {  # header: the only files that may include it
    r"grpc/|protobuf-c/|.*\.pb-c\.h": r"(daemon/rpc|clients/c)/",
    r"uv\.h|uv/":                     r"daemon/[^/]+",
    r"microhttpd\.h":                 r"daemon/http\w*\.c",
    r"ini\.h":                        r"daemon/config\.c",
    r"systemd/":                      r"daemon/sd\.c",
    r"cblas\.h|lapacke?\.h":          r"lib/codec/",
    r"openssl/|xxhash\.h":            r"lib/base/hash\.c",
    r"sys/mman\.h":                   r"lib/store/map\.c",
    r"\w*mmintrin\.h|arm_neon\.h":    r"lib/kern/kern_\w+\.c",
}
TESTS = r"sys/mman\.h|grpc/|protobuf-c/|.*\.pb-c\.h|uv\.h"  # may be used by tests of what is behind the door
APART = {"lib/codec", "lib/risk", "lib/store"}  # do not know each other
JOIN = r"daemon/session\w*\.[ch]"               # and meet only here
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)')


def main():
    check = Check()
    for path in check.files(".c", ".h", under=("lib", "daemon", "clients", "tests")):
        here, met = str(pathlib.PurePosixPath(path).parent), set()
        for number, line in enumerate(check.read(path).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            there = match[2]
            folder = str(pathlib.PurePosixPath(there).parent)
            test = path.startswith("tests/")
            if match[1] == '"' and not test:
                if folder == ".":
                    if not there.endswith(".pb-c.h"):
                        check.report(path, number, f'"{there}": give the path from the root')
                elif here not in ALLOWED:
                    check.report(path, number, f"{here} has no row in check-layers.py")
                elif folder.startswith(("deltapq/", "grpc/")):
                    pass  # generated from proto/, a door below
                elif folder not in ALLOWED[here] | MAIN.get(path, set()):
                    check.report(path, number, f'{here} may not include "{there}"')
            for outside, door in DOOR.items():
                if re.match(outside, there) and not re.match(door, path) and not (test and re.match(TESTS, there)):
                    check.report(path, number, f"{there} may only be included by {door}")
            if folder in APART and not test:
                met.add(folder)
                if len(met) > 1 and here not in APART and not re.match(JOIN, path):
                    check.report(path, number, f"{' and '.join(sorted(met))} meet outside {JOIN}")
    check.finish()


main()
