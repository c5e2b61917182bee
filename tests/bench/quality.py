#!/usr/bin/env python3
"""Quality against true bits on the real model, whole cache through the daemon: every window that
tests/data/windows.txt has for it, at every rate.

usage: tests/bench/quality.py [--write] [--windows N] [--on-the-fly N]
       (environment: DELTAPQD, DELTAPQ_LIBRARY)

--windows N     N windows a genre instead of all
--on-the-fly N  of these, N a genre are also judged the stricter way (2): see tests/model/onthefly.py
--write         keep the table as docs/results/quality.md and .json"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/model"))

from kvdump import LIST, Smol, judge, windows  # noqa: E402
from onthefly import OnTheFly  # noqa: E402
from deltapq import Client  # noqa: E402
from deltapq.demo.progress import Progress  # noqa: E402
from frame import Daemon  # noqa: E402

RATES = ["quality", "balanced", "compact"]


def measure(smol, client, profile_id, chosen, n_strict):
    """({rate: {genre: [verdict]}}, the same on the fly, {rate: true bits})"""
    restored, strict = ({rate: {w.genre: [] for w in chosen} for rate in RATES} for _ in range(2))
    bits = {rate: [] for rate in RATES}
    fly = OnTheFly(client.get_profile(profile_id))
    bar = Progress("evaluating", len(chosen) * len(RATES))
    for i, window in enumerate(chosen):
        exact, ids = smol.logits(window), smol.ids(window)
        for k, rate in enumerate(RATES):
            kept, true_bits = smol.through(client, profile_id, window, rate)
            restored[rate][window.genre].append(smol.verdict(window, exact, kept))
            bits[rate].append(true_bits)
            if len(strict[rate][window.genre]) < n_strict:
                logits = fly.logits(smol.model, ids, rate)
                strict[rate][window.genre].append(judge.Verdict.of(exact, logits, ids[0, 1:]))
            bar.show(i * len(RATES) + k + 1)
    bar.end()
    fly.close()
    return restored, strict, {rate: sum(b) / len(b) for rate, b in bits.items()}


def rows_of(verdicts, bits, way):
    for rate in RATES:
        genres = verdicts[rate]
        everything = [v for vs in genres.values() for v in vs]
        for genre, vs in [*genres.items(), ("all", everything)]:
            if not vs:
                continue
            v = judge.Verdict.all(vs)
            yield {"cache": way, "rate": rate, "genre": genre, "windows": len(vs), "true_bits": round(bits[rate], 4),
                   "perplexity_raw": round(v.perplexity_exact, 3), "perplexity": round(v.perplexity, 3),
                   "mean_kl": round(v.mean_kl, 5), "kl_999": round(v.tail_kl, 4),
                   "top1": round(v.agreement, 4)}


def write(rows, n_tokens: int) -> None:
    lines = ["# Quality against true bits", "",
             "SmolLM2-135M-Instruct, fp32; float16 into the daemon, every token coded but the first four, reference",
             "`none`. Windows of 1,024 tokens from `tests/data/windows.txt`; the profile learned from "
             f"{n_tokens:,} tokens", "of other files. True bits: all stored bytes. KL in nats, of the exact "
             "next-token distribution from the other.", "",
             "*restored*: the exact cache went through the daemon, and every position attends to what came back. "
             "*on the fly*:", "keys and values are coded while the cache is being computed, so that each layer's "
             "error also disturbs what the", "layers above code; the same codec, by the library. Tables of other "
             "codecs mostly mean this.", "", "Made by `tests/bench/quality.py --write`.", "",
             "| cache | rate | true bits | text | windows | perplexity, exact | perplexity | mean KL "
             "| KL 99.9 % | top-1 |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(f"| {r['cache']} | {r['rate']} | {r['true_bits']:.3f} | {r['genre']} | {r['windows']} | "
                     f"{r['perplexity_raw']:.3f} | {r['perplexity']:.3f} | {r['mean_kl']:.4f} | "
                     f"{r['kl_999']:.3f} | {r['top1']:.4f} |")
    folder = ROOT / "docs/results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.md").write_text("\n".join(lines) + "\n")
    (folder / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--write", action="store_true")
    options.add_argument("--windows", type=int)
    options.add_argument("--on-the-fly", type=int, default=2)
    args = options.parse_args()
    smol = Smol()
    sizes = {"arena_bytes": "256M", "staging_bytes": "64M", "staging_total_bytes": "64M"}
    with Daemon({"tenant test": sizes}) as daemon:
        with Client(daemon.grpc_path, timeout=120) as client:
            reply = smol.calibrate(client, windows.read(LIST, "calibrate"))
            chosen = windows.read(LIST, "evaluate", args.windows)
            restored, strict, bits = measure(smol, client, reply.profile_id, chosen, args.on_the_fly)
        daemon.stop()
    rows = [*rows_of(restored, bits, "restored"), *rows_of(strict, bits, "on the fly")]
    for r in rows:
        print(json.dumps(r))
    if args.write:
        write(rows, reply.n_tokens)


if __name__ == "__main__":
    main()
