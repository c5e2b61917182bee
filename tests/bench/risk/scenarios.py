"""What is replayed, and what should be seen. Each scenario gives a dict of figures: report.py writes them.

KL is that of a restored cache: exact numbers through the daemon ("on"), or through the codec without a
monitor ("off"), attended to at every position."""
from __future__ import annotations

import contextlib
import math

import numpy as np

from deltapq import DeltaPQError
from deltapq.demo import windows
from deltapq.demo.progress import Progress
from kvdump import LIST
from quality import ours
from risk import kept, texts
from risk.models import damaged
from risk.replay import RED, TILE, YELLOW, Replay

N_BOOTSTRAP = 2000
STAGES = [(layer, kind) for layer in (3, 8, 13, 18, 23, 28) for kind in (0, 1)]  # whose predictor is damaged


class Bench:
    """The model, a daemon, and profiles as they are needed."""

    def __init__(self, model, monitored):
        self.model, self.monitored, self._opened, self._installed = model, monitored, {}, {}

    def learned(self, reference: str, genres=("docs", "prose", "code"), weights="", **options) -> bytes:
        """A profile from the calibration windows of some genres, by its id; learned once, and kept."""
        key = (reference, *genres, weights, *sorted(options.items()))
        if key not in self._installed:
            chosen = [w for w in windows.read(LIST, "calibrate") if w.genre in genres]
            profile = kept.data(lambda: self._learn(chosen, reference, weights, options), "profile", *key,
                                *(w.sha256 for w in chosen))
            self._installed[key] = self.monitored.client.install_profile(profile)
        return self._installed[key]

    def _learn(self, chosen, reference, weights, options) -> bytes:
        with self.model.other_weights() if weights else contextlib.nullcontext():
            numbers = self.model.computed if weights else self.model.numbers
            bar = Progress(f"calibrating, {reference}", 1000)
            reply = self.monitored.client.calibrate(
                self.model.geometry, ((numbers(w), 0) for w in chosen), model_name="risk", reference=reference,
                **options, progress=lambda done, total: bar.show(1000 * done // max(total, 1)))
            bar.end()
        return self.file(reply.profile_id)

    def file(self, profile_id: bytes) -> bytes:
        return self.monitored.client.get_profile(profile_id)

    def watched(self, profile_id, window, rate="quality") -> Replay:
        """What the monitor did with a window; numbers that come back are not kept."""
        return self._replay(profile_id, window, rate, judged=False)[0]

    def on(self, profile_id, window, rate):
        """(Replay, KL) with the monitor's verdicts."""
        return self._replay(profile_id, window, rate, judged=True)

    def _replay(self, profile_id, window, rate, judged):
        def make():
            replay = self.monitored.replay(profile_id, self.model.numbers(window), rate, judged)
            kl = self.kl(window, replay.numbers) if judged else None
            return {"replay": replay.plain(), "kl": kl}
        made = kept.value(make, "on", kept.daemon_id(), profile_id.hex(), window.sha256, rate, judged)
        return Replay.of(made["replay"]), made["kl"]

    def off(self, profile_id, window, rate):
        """(KL, true bits) without a monitor."""
        def make():
            if profile_id not in self._opened:
                self._opened[profile_id] = ours.Judged(self.file(profile_id))
            numbers, bits = self._opened[profile_id].through(self.model.numbers(window), rate)
            return self.kl(window, numbers), bits["true_bits_window"]
        return kept.value(make, "off", profile_id.hex(), window.sha256, rate)

    def kl(self, window, numbers) -> float:
        return self.model.verdict(window, self.model.exact(window), numbers).mean_kl


def upper(per_window: np.ndarray) -> float:
    """95 % upper limit of a mean, windows drawn anew."""
    random = np.random.default_rng(1)
    picks = random.integers(0, len(per_window), (N_BOOTSTRAP, len(per_window)))
    return float(np.quantile(per_window[picks].mean(1), 0.95))


def alarms(replays) -> dict:
    """Entries in 10,000 tokens, per stream."""
    out = {}
    for zone, name in ((YELLOW, "yellow"), (RED, "red")):
        counts = np.array([r.entries(zone) / r.n_tokens * 1e4 for r in replays])
        out[name] = {"mean": float(counts.mean()), "upper": upper(counts.mean(1)),
                     "worst_stream": float(counts.mean(0).max())}
    return out


def compare(bench, profile_id, chosen, rate) -> dict:
    """Monitor on and off, on windows."""
    rows, replays = [], []
    for w in chosen:
        (on, on_kl), (off_kl, off_bits) = bench.on(profile_id, w, rate), bench.off(profile_id, w, rate)
        replays.append(on)
        rows.append((on_kl, off_kl, on.true_bits, off_bits))
    mean = np.mean(rows, 0)
    return {"kl_on": mean[0], "kl_off": mean[1], "bits_on": mean[2], "bits_off": mean[3], "alarms": alarms(replays),
            "yellow_256": share(replays, YELLOW, 256), "red_64": share(replays, RED, 64),
            "delay": delay(replays)}


def share(replays, zone, within, streams=None) -> float:
    """Of streams, of those that were in a zone within so many tokens."""
    first = np.array([r.first(zone) for r in replays])
    return float((first[:, streams] <= within).mean() if streams is not None else (first <= within).mean())


def delay(replays) -> float:
    """Median tokens to the first Yellow, of the streams that came there; NaN: none did."""
    first = np.concatenate([r.first(YELLOW) for r in replays])
    return float(np.median(first[np.isfinite(first)])) if np.isfinite(first).any() else math.nan


def stationary(bench, profile_id, chosen) -> dict:
    replays, bar = [], Progress("stationary text", len(chosen))
    for i, w in enumerate(chosen):
        replays.append(bench.watched(profile_id, w))
        bar.show(i + 1)
    bar.end()
    return {"tokens": sum(r.n_tokens for r in replays), "alarms": alarms(replays),
            "bits_on": float(np.mean([r.true_bits for r in replays]))}


def evenly(bench, profile_id, chosen, bits) -> tuple[float, float]:
    """KL of a profile when so many bits are spent evenly, between its rates: logarithmically, as a code of
    any rate would have it, and linearly, as tokens of one rate and of the other have it."""
    rates = np.array([np.mean([bench.off(profile_id, w, rate) for w in chosen], 0)
                      for rate in ("compact", "balanced", "quality")])
    return (float(np.exp(np.interp(bits, rates[:, 1], np.log(rates[:, 0])))),
            float(np.interp(bits, rates[:, 1], rates[:, 0])))


def shift(bench, reference, chosen) -> dict:
    """A prose profile at 2 bits meets code; beside it a profile of all genres, and the prose profile's
    own bits spent evenly."""
    prose, both = bench.learned(reference, ("prose",)), bench.learned(reference)
    out = compare(bench, prose, chosen, "compact")
    out["kl_both"] = float(np.mean([bench.off(both, w, "compact")[0] for w in chosen]))
    out["kl_uniform"], out["kl_mixed"] = evenly(bench, prose, chosen, out["bits_on"])
    out["kl_over_uniform"] = out["kl_on"] / out["kl_uniform"]
    out["kl_over_mixed"] = out["kl_on"] / out["kl_mixed"]
    out["won_back"] = (out["kl_off"] - out["kl_on"]) / (out["kl_off"] - out["kl_both"])
    return out


def turned_cache(bench, profile_id, chosen) -> dict:
    """The other way round: the profile is of the model, the cache of one with other weights."""
    replays = []
    for w in chosen:
        def make(window=w):
            with bench.model.other_weights():
                numbers = bench.model.computed(window)
            return bench.monitored.replay(profile_id, numbers, read=False).plain()
        replays.append(Replay.of(kept.value(make, "turned", kept.daemon_id(), profile_id.hex(), w.sha256)))
    return {"alarms": alarms(replays), "yellow_256": share(replays, YELLOW, 256), "red_64": share(replays, RED, 64),
            "delay": delay(replays), "bits_on": float(np.mean([r.true_bits for r in replays]))}


def damaged_predictor(bench, profile_id, chosen) -> dict:
    """One stage at a time; what is above it is not untouched, what is below it is."""
    data, g, affected, untouched, coded = bench.file(profile_id), bench.model.geometry, [], [], []
    for stage, w in zip(STAGES, chosen * len(STAGES)):
        bad = bench.monitored.client.install_profile(damaged(data, g, [stage]))
        replay = bench.watched(bad, w)
        at = (2 * stage[0] + stage[1]) * g.n_kv_heads
        affected += list(replay.first(RED)[at:at + g.n_kv_heads] <= 64)
        untouched += list(replay.first(RED)[:at] <= 64)
        coded.append(replay.true_bits)
    return {"red_64": float(np.mean(affected)), "red_64_untouched": float(np.mean(untouched)),
            "bits_on": float(np.mean(coded)), "stages": len(STAGES)}


def loud_head(bench, profile_id, window, layer=12, kind=0, head=1, start=4 * TILE) -> dict:
    """Four times as large from a token on: a gain takes that out of the code, not out of the error."""
    numbers = bench.model.numbers(window).copy()
    numbers[layer, kind, head, start:] *= 4
    replay = bench.monitored.replay(profile_id, numbers, read=False)
    stream = (2 * layer + kind) * bench.model.geometry.n_kv_heads + head
    late = [e.first_token + 32 - start for e in replay.events if e.stream == stream and e.first_token >= start]
    return {"delay": float(min(late, default=math.nan)),
            "others": int(sum(e.stream != stream and e.first_token >= start for e in replay.events))}


def predictions(bench, profile_id) -> dict:
    """|ln| of the error that calibration foretold for each reference over the one that it had, both over
    that of no reference, on held-out tokens of each stream."""
    out = {}
    rows = bench.monitored.client.audit(profile_id).rows
    for kind, name in enumerate("KV"):
        off = {}
        for row in rows:
            for c in row.candidates if row.kind == kind else []:
                if c.is_predicted and c.is_compared and c.reference != "none":
                    off.setdefault(c.reference, []).append(abs(c.predicted_bits - c.measured_bits) * math.log(4))
        everything = np.concatenate(list(off.values()))
        out[name] = {"mean": float(everything.mean()), "p90": float(np.quantile(everything, 0.9)),
                     "most": float(everything.max()), "streams": len(everything),
                     "of": {r: float(np.mean(v)) for r, v in off.items()}}
    return out


def flipped_bits(bench, profile_id, window, n=200) -> dict:
    """One bit of a tile's base object flipped, decoded by the library, which has no checksum: the store's
    would have refused it. Shares of n flips: refused all the same, and harmless; of the others, streams
    that have a wrong token, tokens that are wrong in any, and their |error|² over the mean |x|²."""
    judged, random = ours.Judged(bench.file(profile_id)), np.random.default_rng(1)
    numbers = np.ascontiguousarray(bench.model.numbers(window)[:, :, :, TILE:2 * TILE])
    whole, refused, harms = np.empty(numbers.shape, np.float32), 0, []
    judged.tile(numbers, TILE, "quality", whole)
    energy = float(np.mean(np.sum(whole ** 2, -1)))
    for _ in range(n):
        def flip(base):
            bit = int(random.integers(8 * len(base)))
            base[bit // 8] ^= 1 << bit % 8
        out = np.empty_like(whole)
        try:
            judged.tile(numbers, TILE, "quality", out, damage=flip)
        except DeltaPQError:
            refused += 1
            continue
        error = np.sum((np.nan_to_num(out) - whole) ** 2, -1)  # [layers, 2, heads, tokens]
        if error.any():
            harms.append(((error > 0).any(-1).sum(), (error > 0).any((0, 1, 2)).sum(), error.max() / energy))
    judged.close()
    streams, tokens, most = np.array(harms, float).T
    return {"flips": n, "refused": refused / n, "harmless": 1 - (refused + len(harms)) / n,
            "streams": float(streams.mean()), "tokens": float(tokens.mean()), "one_token": float((tokens == 1).mean()),
            "error_median": float(np.median(most)), "error_most": float(most.max())}


def from_prose_to_code(bench) -> np.ndarray:
    """μ [tiles, streams] of a sequence that begins as prose and goes on as code, by a prose profile."""
    tokenizer, half = bench.model.tokenizer, windows.TOKENS // 2
    prose, code = (bench.model.ids(w)[:, :half] for w in (
        next(w for w in texts.held_out(tokenizer, 3) if w.genre == "prose"), texts.code(tokenizer, 1)[0]))
    window = texts.Strange("both", np.concatenate([prose[0].numpy(), code[0].numpy()]))
    return bench.monitored.levels(bench.learned("depth-head", ("prose",)), bench.model.computed(window), "compact")


def all_of(bench, n_stationary: int, n_windows: int) -> dict:
    """{name: a function without arguments that gives its figures}; texts and profiles are made when needed."""
    tokenizer = bench.model.tokenizer

    def auto():
        return bench.learned("auto")

    def held_out(n=n_windows):
        return texts.held_out(tokenizer, n)

    def code():
        return texts.code(tokenizer, n_windows)
    return {
        "stationary": lambda: stationary(bench, auto(), held_out(n_stationary)),
        "stationary, on and off": lambda: compare(bench, auto(), held_out(), "quality"),
        "prose to code, none, 2 bits": lambda: shift(bench, "none", code()),
        "prose to code, depth-head, 2 bits": lambda: shift(bench, "depth-head", code()),
        "German": lambda: compare(bench, auto(), texts.german(tokenizer, n_windows), "quality"),
        "random tokens": lambda: compare(bench, auto(), texts.random_tokens(tokenizer, n_windows), "quality"),
        "profile of other weights": lambda: compare(bench, bench.learned("auto", weights="turned"), held_out(), "quality"),
        "cache of other weights": lambda: turned_cache(bench, auto(), held_out()),
        "damaged predictor": lambda: damaged_predictor(bench, bench.learned("depth"), held_out()),
        "a = 1, 2 bits": lambda: compare(bench, bench.learned("temporal", leak=1), held_out(), "compact"),
        "bits of codes flipped": lambda: flipped_bits(bench, auto(), held_out()[0]),
        "predictions of the audit": lambda: predictions(bench, auto()),
        "one head four times as large": lambda: loud_head(bench, auto(), held_out()[0]),
    }
