#!/usr/bin/env python3
"""How long a calibration takes: 32,768 tokens of SmolLM2, reference auto, both planes, the audit included,
through the daemon, with the model's part done before and reported apart.

usage: tests/bench/calibration.py [--write]     (environment: DELTAPQD, DELTAPQ_LIBRARY; see scripts/test)

--write also keeps the result as docs/results/calibration.md."""

import pathlib
import resource
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/model"), str(ROOT / "tests/bench"), str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]


def forward(smol, chosen) -> float:
    """Seconds of the model; what it gave is kept for measure()."""
    begin = time.perf_counter()
    for window in chosen:
        smol.numbers(window)
    return time.perf_counter() - begin


def measure(smol, chosen) -> dict:
    from deltapq import Client
    from deltapq.demo.progress import Progress
    from frame import Daemon
    samples = [smol.numbers(w) for w in chosen]
    with Daemon({"tenant test": {"arena_bytes": "64M", "staging_bytes": "64M", "staging_total_bytes": "256M"}}) as daemon:
        with Client(daemon.grpc_path, timeout=1800) as client:
            seen, bar = [], Progress("calibrating", 1000)

            def progress(done, total):
                seen.append(time.perf_counter())
                bar.show(1000 * done // max(total, 1))
            begin = time.perf_counter()
            reply = client.calibrate(smol.geometry, ((x, 0) for x in samples), model_name="bench", reference="auto",
                                     progress=progress)
            seconds = time.perf_counter() - begin
            bar.end()
            audit = client.audit(reply.profile_id)
            peak = daemon.peak_bytes()
        daemon.stop()
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    chosen_of, gains = {}, {}
    for row in audit.rows:
        for candidate in row.candidates:
            gains.setdefault(("KV"[row.kind], candidate.reference), []).append(candidate)
        name = f"{row.reference} ({'KV'[row.kind]})"
        chosen_of[name] = chosen_of.get(name, 0) + 1
    return {"tokens": sum(x.shape[3] for x in samples), "seconds": seconds, "streaming_seconds": seen[0] - begin,
            "cpu_seconds": cpu.ru_utime + cpu.ru_stime, "peak_bytes": peak, "references": chosen_of, "gains": gains}


def gain_lines(gains) -> list[str]:
    """Of each kind and reference: means over the streams that can have it."""
    lines = ["| kind | reference | bits a number gained, measured | predicted without coding | streams |",
             "|---|---|---|---|---|"]
    for (kind, reference), all_of in sorted(gains.items()):
        if reference != "none":
            measured, predicted = (sum(getattr(c, f) for c in all_of) / len(all_of)
                                   for f in ("measured_bits", "predicted_bits"))
            lines.append(f"| {kind} | {reference} | {measured:.2f} | {predicted:.2f} | {len(all_of)} |")
    return lines


def main() -> None:
    from deltapq.demo import windows
    from kvdump import LIST, Smol
    from restore import cpu
    smol, chosen = Smol(), windows.read(LIST, "calibrate")
    seconds = forward(smol, chosen)
    got = measure(smol, chosen)
    lines = [f"- the model's forward passes, fp32, before: {seconds:.0f} s (0 when they were kept from an earlier run)",
             f"- from the first request to the profile, audit included: {got['seconds']:.0f} s, "
             f"of them {got['streaming_seconds']:.0f} s until training began; {got['cpu_seconds']:.0f} s of CPU in the daemon",
             f"- peak memory of the daemon: {got['peak_bytes'] / 1e6:.0f} MB",
             "- references chosen: " + ", ".join(f"{name} {n}" for name, n in sorted(got["references"].items())),
             "", "What the audit says of each reference:", "", *gain_lines(got["gains"])]
    print(*lines, sep="\n")
    if "--write" in sys.argv:
        (ROOT / "docs/results/calibration.md").write_text(
            f"# Calibration\n\nSmolLM2-135M-Instruct, {got['tokens']} tokens, reference `auto`, both planes, on {cpu()}.\n"
            "Made by `tests/bench/calibration.py --write`.\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
