"""A bar on a terminal, a line now and then elsewhere."""
from __future__ import annotations

import sys
import time


class Progress:
    def __init__(self, title: str, total: int):
        self.title, self.total, self.begin, self.last = title, max(total, 1), time.monotonic(), 0.0
        self.tty = sys.stderr.isatty()
        self.show(0)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if not self.tty or (now - self.last < 0.1 and done < self.total):
            return
        self.last = now
        filled = 30 * min(done, self.total) // self.total
        sys.stderr.write(f"\r{self.title:<34} [{'#' * filled}{'.' * (30 - filled)}] "
                         f"{100 * min(done, self.total) // self.total:3d} % {now - self.begin:5.1f} s")
        sys.stderr.flush()

    def end(self) -> float:
        seconds = time.monotonic() - self.begin
        if self.tty:
            self.show(self.total)
            sys.stderr.write("\n")
        else:
            sys.stderr.write(f"{self.title}: {seconds:.1f} s\n")
        return seconds
