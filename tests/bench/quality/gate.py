"""The limits that a release must keep, each a row {row, true bits, KL, KL / q4_0's, limit, pass}.

A row of LIMITS is a nominal rate, a reference and whether the output metric was used; a setup falls
under it when its measured true bits are within BITS of the nominal ones. Of several setups under one
limit the best must keep it, the others are shown for comparison. What nothing was measured for is a row
without figures, and not passed."""
from __future__ import annotations

import dataclasses

from quality import figures

BITS = 0.1
NOMINAL = (4.125, 3.125, 2.125, 1.125)
# (nominal bits, reference, with the output metric; None: either): KL / q4_0's, at most
LIMITS = {
    (4.125, "none", False): 0.110, (4.125, "none", True): 0.090,
    (4.125, "depth-head", False): 0.048, (4.125, "depth-head", True): 0.040,
    (4.125, "depth", False): 0.021, (4.125, "depth", True): 0.018,
    (3.125, "depth", None): 0.090,
    (2.125, "none", None): 1.7, (2.125, "depth-head", None): 0.63, (2.125, "depth", None): 0.26,
    (1.125, "depth", None): 1.3,
}
DROPPED = 1.05  # KL after dropping the fine plane / KL of the native 2-bit profile
SHIFTED = 0.5  # KL on code / q4_0's there, calibrated on prose only
AUTO = 1.03  # KL of auto / KL of the best fixed reference, on each genre
FORCED = 1.1  # KL of a = 1 / KL of none, at least: it must visibly lose


@dataclasses.dataclass
class Row:
    row: str
    limit: float
    bits: float | None = None
    kl: float | None = None
    value: float | None = None  # what the limit is for
    interval: tuple | None = None
    at_least: bool = False
    note: str = ""
    counts: bool = True  # False: shown for comparison

    @property
    def passed(self) -> bool:
        if self.value is None or self.note:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict:
        return {**dataclasses.asdict(self), "pass": self.passed}


def nominal(bits: float) -> float | None:
    """The class of a rate; None: none within BITS."""
    best = min(NOMINAL, key=lambda n: abs(n - bits))
    return best if abs(best - bits) <= BITS else None


def reference(series) -> str:
    return series.setup.get("options", {}).get("reference", series.setup.get("reference", "none"))


def has_metric(series) -> bool:
    return bool(series.setup.get("metric"))


def special(series) -> str:
    """What a setup is for, if not for LIMITS: "shift", "forced", "auto" or nothing."""
    return series.setup.get("gate") or ("auto" if reference(series) == "auto" else "")


def holds(rows) -> bool:
    return all(r.passed for r in rows if r.counts)


def rows(all_series) -> list[Row]:
    """Of everything that was measured. q4_0 must be among it."""
    base = next(s for s in all_series if s.name == "q4_0")
    live = [s for s in all_series if s.setup and s.way == "on the fly"]
    plain = [s for s in live if not special(s)]
    out = []
    for (bits, ref, metric), limit in LIMITS.items():
        fitting = [s for s in plain if reference(s) == ref and nominal(s.true_bits) == bits
                   and metric in (None, has_metric(s))]
        title = f"{bits} b, {ref}" + ("" if metric is None else ", output metric" if metric else ", no metric")
        best = min(fitting, key=lambda s: s.kl, default=None)
        out += [_against(base, s, f"{title}: {s.name}", limit) if s is best else
                _against(base, s, f"{title}: {s.name}", limit, note="for comparison", counts=False)
                for s in fitting] or [_missing(title, limit)]
    return [*out, *dropped_rows(all_series), *shift_rows(base, live), *auto_rows(live, plain),
            *forced_rows(live, plain)]


def _missing(title, limit, **more):
    return Row(title, limit, note="not measured", **more)


def _against(base, s, title, limit, **more):
    return Row(title, limit, s.true_bits, s.kl, figures.ratio(s, base),
               figures.interval(s, base.like(s)), **more)


def _compare(top, under, title, limit, **more):
    """A row whose value is a ratio of two of ours."""
    return Row(title, limit, top.true_bits, top.kl, top.kl / under.kl, figures.interval(top, under), **more)


def dropped_rows(all_series):
    """Restored both: dropping happens to what is stored. The native profile is the one that a setup
    names, or the same profile's own 2-bit rate."""
    restored = {(s.name, s.rate): s for s in all_series if s.way == "restored"}
    out = []
    for s in (s for s in all_series if s.way == "dropped"):
        native = restored.get((s.setup.get("native", s.name), "compact"))
        title = f"fine plane dropped, against 2 bits: {s.name}, {s.rate}"
        out.append(_compare(s, native, title, DROPPED) if native else _missing(title, DROPPED))
    return out or [_missing("fine plane dropped, against 2 bits", DROPPED)]


def shift_rows(base, live):
    title = "calibrated on prose, judged on code, 2.125 b, depth"
    fitting = [s for s in live if special(s) == "shift" and nominal(s.true_bits) == 2.125]
    out = [_against(base, s.restricted(["code"]), f"{title}: {s.name}", SHIFTED) if reference(s) == "depth"
           else Row(f"calibrated on prose, judged on code, 2.125 b, {reference(s)}: {s.name}", SHIFTED,
                    s.true_bits, s.kl, figures.ratio(s, base), note="for comparison", counts=False)
           for s in fitting]
    if not any(reference(s) == "depth" for s in fitting):
        out.append(_missing(title, SHIFTED))
    return out


def auto_rows(live, plain):
    """On each genre, against the best fixed reference at the same rate and with the same metric."""
    out = []
    for s in (s for s in live if special(s) == "auto"):
        rivals = [p for p in plain if nominal(p.true_bits) == nominal(s.true_bits)
                  and has_metric(p) == has_metric(s)]
        for genre in s.windows:
            title = f"auto against the best fixed reference, {genre}: {s.name}, {s.rate}"
            best = min((p.restricted([genre]) for p in rivals), key=lambda p: p.kl, default=None)
            out.append(_compare(s.restricted([genre]), best, title, AUTO) if best else _missing(title, AUTO))
    return out or [_missing("auto against the best fixed reference", AUTO)]


def forced_rows(live, plain):
    title, out = "forced a = 1 against none", []
    for s in (s for s in live if special(s) == "forced"):
        rival = next((p for p in plain if reference(p) == "none" and not has_metric(p)
                      and nominal(p.true_bits) == nominal(s.true_bits)), None)
        if rival:
            out.append(_compare(s, rival, f"{title}: {s.name}, {s.rate}", FORCED, at_least=True))
    return out or [_missing(title, FORCED, at_least=True)]
