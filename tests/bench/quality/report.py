"""The table as Markdown and JSON, the gate as a table on the terminal."""
from __future__ import annotations

import json

from quality import figures

GENRES = ["docs", "prose", "code"]


def record(series, base) -> dict:
    """All that the table says about a series, and each genre of it."""
    by_genre = {g: series.genre(g) for g in series.windows}
    span = figures.interval(series, base.like(series))
    return {"codec": series.name, "rate": series.rate, "cache": series.way, "windows": series.n_windows,
            "reference": series.setup.get("options", {}).get("reference", "none") if series.setup else "",
            "true_bits": round(series.true_bits, 4), "true_bits_1024": round(series.true_bits_window, 4),
            "mean_kl": round(series.kl, 6), "kl_of_q4_0": round(figures.ratio(series, base), 5),
            "kl_of_q4_0_interval": span and [round(x, 5) for x in span], "kl_999": round(series.tail, 4),
            "top1": round(series.top1, 5),
            "genres": {g: {"perplexity_exact": round(v.perplexity_exact, 3),
                           "perplexity": round(v.perplexity, 3), "mean_kl": round(v.mean_kl, 6),
                           "kl_999": round(v.tail_kl, 4), "top1": round(v.agreement, 5)}
                       for g, v in by_genre.items()}}


def _span(interval) -> str:
    return f" ({interval[0]:.3f} … {interval[1]:.3f})" if interval else ""


def table(records) -> list[str]:
    lines = ["| codec | cache | true bits (1,024 tokens) | perplexity docs / prose / code (exact) "
             "| windows | mean KL | of q4_0's on these, 95 % | KL 99.9 % | top-1 |", "|---|---|---|---|---|---|---|---|---|"]
    for r in records:
        name = f"**{r['codec']}**, {r['rate']}" if r["rate"] else r["codec"]
        ppl = " / ".join(_perplexity(r["genres"].get(g)) for g in GENRES)
        lines.append(f"| {name} | {r['cache']} | {r['true_bits']:.3f} ({r['true_bits_1024']:.3f}) | {ppl} | "
                     f"{r['windows']} | {r['mean_kl']:.4f} | {r['kl_of_q4_0']:.3f}{_span(r['kl_of_q4_0_interval'])} | "
                     f"{r['kl_999']:.3f} | {r['top1']:.4f} |")
    return lines


def _perplexity(v) -> str:
    return f"{v['perplexity']:.2f} ({v['perplexity_exact']:.2f})" if v else "–"


def _cell(x, form) -> str:
    return "" if x is None else format(x, form)


def gate_table(rows) -> list[str]:
    lines = ["| row | true bits | mean KL | ratio (95 %) | limit | |", "|---|---|---|---|---|---|"]
    for r in rows:
        sign = "≥" if r.at_least else "≤"
        verdict = r.note or ("pass" if r.passed else "FAIL")
        lines.append(f"| {r.row} | {_cell(r.bits, '.3f')} | {_cell(r.kl, '.5f')} | "
                     f"{_cell(r.value, '.3f')}{_span(r.interval)} | {sign} {r.limit} | {verdict} |")
    return lines


def generation_table(results) -> list[str]:
    lines = ["| codec | true bits | tokens before the first difference | the same token in the same place "
             "| whole continuations |", "|---|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['codec']} | {r['true_bits']:.3f} | {r['prefix']:.1f} of {r['n_tokens']} | "
                     f"{100 * r['share']:.1f} % | {r['whole']} of {r['prompts']} |")
    return lines


def aligned(lines) -> str:
    """A Markdown table for a terminal."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    widths = [max(len(row[i]) for k, row in enumerate(cells) if k != 1) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
                     for k, row in enumerate(cells) if k != 1)


ABOUT = """# Quality against true bits

{model}, fp32, transformers {transformers}. Up to {windows} windows of 1,024 tokens
(`tests/data/windows.txt`), as many as a row says; what is learned is learned from {calibrate} other windows of the same three genres.
Every token is coded but the first four. KL in nats, of the exact next-token distribution from the other: mean over
the tokens of a genre, then plain mean over genres; the interval is bootstrapped over windows, in pairs with q4_0.

*on the fly*: keys and values are coded while the cache is being computed, so that each layer's error also disturbs
what the layers above code. *restored*: the exact cache went through the codec, and every position attends to what
came back; this is what a store does to a prefix. *dropped*: restored without the fine plane.

True bits of ours: all bytes of a tile, as long sequences tend to; in brackets with the four raw tokens, for 1,024
tokens. An arena rounds each extent up to whole pages on top of that. Of the others: codes and scales alone.
q8_0 and q4_0 code keys after RoPE, as llama.cpp does; hadamard-N is a Hadamard rotation, a norm per vector and N-bit
levels of Lloyd and Max; pq is 256 words for two coordinates, no rotation.

Made by `{command}`.
"""


def write(folder, about: dict, records, rows, generated) -> None:
    """quality.md and quality.json in folder."""
    parts = [ABOUT.format(**about), "![KL over bits](quality.svg)", "\n".join(table(records))]
    if rows:
        parts += ["## The gate", "KL divided by q4_0's on the same windows, unless a row says otherwise.",
                  "\n".join(gate_table(rows))]
    if generated:
        parts += ["## Greedy continuations",
                  f"{generated[0]['n_tokens']} tokens after {generated[0]['prompts']} prompts of "
                  f"{generated[0]['n_prompt']} tokens, against the exact cache's. The prompt's exact cache goes "
                  "through the codec; what is generated is coded as it comes: by ours when a tile of 128 tokens "
                  "is full, by the others at once.", "\n".join(generation_table(generated))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.md").write_text("\n\n".join(p.strip() for p in parts) + "\n")
    data = {"about": about, "table": records, "gate": [r.as_dict() for r in rows], "generation": generated}
    (folder / "quality.json").write_text(json.dumps(data, indent=1) + "\n")
