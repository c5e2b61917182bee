#!/usr/bin/env python3
"""What the risk monitor does with caches of the real model: zones, delays, false alarms, KL, bits.

usage: python tests/bench/risk [--only NAME]... [--windows N] [--others N] [--gate] [--write]
       (environment: DELTAPQD, DELTAPQ_LIBRARY; see scripts/test)

--only NAME   of the scenarios, those named, or "picture"; may be repeated. With --write the others stay as
              they were. What was measured is kept under .cache/risk: a run that was stopped goes on
--windows N   of 1,024 tokens each of stationary text, 100
--others N    of each other scenario, 6
--gate        exit with 1 when a limit is not kept
--write       keep it as docs/results/risk.md, .json and .svg"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from risk import ROOT, picture, report, scenarios  # noqa: E402
from risk.models import Model  # noqa: E402
from risk.replay import TILE, Monitored  # noqa: E402
from deltapq.demo import windows  # noqa: E402  risk says where that is

FOLDER = ROOT / "docs/results"


def arguments():
    options = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS,
                                      formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--only", action="append")
    options.add_argument("--windows", type=int, default=100)
    options.add_argument("--others", type=int, default=6)
    options.add_argument("--gate", action="store_true")
    options.add_argument("--write", action="store_true")
    return options.parse_args()


BLIND = """## What the monitor cannot see

- *Answers.* It watches the error of keys and values. A small error in the wrong place can matter more than a large one
  elsewhere; `Monitor.Report` takes what a worker measured at the output, and nobody has to send it.
- *What calibration did not see as bad.* Tolerances are twice the held-out error of each stream: a stream that was bad then
  is allowed to be as bad now.
- *A change that makes the error no larger.* Another language or another domain whose vectors the codebooks happen to fit
  is no event, rightly; a drift of shapes can cause Yellow at most.
- *Less than a group.* Means are stepped each 32 tokens, verdicts count from the next tile: the tile in which a stream goes
  bad is coded under the old verdict. Until then only the hard bound and the choice of the better of predicted and intra
  act, and both are on.
- *The first four tokens*, which are kept as they came, and single tokens beyond the bound, which are stored raw: they count
  as escapes, not as errors.
- *Slow returns.* Escapes fade with 1/512 a token: after a burst a stream stays Red for some 1,300 tokens, at the price of
  its bits.
- *What an error costs.* Planes go to the largest errors of K and of V. Without a metric of outputs in calibration that is a
  guess, though one that beats bits spent evenly.
- *What a decoder does wrong, and flipped bits.* The encoder never sees them; checksums do.
- *Streams of a profile without an audit*, and of one that was calibrated for other weights and fits by chance.

What watching takes of the encoder's time is in [monitor.md](monitor.md).
"""


def page(results, others: int) -> str:
    text = "\n".join([*report.table(results), "", *report.details(results), "", "## Limits", "",
                      *report.limit_table(report.limits(results))])
    return ("# Risk\n\nSmolLM2-135M-Instruct; windows of 1,024 tokens, each a sequence of its own; "
            f"{results.get('stationary', {}).get('tokens', 0)} tokens of stationary text, {others} windows of each other "
            "scenario.\nKL of the restored cache, with the monitor's verdicts and without; entries in 10,000 tokens of a stream, "
            "mean over all streams\n(95 % upper limit, windows drawn anew; the worst stream). Rates: `quality`, but `compact` where "
            "it says 2 bits. Made by\n`python tests/bench/risk --write`.\n\n"
            f"{text}\n\n![level of risk](risk.svg)\n\n"
            "A sequence that begins as prose and goes on as code, at 2 bits by a profile that has seen prose alone.\n\n"
            f"{BLIND}")


def main() -> int:
    args = arguments()
    model = Model()
    monitored = Monitored(model.geometry)
    bench, file = scenarios.Bench(model, monitored), FOLDER / "risk.json"
    results = json.loads(file.read_text()) if args.only and args.write and file.exists() else {}
    for name, scenario in scenarios.all_of(bench, args.windows, args.others).items():
        if args.only and name not in args.only:
            continue
        results[name] = scenario()
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        if args.write:
            file.write_text(json.dumps(results, indent=1) + "\n")
            (FOLDER / "risk.md").write_text(page(results, args.others))
    if args.write and (not args.only or "picture" in args.only):
        levels = scenarios.from_prose_to_code(bench)
        (FOLDER / "risk.svg").write_text(picture.svg(levels, TILE, windows.TOKENS // 2, "from here on: code"))
    monitored.close()
    rows = report.limits(results)
    print("\n".join([*report.table(results), "", *report.limit_table(rows)]))
    return 1 if args.gate and not all(row[-1] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
