"""KL over bits as SVG: ours as lines, one a profile, other codecs as points. No plotting library."""
from __future__ import annotations

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 30, 55
COLOURS = ["#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#334155"]
PEER = "#6b7280"


class Axes:
    """x: bits, linear; y: KL, logarithmic over whole decades."""

    def __init__(self, points):
        bits, kls = [p[0] for p in points], [p[1] for p in points]
        self.x = (math.floor(min(bits)), math.ceil(max(bits)))
        self.y = (math.floor(math.log10(min(kls))), math.ceil(math.log10(max(kls))))

    def at(self, bits, kl):
        share_x = (bits - self.x[0]) / max(1, self.x[1] - self.x[0])
        share_y = (math.log10(kl) - self.y[0]) / max(1, self.y[1] - self.y[0])
        return (LEFT + share_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share_y * (HEIGHT - TOP - BOTTOM))

    def draw(self):
        for bits in range(self.x[0], self.x[1] + 1):
            x, y = self.at(bits, 10.0 ** self.y[0])
            yield line(x, y, x, TOP, "#e5e7eb")
            yield text(x, y + 18, str(bits), anchor="middle")
        for decade in range(self.y[0], self.y[1] + 1):
            x, y = self.at(self.x[0], 10.0 ** decade)
            yield line(x, y, WIDTH - RIGHT, y, "#d1d5db")
            yield text(x - 8, y + 4, f"{10.0 ** decade:g}", anchor="end")
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "true bits per number", anchor="middle")
        yield text(16, HEIGHT / 2, "mean KL, nats (lower is better)", anchor="middle",
                   extra=f' transform="rotate(-90 16 {HEIGHT / 2:.0f})"')


def line(x1, y1, x2, y2, colour, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def text(x, y, words, anchor="start", colour="#111827", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{extra}>{escape(words)}</text>'


def dot(x, y, colour, words):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(words)}</title></circle>'


def _label(r):
    return f"{r['codec']} {r['rate']}: {r['true_bits']:.3f} bits, KL {r['mean_kl']:.4f}"


def svg(records) -> str:
    """Of the records of a table; those that were judged on the fly and on all genres."""
    shown = [r for r in records if r["cache"] == "on the fly" and len(r["genres"]) == 3]
    axes = Axes([(r["true_bits"], r["mean_kl"]) for r in shown])
    parts = list(axes.draw())
    ours = {}
    for r in shown:
        if r["rate"]:
            ours.setdefault(r["codec"], []).append(r)
        else:
            x, y = axes.at(r["true_bits"], r["mean_kl"])
            parts += [dot(x, y, PEER, _label(r)), text(x + 7, y - 5, r["codec"], colour=PEER)]
    for i, (name, rs) in enumerate(ours.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [axes.at(r["true_bits"], r["mean_kl"]) for r in sorted(rs, key=lambda r: r["true_bits"])]
        for a, b in zip(places, places[1:]):
            parts.append(line(*a, *b, colour, 2))
        parts += [dot(*axes.at(r["true_bits"], r["mean_kl"]), colour, _label(r)) for r in rs]
        y = TOP + 12 + 20 * i
        parts += [line(WIDTH - RIGHT + 14, y - 4, WIDTH - RIGHT + 36, y - 4, colour, 2),
                  text(WIDTH - RIGHT + 42, y, name)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")
