"""Windows of real text: which characters of which file of which Debian package.

A line of windows.txt: purpose genre package version file first_character sha256, where the hash is of the
CHARACTERS characters from first_character on, as UTF-8, after HTML was taken off. The first TOKENS tokens
of it are the window. `python -m deltapq.demo.windows FILE` makes the list anew from what is installed."""
from __future__ import annotations

import dataclasses
import hashlib
import html
import pathlib
import re
import subprocess

CHARACTERS, TOKENS = 6000, 1024
HANDBOOK = "/usr/share/doc/debian-handbook/html/en-US/"
FORTUNES = "/usr/share/games/fortunes/"
PYTHON = "/usr/lib/python3.11/"


@dataclasses.dataclass
class Window:
    purpose: str  # "evaluate" or "calibrate"
    genre: str  # "docs", "prose", "code"
    package: str
    version: str
    file: str
    first: int
    sha256: str

    def text(self) -> str:
        """The characters; a ValueError says which package has changed."""
        part = extract(self.file)[self.first:self.first + CHARACTERS]
        if hashlib.sha256(part.encode()).hexdigest() != self.sha256:
            raise ValueError(f"{self.file} is not that of {self.package} {self.version}")
        return part


def extract(file: str) -> str:
    text = pathlib.Path(file).read_text(errors="replace")
    if file.endswith(".html"):
        text = re.sub(r"(?s)<(script|style|head)\b.*?</\1>", " ", text)
        text = html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\u00a0", " ")
        text = re.sub(r"[ \t]+", " ", text)
        text = re.sub(r" ?\n[ \n]*", "\n", text)
    return text


def read(path, purpose: str, per_genre: int | None = None) -> list[Window]:
    """Of one purpose, the first per_genre of each genre."""
    seen: dict[str, int] = {}
    out = []
    for line in pathlib.Path(path).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        w = Window(*fields[:5], int(fields[5]), fields[6])
        if w.purpose != purpose:
            continue
        seen[w.genre] = seen.get(w.genre, 0) + 1
        if per_genre is None or seen[w.genre] <= per_genre:
            out.append(w)
    return out


def tokens(window: Window, tokenizer):
    """1 × TOKENS token ids."""
    ids = tokenizer(window.text(), return_tensors="pt").input_ids[:, :TOKENS]
    if ids.shape[1] < TOKENS:
        raise ValueError(f"{window.file} has only {ids.shape[1]} tokens at {window.first}")
    return ids


# --- making the list ------------------------------------------------------------------------------

EVALUATE = {
    "docs": [HANDBOOK + n + ".html" for n in (
        "sect.apt-get", "sect.http-web-server", "sect.virtualization", "sect.selinux",
        "sect.network-config", "sect.kernel-compilation", "sect.monitoring", "sect.x509-cert")],
    "prose": [FORTUNES + n for n in (
        "science", "law", "definitions", "politics", "art", "work", "education", "computers")],
    "code": [PYTHON + n for n in (
        "difflib.py", "statistics.py", "nntplib.py", "mailbox.py", "pickletools.py", "smtplib.py",
        "argparse.py", "dataclasses.py")],
}
CALIBRATE = {
    "docs": [HANDBOOK + n + ".html" for n in (
        "sect.installation-steps", "sect.package-meta-information", "sect.config-misc",
        "sect.ldap-directory", "sect.backup", "sect.virtual-private-network", "sect.manipulating-packages-with-dpkg",
        "sect.windows-file-server-with-samba", "sect.remote-login", "sect.firewall-packet-filtering",
        "sect.release-lifecycle")],
    "prose": [FORTUNES + n for n in (
        "people", "wisdom", "men-women", "cookie", "platitudes", "startrek", "miscellaneous", "humorists",
        "songs-poems", "sports", "food")],
    "code": [PYTHON + n for n in (
        "doctest.py", "pydoc.py", "aifc.py", "turtle.py", "pdb.py", "uuid.py", "optparse.py", "configparser.py",
        "calendar.py", "fractions.py")],
}


def _package(file: str) -> tuple[str, str]:
    """Name and version."""
    name = subprocess.check_output(["dpkg", "-S", file], text=True).split(":")[0]
    return name, subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", name], text=True)


def make() -> str:
    lines = ["# Made by `python -m deltapq.demo.windows`; see there for what the columns are."]
    for purpose, genres in (("evaluate", EVALUATE), ("calibrate", CALIBRATE)):
        for genre, files in genres.items():
            for file in files:
                text = extract(file)
                first = min(3000, max(0, len(text) - CHARACTERS))
                part = text[first:first + CHARACTERS].encode()
                lines.append(f"{purpose} {genre} {' '.join(_package(file))} {file} {first} "
                             f"{hashlib.sha256(part).hexdigest()}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys
    pathlib.Path(sys.argv[1]).write_text(make())
