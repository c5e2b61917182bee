"""What tables and gates say about one codec: a mean over the tokens of each genre, then a plain mean over
genres. Intervals are bootstrapped over windows, within each genre."""
from __future__ import annotations

import dataclasses

import numpy as np

from kvdump import judge

N_DRAWS = 2000


@dataclasses.dataclass
class Series:
    """One codec at one rate, judged one way on some windows."""
    name: str
    rate: str  # "" for peers
    way: str  # "on the fly", "restored", "dropped": restored without the fine plane
    setup: dict = dataclasses.field(default_factory=dict)  # of setups.json; empty for peers
    bits: list = dataclasses.field(default_factory=list)  # {"true_bits", "true_bits_window"} of each window
    windows: dict = dataclasses.field(default_factory=dict)  # genre: [Verdict], one of each window in order

    @property
    def true_bits(self) -> float:
        """Without raw first tokens: what long sequences tend to."""
        return float(np.mean([b["true_bits"] for b in self.bits]))

    @property
    def true_bits_window(self) -> float:
        """Of windows of 1,024 tokens, raw first tokens and all."""
        return float(np.mean([b["true_bits_window"] for b in self.bits]))

    def genre(self, genre: str):
        return judge.Verdict.all(self.windows[genre])

    @property
    def kl(self) -> float:
        return float(np.mean([self.genre(g).mean_kl for g in self.windows]))

    @property
    def top1(self) -> float:
        return float(np.mean([self.genre(g).agreement for g in self.windows]))

    @property
    def tail(self) -> float:
        """99.9 % quantile of the KL of all tokens."""
        return judge.Verdict.all([v for vs in self.windows.values() for v in vs]).tail_kl

    @property
    def n_windows(self) -> int:
        return sum(len(v) for v in self.windows.values())

    def like(self, other: "Series") -> "Series":
        """On the windows that other was judged on: of its genres, as many."""
        return dataclasses.replace(self, windows={g: self.windows[g][:len(v)] for g, v in other.windows.items()})

    def restricted(self, genres) -> "Series":
        return dataclasses.replace(self, windows={g: v for g, v in self.windows.items() if g in genres})


def _window_means(series) -> list[np.ndarray]:
    return [np.array([v.mean_kl for v in vs]) for vs in series.windows.values()]


def interval(series: Series, base: Series | None = None):
    """95 % of the KL, or of its ratio to the KL of base on the same windows, drawn in pairs; None where a
    genre has one window only."""
    if any(len(vs) < 2 for vs in series.windows.values()):
        return None
    tops, bases = _window_means(series), _window_means(base) if base else None
    rng, values = np.random.default_rng(1), []
    for _ in range(N_DRAWS):
        picks = [rng.integers(0, len(t), len(t)) for t in tops]
        top = np.mean([t[p].mean() for t, p in zip(tops, picks)])
        under = np.mean([b[p].mean() for b, p in zip(bases, picks)]) if base else 1.0
        values.append(top / under)
    return tuple(float(x) for x in np.quantile(values, (0.025, 0.975)))


def ratio(series: Series, base: Series) -> float:
    """KL / KL of base on the windows of series."""
    return series.kl / base.like(series).kl
