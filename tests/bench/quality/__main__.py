#!/usr/bin/env python3
"""Quality against true bits on the real model: ours and other codecs on the same windows.

usage: python tests/bench/quality [--setups FILE] [--only NAME]... [--profile NAME=FILE[:RATE,RATE]]...
                                  [--windows N] [--ours N] [--threads N] [--device NAME] [--no-peers] [--gate] [--generate]
                                  [--write]
       (environment: DELTAPQ_LIBRARY)

--setups FILE   which profiles to judge: see setups.json beside this file, which is the default
--only NAME     of these, those named; may be repeated
--profile …     a profile file to judge besides, on the rates given (quality, compact)
--windows N     N windows a genre instead of all eight
--ours N        N windows a genre for ours, of those; its ratios are to q4_0's on as many
--threads N     of PyTorch, 2; fewer lose less to others on a busy machine
--device NAME   where the model runs, cpu; the codec of ours is on the CPU always
--no-peers      of the others, q4_0 alone
--gate          print the limits that a release must keep, and exit with 1 when one is not kept
--generate      greedy continuations of 20 prompts, too
--write         keep it all as docs/results/quality.md, .json and .svg

Verdicts are kept under .cache/quality: what was stopped goes on where it was."""

import argparse
import json
import pathlib
import shlex
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from quality import ROOT, bench, gate, learn, metric, ours, peers, picture, report  # noqa: E402
from kvdump import LIST, Smol, demo_model, torch, windows  # noqa: E402

HERE = pathlib.Path(__file__).parent


class Placed(Smol):
    """On a device; what is kept in .cache is NumPy's."""

    def __init__(self, device: str):
        super().__init__()
        self.model.to(device)

    def ids(self, window):
        return super().ids(window).to(self.model.device)


def arguments():
    options = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS,
                                      formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--setups", type=pathlib.Path, default=HERE / "setups.json")
    options.add_argument("--only", action="append")
    options.add_argument("--profile", action="append", default=[])
    options.add_argument("--windows", type=int)
    options.add_argument("--ours", type=int)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", default="cpu")
    for flag in ("--no-peers", "--gate", "--generate", "--write"):
        options.add_argument(flag, action="store_true")
    return options.parse_args()


def setups_of(args) -> list[dict]:
    """Those of the file, then those of the command line; paths are made absolute."""
    setups = json.loads(args.setups.read_text())["setups"]
    if args.only:
        setups = [s for s in setups if s["name"] in args.only]
    for s in setups:
        if "profile" in s:
            s["profile"] = str(args.setups.parent / s["profile"])
    for given in args.profile:
        name, rest = given.split("=", 1)
        file, _, rates = rest.partition(":")
        setups.append({"name": name, "profile": file, "rates": (rates or "quality,compact").split(",")})
    return setups


def profile_of(smol, setup) -> bytes:
    """Read, or learned from the calibration windows of the genres that the setup names."""
    if "profile" in setup:
        return pathlib.Path(setup["profile"]).read_bytes()
    chosen = [w for w in windows.read(LIST, "calibrate") if w.genre in setup.get("calibrate", report.GENRES)]
    how = setup.get("metric")
    matrices = metric.cached(how, smol, chosen) if how and ours.takes_metric() else None
    if how and matrices is None:
        raise ours.Unavailable("calibration takes no metric")
    return ours.learned(smol, chosen, setup.get("options", {}), matrices)


def open_all(smol, setups):
    """[(setup, Judged)]; says which setups this library can't do."""
    out = []
    for setup in setups:
        try:
            out.append((setup, ours.Judged(profile_of(smol, setup))))
        except ours.Unavailable as e:
            print(f"not judged: {setup['name']}: {e}", file=sys.stderr)
    return out


def peers_of(smol, few: bool):
    if few:
        return [p for p in peers.all_of(smol.geometry) if p.name == "q4_0"]
    return peers.all_of(smol.geometry, *learn.words(smol, windows.read(LIST, "calibrate")))


def about() -> dict:
    import transformers
    return {"model": demo_model.NAME, "transformers": transformers.__version__,
            "command": "python tests/bench/quality " + " ".join(map(shlex.quote, sys.argv[1:])),
            "calibrate": len(windows.read(LIST, "calibrate"))}


def main() -> int:
    args = arguments()
    smol = Placed(args.device)
    torch.set_num_threads(args.threads)
    chosen = windows.read(LIST, "evaluate", args.windows)
    opened = open_all(smol, setups_of(args))
    others = peers_of(smol, args.no_peers)
    series = bench.judge_all(smol, list(bench.peer_jobs(smol, others)), chosen)
    for setup, judged in opened:
        few = windows.read(LIST, "evaluate", min(args.ours or 8, args.windows or 8))
        series += bench.judge_all(smol, list(bench.our_jobs(smol, judged, setup)), few)
    base = next(s for s in series if s.name == "q4_0")
    records = [report.record(s, base) for s in series]
    print(report.aligned(report.table(records)))
    rows = gate.rows(series) if args.gate or args.write else []
    generated = []
    if args.generate:
        from quality import generation
        generated = generation.compare(smol, [p for p in others if p.name in generation.PEERS], opened)
        print("\n" + report.aligned(report.generation_table(generated)))
    if rows:
        print("\n" + report.aligned(report.gate_table(rows)))
    if args.write:
        folder = ROOT / "docs/results"
        report.write(folder, {**about(), "windows": len(chosen)}, records, rows, generated)
        (folder / "quality.svg").write_text(picture.svg(records))
    for _, judged in opened:
        judged.close()
    return 1 if args.gate and not gate.holds(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
