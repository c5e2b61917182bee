"""What calibration found out about each stream, as a table.

python -m deltapq.audit SOCKET [PROFILE]   PROFILE: the id in hexadecimal, its beginning is enough; not
                                           needed when there is one profile
    --why      a sentence for each stream instead of figures
    --json     everything, for programs
"""
from __future__ import annotations

import dataclasses
import json
import sys

from google.protobuf.json_format import MessageToDict

from .errors import DeltaPQError
from .v1 import profiles_pb2 as profiles

SHORT = {"none": "none", "temporal": "temporal", "depth-head": "dep-head", "depth": "depth",
         "temporal a=1": "a=1"}


@dataclasses.dataclass
class Audit:
    """rows: AuditRow of profiles.proto, one a stream; summary: AuditSummary. print() it."""
    rows: list
    summary: profiles.AuditSummary

    def table(self) -> str:
        """Bits a number that each reference gains, measured (predicted); the chosen one has a star."""
        lines = [f"{'layer':>5} {'kind':<4} {'head':>4}  " + "".join(f"{SHORT[n]:>16}" for n in SHORT if n != "none")
                 + f" {'margin':>7} {'base':>8} {'fine':>8}  reason"]
        return "\n".join(lines + [self._line(row) for row in self.rows])

    @staticmethod
    def _line(row) -> str:
        of = {c.reference: c for c in row.candidates}
        chosen = of.get(row.reference, profiles.AuditCandidate())
        cells = "".join(f"{cell(of.get(n), n == row.reference):>16}" for n in SHORT if n != "none")
        margin = f"{chosen.margin:7.2f}" if chosen.is_looped and chosen.margin < float("inf") else f"{'-':>7}"
        fine = f"{chosen.error_fine:8.2g}" if chosen.has_fine else f"{'-':>8}"
        base = f"{chosen.error_base:8.2g}" if chosen.is_looped else f"{'-':>8}"
        return (f"{row.layer:5} {'KV'[row.kind]:<4} {row.head:4}  {cells} {margin} {base} {fine}"
                f"  {row.reason.lower().replace('_', ' ')}")

    def sentences(self) -> str:
        return "\n".join(f"layer {r.layer} {'KV'[r.kind]} head {r.head}: {r.text}" for r in self.rows)

    def to_json(self) -> str:
        return json.dumps({"summary": MessageToDict(self.summary, always_print_fields_with_no_presence=True),
                           "rows": [MessageToDict(r, always_print_fields_with_no_presence=True)
                                    for r in self.rows]})

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.summary.text}"


def cell(candidate, chosen: bool) -> str:
    if candidate is None:
        return "- "
    measured = f"{candidate.measured_bits:.2f}" if candidate.is_compared else "?"
    predicted = f" ({candidate.predicted_bits:.2f})" if candidate.is_predicted else ""
    return f"{measured}{predicted}{'*' if chosen else ' '}"


def find_profile(client, text: str) -> bytes:
    """The one whose id begins so; ValueError when there are none or several."""
    ids = [p.profile_id for p in client.profiles() if p.profile_id.hex().startswith(text.lower())]
    if len(ids) != 1:
        raise ValueError(f"{len(ids)} profiles begin with {text!r}" if text else
                         f"there are {len(ids)} profiles: say which one")
    return ids[0]


def main(args) -> int:
    from .client import Client
    words, flags = [a for a in args if a[:2] != "--"], {a for a in args if a[:2] == "--"}
    if not 1 <= len(words) <= 2 or flags - {"--why", "--json"}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with Client(words[0], staging_bytes=0, name="audit") as client:
            audit = client.audit(find_profile(client, words[1] if len(words) > 1 else ""))
    except (DeltaPQError, ValueError) as e:
        print(e, file=sys.stderr)
        return 1
    if "--json" in flags:
        print(audit.to_json())
    else:
        print(f"{audit.sentences()}\n\n{audit.summary.text}" if "--why" in flags else audit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
