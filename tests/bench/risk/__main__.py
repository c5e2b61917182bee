#!/usr/bin/env python3
"""What the risk monitor does with caches of the real model: zones, delays, false alarms, KL, bits.

usage: python tests/bench/risk [--only NAME]... [--windows N] [--others N] [--gate] [--write]
       (environment: DELTAPQD, DELTAPQ_LIBRARY; see scripts/test)

--only NAME   of the scenarios, those named; may be repeated. With --write the others stay as they were
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


def page(results, others: int) -> str:
    text = "\n".join([*report.table(results), "", *report.limit_table(report.limits(results))])
    return ("# Risk\n\nSmolLM2-135M-Instruct; windows of 1,024 tokens, each a sequence of its own; "
            f"{results.get('stationary', {}).get('tokens', 0)} tokens of stationary text, {others} windows of each other "
            "scenario.\nKL of the restored cache, with the monitor's verdicts and without. Made by "
            f"`python tests/bench/risk --write`.\n\n{text}\n\n![level of risk](risk.svg)\n\n"
            "A sequence that begins as prose and goes on as code, at 2 bits by a profile that has seen prose alone.\n")


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
    if args.write and not args.only:
        levels = scenarios.from_prose_to_code(bench)
        (FOLDER / "risk.svg").write_text(picture.svg(levels, TILE, windows.TOKENS // 2, "from here on: code"))
    monitored.close()
    rows = report.limits(results)
    print("\n".join([*report.table(results), "", *report.limit_table(rows)]))
    return 1 if args.gate and not all(row[-1] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
