#!/usr/bin/env python3
"""bin2c.py IN OUT NAME: IN as a C array NAME[] with NAME_bytes, its length."""
import pathlib
import sys

source, target, name = sys.argv[1:]
data = pathlib.Path(source).read_bytes()
rows = [", ".join(map(str, data[i:i + 20])) for i in range(0, len(data), 20)]
pathlib.Path(target).write_text(
    "#include <stddef.h>\n"
    f"extern const unsigned char {name}[];\nextern const size_t {name}_bytes;\n"
    f"const unsigned char {name}[] = {{\n" + ",\n".join(rows) + f"\n}};\n"
    f"const size_t {name}_bytes = {len(data)};\n")
