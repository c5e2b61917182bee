"""huge_pages = try: whatever this machine gives, the same is said everywhere, and all goes on."""

import re

import pytest

pytest.importorskip("grpc")
from test_restart import (Kept, Text, append, create, make_profile, read, same,  # noqa: E402
                          stubs_of)

MIB = 1 << 20
WANTED = {"daemon": {"huge_pages": "try"},
          "tenant test": {"arena_bytes": 16 * MIB + 4096, "staging_bytes": "1M"}}


def said(kept):
    """Bytes, of the log; and they are in the status and the metrics."""
    found = re.search(r"info: tenant test: ([0-9.]+) of the arena's 16.0 MiB are in huge pages(.*)",
                      kept.daemon.log())
    n_bytes = int(float(found[1]) * MIB)
    assert n_bytes == 16 * MIB or "the kernel says" in found[2] or "took over" in kept.daemon.log()
    assert f'"arena_huge_bytes":{n_bytes},' in kept.daemon.get("/status")[2]
    series = kept.daemon.counters()
    assert series['deltapq_arena_huge_bytes{tenant="test"}'] == n_bytes
    return n_bytes


@pytest.mark.parametrize("way", ["manager", "files"])
def test_try(api, way):
    deltapq = pytest.importorskip("deltapq")
    with Kept(way, WANTED) as kept:
        kept.start()
        n_bytes = said(kept)
        assert n_bytes % (2 * MIB) == 0 and n_bytes <= 16 * MIB
        text = Text(0)
        with stubs_of(api, kept.daemon) as stubs:
            assert stubs.monitor.GetStatus(api.GetStatusRequest()).arena_huge_bytes == n_bytes
            profile_id = make_profile(api, stubs)
            sequence = create(api, stubs, profile_id)
            append(api, stubs, sequence, text, 0, 300)
            got, n_coded = read(api, stubs, sequence, 300)
            text.coded = got[:, :, :, :n_coded]
        with deltapq.Client(kept.daemon.grpc_path, staging_bytes=MIB) as client:
            local = client.decode_local(profile_id, text.ids[:256], n=256, dtype="f16")
            assert local.tobytes() == got[:, :, :, :256].tobytes()
        kept.kill()
        kept.start()
        assert said(kept) == n_bytes  # they are the arena's, not the process's
        with stubs_of(api, kept.daemon) as stubs:
            assert same(text, 300, read(api, stubs, sequence, 300))


def test_off_asks_for_nothing():
    with Kept("files", {"tenant test": {"arena_bytes": "16M"}}) as kept:
        kept.start()
        series = kept.daemon.counters()
        if not series['deltapq_arena_huge_bytes{tenant="test"}']:
            assert "huge pages" not in kept.daemon.log()
