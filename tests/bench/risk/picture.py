"""μ over tokens as SVG: of one sequence the median, the 90 % quantile and the worst of its streams."""
from __future__ import annotations

import numpy as np

from quality.picture import line, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 330, 60, 150, 30, 50
BANDS = [(0, 0.7, "#ecfdf5", "Green"), (0.7, 1, "#fef9c3", "Yellow"), (1, None, "#fee2e2", "Red")]
LINES = [("worst stream", 1.0, "#b91c1c"), ("90 %", 0.9, "#c2410c"), ("median", 0.5, "#0b6e99")]


def svg(levels: np.ndarray, tile: int, change: int, words: str) -> str:
    """levels [tiles, streams]; change: the token from which on the text is another."""
    top = min(4.0, max(1.5, float(np.quantile(levels, 0.99))))
    n = len(levels) * tile

    def at(token, level):
        return (LEFT + token / n * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - min(level, top) / top * (HEIGHT - TOP - BOTTOM))
    parts = []
    for low, high, colour, name in BANDS:
        x, y = at(0, high if high is not None else top)
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH - LEFT - RIGHT}" '
                     f'height="{at(0, low)[1] - y:.1f}" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT - 6, y + 14, name, anchor="end", colour="#6b7280"))
    for token in range(0, n + 1, 2 * tile):
        parts.append(text(at(token, 0)[0], HEIGHT - BOTTOM + 18, str(token), anchor="middle"))
    for level in (0, 0.7, 1):
        parts.append(text(LEFT - 8, at(0, level)[1] + 4, f"{level:g}", anchor="end"))
    x = at(change, 0)[0]
    parts += [line(x, HEIGHT - BOTTOM, x, TOP, "#6b7280"), text(x + 5, TOP + 12, words, colour="#374151")]
    for i, (name, quantile, colour) in enumerate(LINES):
        places = [at((k + 1) * tile, v) for k, v in enumerate(np.quantile(levels, quantile, axis=1))]
        parts += [line(*a, *b, colour, 2) for a, b in zip(places, places[1:])]
        y = TOP + 14 + 20 * i
        parts += [line(WIDTH - RIGHT + 14, y - 4, WIDTH - RIGHT + 36, y - 4, colour, 2), text(WIDTH - RIGHT + 42, y, name)]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "tokens", anchor="middle"))
    parts.append(text(16, HEIGHT / 2, "level of risk", anchor="middle", extra=f' transform="rotate(-90 16 {HEIGHT / 2:.0f})"'))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")
