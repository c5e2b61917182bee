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


# of a scenario: (what, path to the figure, sign, limit)
LIMITS = {
    "stationary": [("Yellow entries in 10,000 tokens, mean over streams", "alarms.yellow.mean", "≤", 2.0),
                   ("Yellow entries of the worst stream", "alarms.yellow.worst_stream", "≤", 20.0),
                   ("Red entries in 10,000 tokens, mean over streams", "alarms.red.mean", "≤", 0.1),
                   ("Red entries of the worst stream", "alarms.red.worst_stream", "≤", 1.0)],
    "profile of other weights": [("streams judged Red within 64 tokens", "red_64", "≥", 0.95)],
    "damaged predictor": [("its streams judged Red within 64 tokens", "red_64", "≥", 0.95),
                          ("streams below it judged Red", "red_64_untouched", "≤", 0.01)],
    **{f"prose to code, {reference}, 2 bits": [
        ("streams in Yellow within 256 tokens", "yellow_256", "≥", 0.20),
        ("of the KL lost, won back", "won_back", "≥", 0.5),
        ("KL over that of as many bits spent evenly", "kl_over_uniform", "≤", 1.0)] for reference in ("none", "depth-head")},
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
