#!/usr/bin/env python3
"""No message contains itself, by whatever way: protobuf-c unpacks by recursion, without a limit of depth."""
import re

from check import Check

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[\w.]+|[{};=<>,]')
SCALAR = {"double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
          "sfixed32", "sfixed64", "bool", "string", "bytes"}


def fields(text):
    """Yields (message, type of a field, line)."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    package = re.search(r"\bpackage\s+([\w.]+)\s*;", text)
    scope = [package[1]] if package else []
    blocks, previous, kind = [], [], None
    for match in TOKEN.finditer(text):
        token = match[0]
        if token == "{":
            kind = previous[0] if previous else ""
            blocks.append(kind)
            if kind in ("message", "enum", "service"):
                scope.append(previous[1])
            previous = []
        elif token == "}":
            if blocks.pop() in ("message", "enum", "service"):
                scope.pop()
            previous = []
        elif token == ";":
            inside = next((b for b in reversed(blocks) if b != "oneof"), None)
            if inside == "message" and "=" in previous and previous[0] not in ("option", "reserved", "extensions"):
                words = [w for w in previous[:previous.index("=")] if w not in ("repeated", "optional", "required")]
                types = re.findall(r"[\w.]+", " ".join(words[:-1]))
                for name in types:
                    if name != "map" and name not in SCALAR:
                        yield ".".join(scope), name, text.count("\n", 0, match.start()) + 1
            previous = []
        else:
            previous.append(token)


def resolve(scope, name, known):
    """The full name by protobuf's rule: the innermost scope that has it; None for enums and the unknown."""
    if name.startswith("."):
        return name[1:] if name[1:] in known else None
    parts = scope.split(".")
    for n in range(len(parts), -1, -1):
        full = ".".join(parts[:n] + [name])
        if full in known:
            return full
    return None


def main():
    check = Check()
    edges, known = [], set()
    for path in check.files(".proto", under=("proto",)):
        text = check.read(path)
        edges += [(path, *field) for field in fields(text)]
    known = {message for _, message, _, _ in edges}
    arrows = {}
    for path, message, name, line in edges:
        there = resolve(message, name, known)
        if there:
            arrows.setdefault(message, []).append((there, path, line))

    def reaches(start, goal):
        seen, todo = set(), [start]
        while todo:
            here = todo.pop()
            if here == goal:
                return True
            if here not in seen:
                seen.add(here)
                todo += [there for there, _, _ in arrows.get(here, [])]
        return False

    for message, out in arrows.items():
        for there, path, line in out:
            if reaches(there, message):
                check.report(path, line, f"{message} contains itself, through {there}")
    check.finish()


main()
