"""Caches as files: out of one daemon, into another; broken off, damaged, foreign, full disks."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import pytest

pytest.importorskip("grpc")
deltapq = pytest.importorskip("deltapq")
import numpy as np  # noqa: E402
from frame import Daemon, Proxy, wait_until  # noqa: E402

LAYERS, HEADS, DIM = 2, 2, 32
GEOMETRY = deltapq.Geometry(LAYERS, HEADS, DIM)
LONG = 40000  # tokens of what is broken off: some 6 MB
SALT = ("--adapter", "lora", "--salt", "pepper")


def random_kv(n, seed=0):
    return np.random.default_rng(seed).standard_normal((LAYERS, 2, HEADS, n, DIM)).astype(np.float16)


class Kept(Daemon):
    """Its arenas are files on a tmpfs: it may be killed."""

    def __init__(self):
        self.arenas = tempfile.mkdtemp(prefix="dpq-move-", dir="/dev/shm")
        super().__init__({"daemon": {"arena_dir": self.arenas, "cpu": "auto"},
                          "tenant test": {"arena_bytes": "64M"}})

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait()

    def __exit__(self, *how):
        super().__exit__(*how)
        shutil.rmtree(self.arenas, ignore_errors=True)


@pytest.fixture(scope="module")
def origin():
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    with Kept() as daemon:
        yield daemon


@pytest.fixture
def target():
    """Another machine's: another secret, nothing in it."""
    with Kept() as daemon:
        yield daemon


def client_of(daemon):
    return deltapq.Client(daemon.grpc_path, staging_bytes=0)


@pytest.fixture
def client(origin):
    """For one test: the origin forgets its clients when it is killed."""
    with client_of(origin) as client:
        yield client


@pytest.fixture(scope="module")
def profile(origin):
    with client_of(origin) as client:
        return client.calibrate(GEOMETRY, [(random_kv(2048, 9), 0)], model_name="tiny").profile_id


@pytest.fixture(scope="module")
def short(origin, profile):
    """(sequence, token ids): five tiles and a tail."""
    ids = list(range(1000, 1700))
    with client_of(origin) as client:
        sequence = client.create_sequence(profile, adapter="lora", salt="pepper", position_base=17)
        client.append_stream(sequence, random_kv(700, 1), ids)
    return sequence, ids


@pytest.fixture(scope="module")
def long(origin, profile):
    with client_of(origin) as client:
        sequence = client.create_sequence(profile)
        client.append_stream(sequence, random_kv(LONG, 2), list(range(LONG)))
    return sequence


def command(*args, **how):
    return [sys.executable, "-X", "faulthandler", "-m", "deltapq", *map(str, args)], {
        "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}


def run(*args, code=0, **how):
    """stdout, or stderr when it is to fail. In this process, unless how is about another one."""
    if how:
        args, how = command(*args, **how)
        done = subprocess.run(args, timeout=120, check=False, **how)
        result, out, err = done.returncode, done.stdout, done.stderr
    else:
        from deltapq.__main__ import main
        with contextlib.redirect_stdout(io.StringIO()) as o, contextlib.redirect_stderr(io.StringIO()) as e:
            try:
                result = main([str(x) for x in args])
            except SystemExit as usage:
                result = usage.code
        out, err = o.getvalue(), e.getvalue()
    assert result == code, (result, out, err)
    return err if code else out


def start(*args):
    args, how = command(*args)
    return subprocess.Popen(args, **how)


def read(daemon, sequence_id, n, first=0):
    with client_of(daemon) as client:
        profile_id = client.profiles()[0].profile_id
        sequence = deltapq.Sequence(sequence_id, profile_id, client.geometry(profile_id), n_tokens=n)
        return client.read(sequence, first, n, dtype="f16", via="stream")


@pytest.fixture(scope="module")
def short_file(origin, short, tmp_path_factory):
    path = tmp_path_factory.mktemp("short") / "short.dpq"
    run("export", origin.grpc_path, path, short[0].id, *SALT)
    return path


@pytest.fixture(scope="module")
def long_file(origin, long, tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.dpq"
    run("export", origin.grpc_path, path, long.id)
    return path


# --- there and back -------------------------------------------------------------------------------


def test_moves(origin, target, short, short_file, profile, client):
    """Found by its token ids, and decoded bit for bit as at its origin."""
    sequence, ids = short
    shown = json.loads(run("show", "--json", short_file))
    assert shown["profile_id"] == profile.hex() and shown["n_bytes"] == os.path.getsize(short_file)
    assert [(s["n_tokens"], s["adapter"], s["salt"], s["position_base"]) for s in shown["sequences"]] == \
        [(700, "lora", "pepper", 17)]
    assert not os.path.exists(f"{short_file}.part")
    done = json.loads(run("import", "--json", target.grpc_path, short_file))
    (new,) = done["sequences"]
    assert (new["n_tokens"], new["n_shared_tokens"]) == (700, 0)
    prefix = dict(adapter="lora", salt="pepper", position_base=17)
    with client_of(target) as there:
        assert there.lookup(profile, ids, **prefix).n_tokens == 640
        assert there.lookup(profile, ids).n_tokens == 0
        want = client.read(sequence, dtype="f16", via="stream")
        assert np.array_equal(read(target, new["id"], 700), want)
        local = there.decode_local(profile, ids, dtype="f16", n=640, **prefix)
        assert np.array_equal(local, want[:, :, :, :640])
        # it is a sequence like any other
        more, kv = deltapq.Sequence(new["id"], profile, GEOMETRY, n_tokens=700), random_kv(100, 3)
        there.append(more, kv, list(range(100)), via="inline")
        client.append(sequence, kv, list(range(100)), via="inline")
        want = read(origin, sequence.id, 800)  # the tail has become a tile
        assert np.array_equal(read(target, new["id"], 800), want)
        # again: nothing is sent but the tail, nothing overwritten
        n_tiles = there.status().n_tiles
        text = run("import", target.grpc_path, short_file, "--release")
        assert text == "700 tokens, 640 of them were there: found by look-up\n"
        assert (there.status().n_tiles, there.status().n_sequences) == (n_tiles, 1)
    target.kill()
    target.start()
    assert np.array_equal(read(target, new["id"], 800), want)


def test_several_and_by_token_ids_and_the_profile_alone(origin, target, client, profile, tmp_path):
    sequences = []
    for i in range(3):
        sequence = client.create_sequence(profile)
        client.append_stream(sequence, random_kv(200 + 28 * i, 20 + i), [10 ** 6 * i + j for j in range(200 + 28 * i)])
        sequences.append(sequence)
    (tmp_path / "ids").write_text(json.dumps([2 * 10 ** 6 + j for j in range(256)]))
    run("export", origin.grpc_path, tmp_path / "some", *[s.id for s in sequences], "--no-profile")
    run("export", origin.grpc_path, tmp_path / "found", "--token-ids", tmp_path / "ids", "--profile", profile.hex()[:6])
    run("export", origin.grpc_path, tmp_path / "profile")
    refused = run("import", target.grpc_path, tmp_path / "some", code=1)
    assert "not installed" in refused and "PROFILE" in refused
    assert run("import", target.grpc_path, tmp_path / "profile") == "the profile is installed\n"
    done = json.loads(run("import", "--json", target.grpc_path, tmp_path / "some"))["sequences"]
    assert [s["n_tokens"] for s in done] == [200, 228, 256]
    for old, new in zip(sequences, done):
        assert np.array_equal(read(target, new["id"], new["n_tokens"]), read(origin, old.id, new["n_tokens"]))
    done = json.loads(run("import", "--json", target.grpc_path, tmp_path / "found"))["sequences"]
    assert [(s["n_tokens"], s["n_shared_tokens"]) for s in done] == [(256, 256)]
    for sequence in sequences:
        client.release(sequence, discard=True)


def test_what_cannot_be_exported(origin, short, client, profile, tmp_path):
    unnamed, empty = client.create_sequence(profile), client.create_sequence(profile)
    client.append_stream(unnamed, random_kv(300, 4))
    for args, reason in (((unnamed.id,), "EXPORT_IDS"), ((empty.id,), "EXPORT_EMPTY"), ((12345,), "SEQUENCE"),
                         ((short[0].id,), "ADAPTER_SALT"), ((short[0].id, *SALT, "--tokens", 200), "TOKEN_RANGE")):
        assert reason in run("export", origin.grpc_path, tmp_path / "x", *args, code=1)
        assert not os.path.exists(tmp_path / "x")
    (tmp_path / "mine").write_text("precious")
    assert "never overwritten" in run("export", origin.grpc_path, tmp_path / "mine", short[0].id, *SALT, code=1)
    assert (tmp_path / "mine").read_text() == "precious"
    (tmp_path / "y.part").write_text("precious")
    assert "not an export file" in run("export", origin.grpc_path, tmp_path / "y", short[0].id, *SALT, code=1)
    assert (tmp_path / "y.part").read_text() == "precious"
    run("export", code=2)
    assert "export: " in run("export", tmp_path / "nowhere", tmp_path / "z", 1, code=3)
    client.release(unnamed, discard=True)


# --- broken off -----------------------------------------------------------------------------------


@pytest.fixture
def slow(origin):
    """A way to the origin on which there is time to break things off."""
    proxy = Proxy(origin.grpc_path)
    proxy.delay = 0.03
    yield proxy
    proxy.close()


def wait_for_bytes(path, n):
    wait_until(lambda: os.path.exists(path) and os.path.getsize(path) >= n, timeout=30, what=f"{n} bytes of {path}")


def test_export_goes_on(origin, long, long_file, slow, tmp_path):
    """Killed, on either side, and cut: the file is the same in the end."""
    want, path = long_file.read_bytes(), tmp_path / "long.dpq"
    assert len(want) > 5 << 20
    child = start("export", slow.path, path, long.id)
    wait_for_bytes(f"{path}.part", 1 << 20)
    child.kill()
    child.communicate()
    assert not os.path.exists(path)
    assert "CUT" in run("show", f"{path}.part", code=1)
    assert "CUT" in run("import", origin.grpc_path, f"{path}.part", code=1)
    there = os.path.getsize(f"{path}.part")
    child = start("export", slow.path, path, long.id, "--json")
    wait_for_bytes(f"{path}.part", there + (1 << 20))
    assert "another export" in run("export", origin.grpc_path, path, long.id, code=1)  # while one is under way
    origin.kill()
    time.sleep(0.3)
    origin.start()
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert json.loads(out)["n_resumed_bytes"] >= there - (1 << 20)
    assert path.read_bytes() == want
    # a daemon that does not come back; then one that does
    child = start("export", slow.path, tmp_path / "again", long.id, "--wait", 0.5)
    wait_for_bytes(tmp_path / "again.part", 2 << 20)
    slow.refuse = True
    slow.cut()
    child.communicate(timeout=60)
    assert child.returncode == 3
    slow.refuse = False
    run("export", origin.grpc_path, tmp_path / "again", long.id)
    assert (tmp_path / "again").read_bytes() == want


def test_a_part_that_is_not_of_it(origin, client, profile, long, short, long_file, tmp_path):
    """Bytes of one sequence are not gone on with by another's; a damaged part from where it is good."""
    want = long_file.read_bytes()
    part = tmp_path / "x.part"
    part.write_bytes(want[:2 << 20])
    other = client.create_sequence(profile)
    client.append_stream(other, random_kv(400, 2), list(range(400)))
    assert "TOKEN_RANGE" in run("export", origin.grpc_path, tmp_path / "x", other.id, code=1)
    client.append_stream(other, random_kv(LONG - 400, 5), list(range(1, LONG - 399)))
    assert "EXPORT_CHANGED" in run("export", origin.grpc_path, tmp_path / "x", other.id, code=1)
    client.release(other, discard=True)
    damaged = bytearray(want[:4 << 20])
    damaged[2 << 20] ^= 1
    part.write_bytes(damaged)
    run("export", origin.grpc_path, tmp_path / "x", long.id)
    assert (tmp_path / "x").read_bytes() == want
    # its tail has become a tile meanwhile
    growing = client.create_sequence(profile)
    client.append_stream(growing, random_kv(300, 6), list(range(5000, 5300)))
    run("export", origin.grpc_path, tmp_path / "g", growing.id)
    (tmp_path / "h.part").write_bytes((tmp_path / "g").read_bytes()[:-30000])
    client.append_stream(growing, random_kv(100, 7), list(range(100)))
    assert "have become part of a tile" in run("export", origin.grpc_path, tmp_path / "h", growing.id, code=1)
    client.release(growing, discard=True)


def test_import_goes_on(target, long, long_file, origin):
    """Killed, on either side: what was acknowledged is not sent again, and no half sequence is left."""
    want = read(origin, long.id, 1000, first=20000)
    proxy = Proxy(target.grpc_path)
    proxy.delay = 0.01

    def n_tiles(daemon=target):
        with client_of(daemon) as client:
            status = client.status()
            assert status.n_sequences == 0
            return status.n_tiles

    child = start("import", proxy.path, long_file)
    wait_until(lambda: n_tiles() > 60, timeout=30, what="the first tiles")
    child.kill()
    child.communicate()
    first = n_tiles()
    child = start("import", "--json", proxy.path, long_file)
    wait_until(lambda: n_tiles() > first + 60, timeout=30, what="more tiles")
    target.kill()
    time.sleep(0.3)
    target.start()
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    (new,) = json.loads(out)["sequences"]
    assert new["n_shared_tokens"] >= 128 * (first + 50)
    assert new["n_sent_bytes"] < os.path.getsize(long_file) * (1 - new["n_shared_tokens"] / LONG) + (1 << 20)
    assert np.array_equal(read(target, new["id"], 1000, first=20000), want)
    proxy.close()


# --- files that are not good ----------------------------------------------------------------------


def test_bad_files_are_refused_by_name(target, short_file, tmp_path):
    good = short_file.read_bytes()
    path = tmp_path / "bad.dpq"

    def refused(data, *parts):
        path.write_bytes(data)
        for args in (("show", path), ("import", target.grpc_path, path)):
            text = run(*args, code=1)
            assert "bad.dpq" in text and all(p in text for p in parts), text

    refused(b"", "empty")
    refused(b"DPQ", "CUT")
    refused(b"GGUF" + good[4:], "not an export file")
    refused(os.urandom(5000), "not an export file")
    refused(good[:8] + struct.pack("<I", 7) + good[12:], "another version")
    refused(good + b"x", "CORRUPT", "1 bytes follow")
    for n in (16, 40, len(good) // 2, len(good) - 1, len(good) - 24):
        refused(good[:n], "CUT", f"of {n} bytes are good")
    for at in range(100, len(good), len(good) // 23):
        refused(good[:at] + bytes([good[at] ^ 4]) + good[at + 1:], "bytes are good")
    with client_of(target) as client:
        status = client.status()
        assert (status.n_tiles, status.n_sequences, status.n_profiles) == (0, 0, 0)
    run("import", target.grpc_path, tmp_path / "none", code=4)


def parts_of(path, client):
    """Of a file with one sequence: its bytes; the header with the sequence's record; each tile's record."""
    from deltapq.transfer import open_file
    file, found = open_file(client.library, str(path))
    file.close()
    good, sequence = path.read_bytes(), found.sequences[0]
    return (good, good[:16] + good[sequence.offset:sequence.offset + sequence.n_bytes],
            [good[at:at + n] for _, at, n in sequence.parts])


def test_a_silent_import_ends(make_daemon, short_file, client, profile):
    """The beginning of a file, and then nothing: what came is not held for ever, and the rest can be sent."""
    import threading

    import grpc
    from deltapq.v1 import kv_cache_pb2 as kv
    _, head, tiles = parts_of(short_file, client)
    over = threading.Event()

    def requests():
        yield kv.ImportRequest(data=head + tiles[0])
        over.wait()

    d = make_daemon({"tenant test": {"arena_bytes": "64M"}, "daemon": {"stall_seconds": 2, "cpu": "auto"}})
    with client_of(d) as there:
        there.install_profile(client.get_profile(profile))
        with pytest.raises(grpc.RpcError) as e:
            list(there.import_once(requests(), 60))
        over.set()
        assert e.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "sent nothing for 2 s" in e.value.details()
        rest = kv.ImportRequest(data=b"".join([head, *tiles[1:]]))
        assert list(there.import_once(iter([rest]), 60))[-1].n_tokens == 700


def test_a_daemon_distrusts_what_a_client_has_let_through(target, short_file, client, profile):
    """The stream itself: without a profile, damaged, cut, out of order, and that nothing is left of it."""
    from deltapq.v1 import kv_cache_pb2 as kv
    good, head, tiles = parts_of(short_file, client)

    with client_of(target) as there:
        def refused(reason, *data):
            import grpc
            with pytest.raises(grpc.RpcError) as e:
                list(there.import_once((kv.ImportRequest(data=x) for x in data), 30))
            assert deltapq.DeltaPQError.from_rpc(e.value).reason == reason, e.value

        refused("PROFILE", head)
        there.install_profile(client.get_profile(profile))
        refused("IMPORT_CORRUPT", b"GGUF" * 100)
        refused("IMPORT_VERSION", good[:8] + b"\7" + good[9:100])
        refused("IMPORT_CORRUPT", good[:16] + tiles[0])
        refused("IMPORT_CORRUPT", good[:1 << 20])  # the profile has a way of its own
        refused("IMPORT_CORRUPT", head, tiles[1])
        refused("IMPORT_CORRUPT", head, head[16:])
        refused("IMPORT_CORRUPT", head, tiles[0][:500] + b"!" + tiles[0][501:])
        refused("IMPORT_CUT", head, tiles[0], tiles[1][:-1])
        refused("IMPORT_CUT")
        refused("INLINE_SIZE", head + bytes((1 << 20) + 1))
        assert there.status().n_sequences == 0
        # bit by bit, in any pieces
        pieces = b"".join([head, *tiles[1:]])
        replies = list(there.import_once((kv.ImportRequest(data=pieces[i:i + 999]) for i in
                                          range(0, len(pieces), 999)), 60))
        assert replies[-1].sequence_id and replies[-1].n_tokens == 700 and replies[-1].n_bytes == len(pieces)
        assert replies[-1].n_shared_tokens == 128  # of the one that was broken off


# --- no space -------------------------------------------------------------------------------------


def test_full_disk(origin, long, long_file, tmp_path):
    path = tmp_path / "full.dpq"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

    text = run("export", origin.grpc_path, path, long.id, code=4, preexec_fn=limit)
    assert "full.dpq.part" in text and "NO_SPACE" in text and "kept" in text
    assert not os.path.exists(path) and os.path.getsize(f"{path}.part") == 3 << 20
    done = json.loads(run("export", "--json", origin.grpc_path, path, long.id))
    assert done["n_resumed_bytes"] > 2 << 20
    assert path.read_bytes() == long_file.read_bytes()


def test_a_full_arena(short_file, long_file):
    with Daemon({"tenant test": {"arena_bytes": "4M"}}) as small:
        text = run("import", small.grpc_path, long_file, "--wait", 1, code=1)
        assert "ARENA_FULL" in text and "no room" in text
        done = json.loads(run("import", "--json", small.grpc_path, short_file))["sequences"]
        assert done[0]["n_tokens"] == 700  # what was imported in part gives way
