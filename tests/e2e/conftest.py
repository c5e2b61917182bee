"""Fixtures of the end-to-end tests: a real daemon (the environment's DELTAPQD), channels, stubs."""

import os
import re

# Before grpc is imported: starting a daemon forks, and grpc's handlers for that are for those who go
# on with it in the child. Now and then they abort.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import pytest  # noqa: E402
from frame import Daemon, Proxy  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


def check_log(log):
    """No sanitizer complained."""
    found = re.search(r"(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error).*", log, re.S)
    assert not found, found[0][:8000]


@pytest.fixture(scope="module")
def make_daemon():
    """A function that starts daemons, {section: {key: value}} over the tests' configuration. Those
    that still run at the end of the module must end cleanly."""
    daemons = []

    def make(sections=None, **options):
        daemons.append(Daemon(sections, **options))
        return daemons[-1]

    yield make
    for daemon in daemons:
        with daemon:
            if daemon.process.poll() is None:
                daemon.stop()
            check_log(daemon.log())


@pytest.fixture(scope="module")
def daemon(make_daemon):
    """One daemon for the module: paths in grpc_path, side_path, config."""
    return make_daemon({"tenant test": {"arena_bytes": "64M", "staging_bytes": "4M",
                                        "staging_total_bytes": "16M"}})


@pytest.fixture
def proxy(daemon):
    """A connection to the daemon that can be cut and refused."""
    proxy = Proxy(daemon.grpc_path)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def api():
    """Message classes and stubs by name, from the .proto files."""
    pytest.importorskip("grpc")
    from rpc import Api
    return Api()


@pytest.fixture(scope="module")
def channel(daemon):
    from rpc import open_channel
    with open_channel(daemon.grpc_path) as channel:
        yield channel


@pytest.fixture(scope="module")
def stubs(api, channel):
    """stubs.kv, .profiles, .monitor, .health, .reflection"""
    from rpc import Stubs
    return Stubs(api, channel)


@pytest.fixture(scope="module")
def profile_id(api, stubs):
    """A profile of the tiny model in rpc.py, trained by the daemon on random numbers."""
    from rpc import calibrate_requests, random_numbers
    samples = [random_numbers(1024, seed) for seed in (1, 2)]
    return stubs.profiles.Calibrate(calibrate_requests(api, samples), timeout=120).profile_id
