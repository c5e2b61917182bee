"""Judges codecs on windows, one window after the other; what is kept in .cache is not judged again."""
from __future__ import annotations

import collections
import itertools

from deltapq.demo.progress import Progress
from quality import figures, fly, verdicts
from kvdump import judge, torch


class Job:
    """A codec at a rate, judged one way. run(window) -> (logits, bits)."""

    def __init__(self, series: figures.Series, id: str, run, genres=None):
        self.series, self.id, self.run, self.genres = series, id, run, genres

    def key(self, window) -> str:
        return verdicts.key("verdict", self.id, self.series.rate, self.series.way, window.sha256)


def interleaved(chosen):
    """Windows of the genres in turn, so that a bench that was stopped has seen some of each."""
    by_genre = collections.defaultdict(list)
    for w in chosen:
        by_genre[w.genre].append(w)
    turns = itertools.zip_longest(*by_genre.values())
    return [w for turn in turns for w in turn if w is not None]


def peer_jobs(smol, peers):
    for p in peers:
        def run(window, p=p):
            bits = {"true_bits": p.bits, "true_bits_window": p.bits + 4 * (16 - p.bits) / 1024}
            return fly.logits(smol.model, smol.ids(window), p), bits
        yield Job(figures.Series(p.name, "", "on the fly"), p.id, run)


def our_jobs(smol, judged, setup):
    """Of one profile: each rate on the fly and restored, and restored without the fine plane."""
    def live(window, rate):
        _, bits = judged.through(smol.numbers(window), rate)
        return judged.logits(smol.model, smol.ids(window), rate), bits

    def restored(window, rate, fine=True):
        kept, bits = judged.through(smol.numbers(window), rate, fine)
        return judge.logits_with(smol.model, smol.ids(window), torch.from_numpy(kept).to(smol.model.device)), bits

    def dropped(window, rate):
        return restored(window, rate, False)
    for rate in setup["rates"]:
        ways = {"on the fly": live, "restored": restored}
        if rate in setup.get("dropped", []):
            ways["dropped"] = dropped
        for way, run in ways.items():
            yield Job(figures.Series(setup["name"], rate, way, setup), judged.id,
                      lambda window, rate=rate, run=run: run(window, rate), setup.get("genres"))


def judge_all(smol, jobs, chosen) -> list[figures.Series]:
    """The series of all jobs, with the verdicts of all windows in them."""
    pairs = [(w, [j for j in jobs if not j.genres or w.genre in j.genres]) for w in interleaved(chosen)]
    bar, done = Progress("judging", sum(len(js) for _, js in pairs)), 0
    for window, js in pairs:
        exact = None
        for job in js:
            kept = verdicts.load(job.key(window))
            if kept is None:
                exact = smol.logits(window).float() if exact is None else exact
                logits, bits = job.run(window)
                verdict = judge.Verdict.of(exact, logits, smol.ids(window)[0, 1:])
                verdicts.save(job.key(window), verdict, bits)
                kept = verdicts.load(job.key(window))
            job.series.windows.setdefault(window.genre, []).append(kept[0])
            job.series.bits.append(kept[1])
            done += 1
            bar.show(done)
    bar.end()
    return [j.series for j in jobs]
