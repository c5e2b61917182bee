"""The status pages."""

import json
import shutil
import socket
import subprocess

import pytest

from frame import Daemon, held_call, wait_until


@pytest.fixture(name="d", scope="module")
def started():
    with Daemon({"tenant other": {"uids": 4000000001, "arena_bytes": "2M"}}) as d:
        yield d


def test_pages(d):
    status, headers, text = d.get("/")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    for page in ("/healthz", "/readyz", "/status", "/metrics"):
        assert page in text
        assert d.get(page)[0] == 200
    assert d.get("/healthz")[2] == "ok\n"
    assert d.get("/readyz")[2] == "ready\n"
    assert d.get("/healthz")[1]["Cache-Control"] == "no-store"


def test_status(d):
    status, headers, text = d.get("/status")
    assert status == 200 and headers["Content-Type"] == "application/json"
    page = json.loads(text)
    assert page["state"] == "ready" and page["n_tenants"] == 2
    assert [t["tenant"] for t in page["tenants"]] == ["test", "other"]
    assert page["tenants"][0]["arena_bytes"] == 4 << 20
    assert page["total"]["arena_bytes"] == 6 << 20
    assert set(page["total"]) == set(page["tenants"][0]) - {"tenant", "epoch", "heat"}
    assert page["tenants"][0]["heat"] == [] and page["total"]["streams_red"] == 0
    assert page["n_workers"] >= 2 and page["kernels"]
    assert page["total"]["tokens_appended"] == 0 and page["total"]["errors"] == 0
    assert page["uptime_seconds"] >= 0
    assert json.loads(d.get("/status")[2])["uptime_seconds"] >= page["uptime_seconds"]


def test_nothing_private(d):
    for page in ("/", "/status", "/metrics"):
        text = d.get(page)[2]
        assert d.directory not in text and socket.gethostname() not in text


def test_metrics(d):
    status, headers, text = d.get("/metrics")
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = d.counters()
    assert values["deltapq_ready"] == 1
    assert any(name.startswith("deltapq_build_info{version=") for name in values)
    counters = [line.split()[2] for line in text.splitlines() if line.endswith(" counter")]
    assert len(counters) >= 10
    for counter in counters:
        assert counter.endswith("_total")
        if counter in values:
            continue  # of the process
        series = {n: v for n, v in values.items() if n.startswith(counter + "{")}
        assert len(series) == 2 and set(series.values()) == {0}, series  # there before any traffic
    assert values["deltapq_monitor_tiles_dropped_total"] == 0
    for gauge in ("tiles", "sequences", "clients", "staging_bytes", "tail_bytes"):
        for tenant in ("test", "other"):
            assert values[f'deltapq_{gauge}{{tenant="{tenant}"}}'] == 0


def test_metrics_by_promtool(d):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool")
    done = subprocess.run([promtool, "check", "metrics"], input=d.get("/metrics")[2], text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_errors(d):
    status, headers, text = d.get("/nowhere")
    assert status == 404 and headers["Content-Type"] == "application/json"
    assert json.loads(text)["error"]["status"] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, headers, text = d.get("/status", method=method, data=b"x" * 1000)
        assert status == 405 and headers["Allow"] == "GET, HEAD"
        assert json.loads(text)["error"]["status"] == 405
    assert d.get("/healthz?query")[0] == 200
    assert d.get("/../status")[0] == 404


def test_head(d):
    status, headers, text = d.get("/status", method="HEAD")
    assert status == 200 and text == "" and int(headers["Content-Length"]) > 100


def raw(d, data, timeout=20):
    port = int(d.url("").rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        try:
            s.sendall(data)
            return s.makefile("rb").read()
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_bad_requests(d):
    for data in (b"GET / HTTP/1.1\r\nX: " + b"y" * 100000 + b"\r\n\r\n",
                 b"GET /" + b"z" * 100000 + b" HTTP/1.1\r\n\r\n",
                 b"\0\xff nonsense\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n"):
        reply = raw(d, data)
        assert reply[:5] in (b"", b"HTTP/")
        assert d.get("/healthz")[0] == 200


def test_slow_clients_are_let_go(d):
    """More connections than are served at a time, saying nothing: the pages come back by themselves."""
    port = int(d.url("").rsplit(":", 1)[1])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for s in slow[:10]:
        s.sendall(b"GET /sta")
    try:
        raw_reply = raw(d, b"GET /healthz HTTP/1.0\r\n\r\n", timeout=20)
        assert raw_reply.endswith(b"ok\n")
    finally:
        for s in slow:
            s.close()


def test_stopping_is_shown():
    """While calls are given their grace the pages say so; a second signal does not wait for them."""
    with Daemon({"daemon": {"grace_seconds": 60}}) as d, held_call(d):
        d.signal()
        wait_until(lambda: d.get("/healthz")[0] == 503)
        assert d.get("/healthz")[2] == "stopping\n"
        assert d.get("/readyz")[0] == 503
        assert json.loads(d.get("/status")[2])["state"] == "stopping"
        d.signal()
        assert d.wait(20) == 0
        assert "second signal" in d.log()


def test_off():
    with Daemon({"http": {"listen": "off"}}) as d:
        assert "status pages" not in d.log()
