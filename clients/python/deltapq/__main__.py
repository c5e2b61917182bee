"""Move caches between machines: sequences and profiles, out of a daemon into files and into another one."""
from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

from .audit import find_profile
from .client import Client
from .errors import DeltaPQError
from .library import Library
from .tensors import RATES
from .transfer import export_file, import_file, open_file

EXIT = """exit status:
  0  done
  1  refused: by the daemon, or because of what the file is; the message says why
  2  usage
  3  the daemon is away, or it was interrupted: the same command goes on where it was
  4  no space, or another error of the local file; what is in FILE.part is kept, and gone on from
"""
LOST = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
LOCAL_FAULTS = {"NO_SPACE", "IO"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m deltapq", description=__doc__, epilog=EXIT,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True, metavar="export|import|show")

    def command(name, text, socket=True):
        c = commands.add_parser(name, help=text, description=text, epilog=EXIT,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
        c.add_argument("--json", action="store_true", help="one JSON object, for programs")
        if socket:
            c.add_argument("--quiet", action="store_true", help="no progress on the terminal")
            c.add_argument("--wait", type=float, default=60, metavar="SECONDS",
                           help="how long to wait for a daemon that went away meanwhile (60)")
            c.add_argument("socket", metavar="SOCKET", help="of the daemon, e.g. /run/deltapq/grpc.sock")
        c.add_argument("file", metavar="FILE")
        return c

    c = command("export", "Write sequences, and the profile that they need, into FILE. It grows in FILE.part, "
                "and FILE is never overwritten.")
    c.add_argument("sequences", metavar="SEQUENCE", nargs="*", type=lambda x: int(x, 0),
                   help="ids, decimal or 0x…; none: the profile alone, or what --token-ids names")
    c.add_argument("--adapter", default="", help="as the sequences were created with")
    c.add_argument("--salt", default="", help="likewise")
    c.add_argument("--tokens", type=int, default=0, metavar="N", help="only the first N: a multiple of 128, or all")
    c.add_argument("--no-profile", action="store_true", help="the other daemon has it")
    c.add_argument("--profile", default="", metavar="ID", help="hexadecimal, its beginning is enough")
    c.add_argument("--token-ids", metavar="IDS", help="a file with numbers: whatever is stored of these tokens, in "
                   "whole tiles; with --profile, unless there is one only")
    c.add_argument("--rate", default="quality", choices=RATES, help="of --token-ids (quality)")
    c.add_argument("--position-base", type=int, default=0, metavar="N", help="of --token-ids (0)")
    c = command("import", "Bring the sequences and the profile of FILE into a daemon. What it has is kept.")
    c.add_argument("--release", action="store_true", help="keep no sequence: their tiles are found by look-up, until "
                   "the space is needed; tails are dropped")
    command("show", "Check FILE, and say what is in it.", socket=False)
    return p


class Progress:
    """A line on a terminal that is written over."""

    def __init__(self, quiet: bool):
        self._on, self._begin, self._last, self._shown = sys.stderr.isatty() and not quiet, time.monotonic(), 0.0, False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._on or (now - self._last < 0.1 and done < total):
            return
        self._last, self._shown = now, True
        rate = done / max(now - self._begin, 1e-3)
        sys.stderr.write(f"\r{done / 1e6:10.1f} of {total / 1e6:.1f} MB  {100 * done // max(total, 1):3d} %  "
                         f"{rate / 1e6:7.1f} MB/s ")
        sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\n")


def read_ids(path: str) -> list[int]:
    with open(path, encoding="ascii") as file:
        return [int(x) for x in file.read().replace("[", " ").replace("]", " ").replace(",", " ").split()]


def run_export(args, client: Client, progress: Progress) -> dict:
    sequences, adopted = list(args.sequences), None
    profile_id = b"" if sequences else find_profile(client, args.profile)
    if args.token_ids:
        adopted = client.create_sequence(profile_id, rate=args.rate, token_ids=read_ids(args.token_ids),
                                         adapter=args.adapter, salt=args.salt, position_base=args.position_base)
        sequences.append(adopted.id)
    try:
        done = export_file(client, args.file, sequences, profile_id=profile_id, with_profile=not args.no_profile,
                           adapter=args.adapter, salt=args.salt, n_tokens=args.tokens, progress=progress,
                           resume_seconds=args.wait)
    finally:
        if adopted:
            client.release(adopted)
    return dataclasses.asdict(done)


def run_import(args, client: Client, progress: Progress) -> dict:
    done = import_file(client, args.file, progress=progress, resume_seconds=args.wait)
    if args.release:
        for sequence in done:
            client.release(sequence)
    return {"path": args.file, "released": args.release, "sequences": [dataclasses.asdict(x) for x in done]}


def run_show(args) -> dict:
    file, found = open_file(Library(), args.file)
    with file:
        rates = {v: k for k, v in RATES.items()}
        return {"path": args.file, "n_bytes": found.n_bytes,
                "profile_id": found.profile_id.hex() or None, "profile_bytes": found.profile[1] if found.profile else 0,
                "sequences": [{"profile_id": s.profile_id.hex(), "rate": rates[s.rate], "adapter": s.adapter,
                               "salt": s.salt, "position_base": s.position_base, "n_tokens": s.n_tokens,
                               "n_bytes": s.n_bytes + sum(p[2] for p in s.parts)} for s in found.sequences]}


def say(command: str, result: dict) -> None:
    if command == "export":
        print(f"{result['path']}: {len(result['n_tokens'])} sequences with {sum(result['n_tokens'])} tokens, "
              f"{result['n_bytes']} bytes" + (f", {result['n_resumed_bytes']} of them from before"
                                              if result["n_resumed_bytes"] else ""))
    elif command == "import":
        for s in result["sequences"]:
            kept = "found by look-up" if result["released"] else f"sequence {s['id']}"
            print(f"{s['n_tokens']} tokens, {s['n_shared_tokens']} of them were there: {kept}")
        if not result["sequences"]:
            print("the profile is installed")
    else:
        print(f"{result['path']}: complete, {result['n_bytes']} bytes; profile "
              f"{result['profile_id'] or 'not in it'}")
        for s in result["sequences"]:
            names = "".join(f", {k} {s[k]!r}" for k in ("adapter", "salt") if s[k])
            print(f"  {s['n_tokens']} tokens from position {s['position_base']}, {s['rate']}, {s['n_bytes']} bytes, "
                  f"profile {s['profile_id'][:8]}{names}")


def run(args) -> dict:
    if args.command == "show":
        return run_show(args)
    progress = Progress(args.quiet or args.json)
    try:
        with Client(args.socket, staging_bytes=0, name=args.command) as client:
            return (run_export if args.command == "export" else run_import)(args, client, progress)
    finally:
        progress.end()


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    try:
        result = run(args)
    except DeltaPQError as e:
        print(f"{args.command}: {e.message}" + (f" ({e.reason})" if e.reason else ""), file=sys.stderr)
        return 3 if e.code in LOST else 4 if e.reason in LOCAL_FAULTS else 1
    except (ValueError, OSError) as e:
        print(f"{args.command}: {e}", file=sys.stderr)
        return 1 if isinstance(e, ValueError) else 4
    except KeyboardInterrupt:
        print(f"{args.command}: interrupted; the same command goes on", file=sys.stderr)
        return 3
    if args.json:
        print(json.dumps(result))
    else:
        say(args.command, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
