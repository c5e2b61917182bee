"""Figures as a table; the limits of a release; μ over tokens as a picture."""
from __future__ import annotations

import math


def number(x, form=".2f") -> str:
    return "" if x is None or (isinstance(x, float) and math.isnan(x)) else format(x, form)


def table(results: dict) -> list[str]:
    lines = ["| scenario | Yellow in 10k tokens (95 %, worst stream) | Red | Yellow within 256 | Red within 64 "
             "| median delay | KL off | on | bits off | on |", "|---|---|---|---|---|---|---|---|---|---|"]
    for name, r in results.items():
        cells = []
        for zone in ("yellow", "red"):
            a = r.get("alarms", {}).get(zone)
            cells.append(f"{a['mean']:.2f} ({a['upper']:.2f}, {a['worst_stream']:.1f})" if a else "")
        cells += [number(r.get("yellow_256"), ".1%"), number(r.get("red_64"), ".1%"), number(r.get("delay"), ".0f"),
                  number(r.get("kl_off"), ".4f"), number(r.get("kl_on"), ".4f"), number(r.get("bits_off"), ".3f"),
                  number(r.get("bits_on"), ".3f")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def details(results: dict) -> list[str]:
    """What does not fit the table, a line each."""
    lines = []
    if r := results.get("damaged predictor"):
        lines.append(f"- *Damaged predictor*: {r['stages']} stages, one at a time; their streams judged Red within 64 tokens: "
                     f"{r['red_64']:.1%}, streams below them: {r['red_64_untouched']:.1%}.")
    for reference in ("none", "depth-head"):
        if r := results.get(f"prose to code, {reference}, 2 bits"):
            lines.append(f"- *Prose to code, {reference}*: KL of a profile of all genres at 2 bits {r['kl_both']:.4f}; won back "
                         f"of what the prose profile loses: {r['won_back']:.0%}. As many bits spent evenly: KL {r['kl_uniform']:.4f} between "
                         f"rates logarithmically (there is no such code), {r['kl_mixed']:.4f} by mixing tokens of two rates.")
    if r := results.get("one head four times as large"):
        lines.append(f"- *One head four times as large*: judged Yellow or Red after {number(r['delay'], '.0f')} tokens; changes of "
                     f"zone of other streams after it: {r['others']}.")
    if r := results.get("bits of codes flipped"):
        lines.append(f"- *Bits of codes flipped*, one in each of {r['flips']} tiles, past the store's checksum, which refuses them (tests/crash): "
                     f"{r['refused']:.0%} refused by the codec, {r['harmless']:.0%} harmless; the others change {r['streams']:.0f} "
                     f"streams of {r['tokens']:.1f} tokens (of one token alone: {r['one_token']:.0%}), with |error|² of "
                     f"{r['error_median']:.2g} times the mean |x|² at the median and {r['error_most']:.2g} at most.")
    if r := results.get("predictions of the audit"):
        for kind in "KV":
            of = ", ".join(f"{name} {value:.3f}" for name, value in r[kind]["of"].items())
            lines.append(f"- *Predictions of the audit, {kind}*: |ln(foretold / measured error)| {r[kind]['mean']:.3f} on average "
                         f"(90 %: {r[kind]['p90']:.2f}, worst {r[kind]['most']:.2f}; {of}), of {r[kind]['streams']} streams and "
                         "references.")
    return lines


# of a scenario: (what, path to the figure, sign, limit)
LIMITS = {
    "stationary": [("Yellow entries in 10,000 tokens, mean over streams", "alarms.yellow.mean", "≤", 2.0),
                   ("Yellow entries of the worst stream", "alarms.yellow.worst_stream", "≤", 20.0),
                   ("Red entries in 10,000 tokens, mean over streams", "alarms.red.mean", "≤", 0.1),
                   ("Red entries of the worst stream", "alarms.red.worst_stream", "≤", 1.0)],
    "predictions of the audit": [(f"ln of errors foretold over measured, mean size, {kind}", f"{kind}.mean", "≤", 0.15)
                                 for kind in "KV"],
    "profile of other weights": [("streams judged Red within 64 tokens", "red_64", "≥", 0.95)],
    "cache of other weights": [("streams judged Red within 64 tokens", "red_64", "≥", 0.95)],
    "damaged predictor": [("its streams judged Red within 64 tokens", "red_64", "≥", 0.95),
                          ("streams below it judged Red", "red_64_untouched", "≤", 0.01)],
    **{f"prose to code, {reference}, 2 bits": [
        ("streams in Yellow within 256 tokens", "yellow_256", "≥", 0.20),
        ("of the KL lost, won back", "won_back", "≥", 0.5),
        ("KL over that of as many bits spent evenly by mixing tokens of two rates", "kl_over_mixed", "≤", 1.0),
        ("KL over that of as many bits in a code of any rate", "kl_over_uniform", "≤", 1.0)] for reference in ("none", "depth-head")},
}


def limits(results: dict) -> list[tuple[str, float, str, float, bool]]:
    """(what, value, sign, limit, whether it is kept) of what a release must keep and was measured."""
    rows = []
    for name, asked in LIMITS.items():
        for what, path, sign, limit in asked if name in results else []:
            value = results[name]
            for part in path.split("."):
                value = value[part]
            rows.append((f"{name}: {what}", value, sign, limit, value <= limit if sign == "≤" else value >= limit))
    return rows


def limit_table(rows) -> list[str]:
    return ["| what | value | limit | |", "|---|---|---|---|",
            *(f"| {what} | {value:.3f} | {sign} {limit} | {'pass' if kept else 'FAIL'} |"
              for what, value, sign, limit, kept in rows)]
