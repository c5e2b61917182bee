"""The daemon's life: start, refusals, connections, signals, stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import frame
from frame import Daemon, connect, is_closed, served, side_reply, side_request, wait_until


def run(*args):
    return subprocess.run([frame.BINARY, *args], capture_output=True, text=True, timeout=30)


# --- command line and configuration ------------------------------------------------------------


def test_help_and_version():
    done = run("--help")
    assert done.returncode == 0 and "--check-config" in done.stdout and "Exit status:" in done.stdout
    done = run("--version")
    assert done.returncode == 0 and re.fullmatch(r"deltapqd \d+\.\d+\.\d+\n", done.stdout)
    for wrong in (["--frobnicate"], ["surplus"], ["--config"]):
        done = run(*wrong)
        assert done.returncode == 2 and "--help" in done.stderr


def test_check_config(tmp_path):
    path = frame.write_config(tmp_path, {})
    assert run("--config", path, "--check-config").returncode == 0
    assert not (tmp_path / "run").exists()
    done = run("--config", f"{tmp_path}/none.conf", "--check-config")
    assert done.returncode == 2 and "No such file" in done.stderr


@pytest.mark.parametrize("text, line, message", [
    ("[daemon]\nworker = 3\n", 2, 'was "workers" meant?'),
    ("[daemon]\n\nworkers = many\n", 3, "workers = many: must be a whole number from 0 to 256"),
    ("[daemn]\n", 1, "was this meant to be [daemon]"),
    ("[daemon]\nworkers\n", 2, "neither a [section] nor key = value"),
])
def test_config_typo(tmp_path, text, line, message):
    path = tmp_path / "d.conf"
    path.write_text(text + "[tenant a]\nuids = 1\n")
    for args in (["--check-config"], []):
        done = run("--config", str(path), *args)
        assert done.returncode == 2
        assert done.stderr.startswith(f"{path}:{line}: ") and message in done.stderr
        assert done.stderr.count("\n") == 1


def test_more_memory_than_there_is(tmp_path):
    path = frame.write_config(tmp_path, {"tenant test": {"arena_bytes": "16T"}})
    done = run("--config", path)
    assert done.returncode == 2 and "add up to" in done.stderr


# --- start and stop ------------------------------------------------------------------------------


def test_start_and_stop():
    with Daemon() as d:
        assert served(d.grpc_path)
        assert os.stat(d.grpc_path).st_mode & 0o777 == 0o660
        assert os.stat(d.side_path).st_mode & 0o777 == 0o660
        assert "allow_same_uid" in d.log()  # the risk is named
        d.stop()
        assert not os.path.exists(d.grpc_path) and not os.path.exists(d.side_path)
        assert "stopping" in d.log() and "stopped" in d.log()
        d.start()
        d.signal(signal.SIGINT)
        assert d.wait() == 0


def test_second_daemon():
    with Daemon() as d:
        done = run("--config", d.config)
        assert done.returncode == 3
        assert f"another deltapqd (pid {d.process.pid}) serves {d.grpc_path}" in done.stderr
        assert served(d.grpc_path)


def test_killed_and_started_again():
    with Daemon() as d:
        d.process.kill()
        d.wait()
        assert os.path.exists(d.grpc_path)  # left over
        d.start()
        assert served(d.grpc_path)


def test_failed_start_leaves_nothing():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with Daemon({"http": {"listen": where}}, start=False) as d:
            d.spawn()
            assert d.wait() == 1
            assert f"status pages on {where}: Address already in use" in d.log()
            assert not os.path.exists(d.grpc_path) and not os.path.exists(d.side_path)


def test_runtime_dir_in_the_way(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "grpc.sock").write_text("a file")
    done = run("--config", frame.write_config(tmp_path, {}))
    assert done.returncode == 1 and "grpc.sock: File exists" in done.stderr
    assert (tmp_path / "run" / "grpc.sock").read_text() == "a file"


def test_stop_with_connections():
    with Daemon({"daemon": {"grace_seconds": 20}}) as d:
        idle = [connect(d.grpc_path) for _ in range(5)]
        for s in idle[2:]:
            s.sendall(frame.PREFACE)
        side = [connect(d.side_path) for _ in range(3)]
        wait_until(lambda: d.counters()['deltapq_connections_accepted_total{socket="fd"}'] == 3)
        begun = time.monotonic()
        d.stop()
        assert time.monotonic() - begun < 10  # connections without a call do not use up the grace
        for s in idle + side:
            wait_until(lambda s=s: is_closed(s))
            s.close()


def test_grace():
    """A call that does not end is cancelled when the grace time is over."""
    with Daemon({"daemon": {"grace_seconds": 1}}) as d, frame.held_call(d) as call:
        begun = time.monotonic()
        d.stop()
        assert 0.9 < time.monotonic() - begun < 15
        assert "calls did not end within 1 s" in d.log()
        assert call.exception(10).code().name in ("CANCELLED", "UNAVAILABLE")


def test_reload():
    with Daemon({"daemon": {"log_level": "info"}}) as d:
        d.signal(signal.SIGHUP)
        d.wait_log("reload: nothing to reload")
        text = open(d.config, encoding="utf-8").read()
        with open(d.config, "w", encoding="utf-8") as file:
            file.write(text.replace("log_level = info", "log_level = debug"))
        d.signal(signal.SIGHUP)
        d.wait_log("reload: log_level is debug now, was info")
        with open(d.config, "w", encoding="utf-8") as file:
            file.write(text.replace("log_level = info", "log_level = debug\nworkers = 3"))
        d.signal(signal.SIGHUP)
        d.wait_log("reload: workers stays 0: 3 counts from the next start")
        with open(d.config, "a", encoding="utf-8") as file:
            file.write("nonsense = 1\n")
        d.signal(signal.SIGHUP)
        d.wait_log(r"reload: .*deltapqd.conf:\d+: there is no key \"nonsense\"")
        for key, message in (("arena_bytes = 4M", "arena_bytes = 16T"),
                             ("staging_total_bytes = 4M", "staging_total_bytes = 16T")):
            with open(d.config, "w", encoding="utf-8") as file:
                file.write(text.replace(key, message).replace("log_level = info",
                                                              "log_level = error"))
            d.signal(signal.SIGHUP)
            wait_until(lambda: d.log().count("add up to") == 1 + key.startswith("staging"))
        assert "log_level is error" not in d.log()  # all, or nothing
        assert served(d.grpc_path)


# --- the service manager -------------------------------------------------------------------------


def test_notify(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(tmp_path / "notify")
        manager.bind(path)
        manager.settimeout(30)
        with Daemon(env={"NOTIFY_SOCKET": path}, start=False) as d:
            d.spawn()
            message = manager.recv(4096).decode()
            while message.startswith(("FDSTORE=1", "BARRIER=1")):  # arenas to be kept
                message = manager.recv(4096).decode()
            assert message.startswith("READY=1\nSTATUS=serving")
            assert served(d.grpc_path)  # ready means ready
            d.stop()
            assert manager.recv(4096).decode().startswith("STOPPING=1")


PASS = """import os, sys
fds = [int(x) for x in sys.argv[1].split(",")]
high = [os.dup2(fd, 200 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def listen_unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(64)
    return s


def passing(names, sockets, **more):
    """A daemon that is given these sockets as a service manager would."""
    fds = [s.fileno() for s in sockets]
    return Daemon(start=False, fds=fds, env={"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names},
                  argv0=[sys.executable, "-c", PASS, ",".join(map(str, fds))], **more)


def test_sockets_passed(tmp_path):
    os.makedirs(tmp_path / "s")
    grpc, side, web = (listen_unix(str(tmp_path / "s" / n)) for n in ("grpc", "fd", "http"))
    with grpc, side, web, passing("grpc:memfd:http", [grpc, side, web]) as d:
        early = connect(str(tmp_path / "s" / "grpc"))  # waits in the backlog
        early.sendall(frame.PREFACE)
        d.start()
        assert early.recv(9)[3] == 4
        early.close()
        assert not os.path.exists(d.grpc_path)
        assert "clients will be told" in d.log()  # the side socket is not where the configuration says
        with connect(str(tmp_path / "s" / "fd")) as s:
            s.sendall(side_request())
            assert side_reply(s)[0] != 0
        with connect(str(tmp_path / "s" / "http")) as s:
            s.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert s.makefile().read().endswith("ok\n")
        d.stop()
        assert os.path.exists(tmp_path / "s" / "grpc")  # the manager's, and it goes on
        d.start()
        assert served(str(tmp_path / "s" / "grpc"))


def test_one_socket_passed(tmp_path):
    with listen_unix(str(tmp_path / "g")) as grpc, listen_unix(str(tmp_path / "x")) as other, \
            passing("grpc:unheard-of", [grpc, other]) as d:
        d.start()
        assert served(str(tmp_path / "g"))
        assert os.path.exists(d.side_path) and not os.path.exists(d.grpc_path)
        assert 'its name "unheard-of" is none of' in d.log()


def test_passed_is_no_listener(tmp_path):
    with open(tmp_path / "file", "wb") as file, passing("grpc", [file]) as d:
        d.spawn()
        assert d.wait() == 1
        assert "is not a listening unix stream socket" in d.log()


# --- who may connect -----------------------------------------------------------------------------


def test_own_uid_is_refused_by_default():
    with Daemon({"daemon": {"allow_same_uid": "false"}}) as d:
        assert not served(d.grpc_path)
        with connect(d.side_path) as s:
            wait_until(lambda: is_closed(s))
        assert "allow_same_uid" in d.wait_log("refused a connection of uid .*")[0]
        assert d.counters()['deltapq_connections_refused_total{socket="grpc"}'] >= 1


AS_USER = """import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])
s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
try:
    sys.exit(len(s.recv(9)) != 9)
except ConnectionResetError:
    sys.exit(1)
"""


def as_user(d, uid):
    """Is this user served?"""
    os.chmod(d.directory, 0o755)
    os.chmod(d.grpc_path, 0o666)
    return not subprocess.run([sys.executable, "-c", AS_USER, d.grpc_path, str(uid)],
                              timeout=30).returncode


def test_unknown_uid():
    uid = frame.other_user()
    if uid is None:
        pytest.skip("only root can be somebody else")
    with Daemon() as d:
        assert not as_user(d, uid)
        assert f"refused a connection of uid {uid}" in d.log()
    with Daemon({"daemon": {"allow_same_uid": "false"}, "tenant test": {"uids": uid}}) as d:
        assert as_user(d, uid)


# --- floods --------------------------------------------------------------------------------------


def hurry(path):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(False)
    try:
        s.connect(path)
    except BlockingIOError:
        pass
    return s


def test_flood():
    with Daemon(nofile=128) as d:
        assert served(d.grpc_path)
        before = d.n_fds()
        worst = 0
        for _ in range(10):
            flood = [hurry(d.grpc_path) for _ in range(300)]
            time.sleep(0.2)
            for s in flood:
                s.close()
            begun = time.monotonic()
            wait_until(lambda: served(d.grpc_path), timeout=10, what="service after a flood")
            worst = max(worst, time.monotonic() - begun)
        assert worst < 2, f"served again after {worst:.2f} s"
        wait_until(lambda: d.n_fds() <= before + 2, timeout=10, what="the return of descriptors")


def test_cap_per_uid():
    with Daemon({"daemon": {"max_connections_per_uid": 20}}) as d:
        many = [hurry(d.grpc_path) for _ in range(60)]
        refused = 'deltapq_connections_refused_total{socket="grpc"}'
        wait_until(lambda: d.counters()[refused] == 40)
        assert sum(is_closed(s) for s in many) == 40
        for s in many:
            s.close()
        wait_until(lambda: served(d.grpc_path))


def test_silent_connections():
    with Daemon({"daemon": {"connection_idle_seconds": 1}}, nofile=1024) as d:
        grpc = [connect(d.grpc_path) for _ in range(60)]
        for s in grpc[30:]:
            s.sendall(frame.PREFACE)
        side = [connect(d.side_path) for _ in range(10)]
        side[0].sendall(side_request()[:40])
        assert served(d.grpc_path)
        time.sleep(0.3)
        assert not any(is_closed(s) for s in grpc[:30] + side)
        wait_until(lambda: all(is_closed(s) for s in grpc), timeout=10, what="the end of idle ones")
        assert not any(is_closed(s) for s in side)
        wait_until(lambda: all(is_closed(s) for s in side), timeout=12, what="the end of silent ones")
        for s in grpc + side:
            s.close()


# --- the side socket -----------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes, message", [
    (side_request(), "ticket"),
    (side_request(op=2), "no profile"),
    (side_request(op=9), "unknown operation"),
    (side_request(magic=1), "wrong magic"),
    (side_request()[:-1] + b"\1", "reserved bytes"),
])
def test_side_refusals(request_bytes, message):
    with Daemon() as d, connect(d.side_path) as s:
        s.sendall(request_bytes)
        status, _, text, fds = side_reply(s)
        assert status > 0 and message in text and not fds
        wait_until(lambda: is_closed(s))
        assert served(d.grpc_path)
