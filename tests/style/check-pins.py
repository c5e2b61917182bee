#!/usr/bin/env python3
"""Every package has one version, and what the tests read from Debian's packages gets installed."""
import re

from check import Check

PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)( +# (large|no-deps).*)?")
PACKAGE = re.compile(r"(?:install|unpack) +([a-z0-9][a-z0-9.+-]*)=(\S+)")


def lines(check, path):
    for number, line in enumerate((check.read(path) or "").splitlines(), 1):
        if line and not line.startswith("#"):
            yield number, line


def main():
    check = Check()
    listed = [p for p in check.tracked() if p.startswith("scripts/")]
    python, debian = {}, set()
    for path in sorted(p for p in listed if re.fullmatch(r"scripts/(requirements.*|constraints)\.txt", p)):
        for number, line in lines(check, path):
            pin = PIN.fullmatch(line)
            if not pin:
                check.report(path, number, "not name==version")
                continue
            name = re.sub(r"[-_.]+", "-", pin[1]).lower()
            if python.setdefault(name, pin[2]) != pin[2]:
                check.report(path, number, f"{name} is {python[name]} elsewhere")
    for number, line in lines(check, "scripts/apt-packages.txt"):
        package = PACKAGE.fullmatch(line)
        if not package:
            check.report("scripts/apt-packages.txt", number, "not how package=version")
        elif package[1] in debian:
            check.report("scripts/apt-packages.txt", number, f"{package[1]} is there already")
        else:
            debian.add(package[1])
    if "tests/data/windows.txt" in check.tracked():
        for number, line in lines(check, "tests/data/windows.txt"):
            if line.split()[2] not in debian:
                check.report("tests/data/windows.txt", number, f"{line.split()[2]} is not installed by scripts/deps")
    check.finish()


main()
