#!/usr/bin/env python3
"""Make what the package takes from the rest of the repository: the protobuf stubs from proto/, and the
cffi declarations from lib/deltapq.h. Writes deltapq/v1/*_pb2*.py and deltapq/_cdef.h beside this file;
does nothing where they are there and newer than their sources, or where there are no sources (an sdist)."""
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAMES = ["types", "kv_cache", "profiles", "monitor"]
BEGIN, END = "/* cffi: begin */", "/* cffi: end */"


def declarations(header: str) -> str:
    part = header[header.index(BEGIN) + len(BEGIN):header.index(END)]
    return re.sub(r"\n\s*\n+", "\n", re.sub(r"/\*.*?\*/", "", part, flags=re.S))


def newer(targets, sources) -> bool:
    if not all(t.exists() for t in targets):
        return False
    return not all(s.exists() for s in sources) or \
        min(t.stat().st_mtime for t in targets) >= max(s.stat().st_mtime for s in sources)


def main() -> None:
    header, cdef = ROOT / "lib/deltapq.h", HERE / "deltapq/_cdef.h"
    protos = [ROOT / f"proto/deltapq/v1/{n}.proto" for n in NAMES]
    stubs = [HERE / f"deltapq/v1/{n}_pb2.py" for n in NAMES]
    if not newer([cdef], [header]):
        cdef.write_text(declarations(header.read_text()))
    if newer(stubs, protos):
        return
    import grpc_tools
    from grpc_tools import protoc
    include = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={HERE}",
                    f"--grpc_python_out={HERE}", *map(str, protos)]):
        raise SystemExit("protoc failed")


if __name__ == "__main__":
    main()
