"""Calibration, as a stream of requests that can go on after the connection broke."""
from __future__ import annotations

import collections
import secrets
import threading
import time

import numpy as np

from .errors import DeltaPQError
from .tensors import Geometry, TensorDesc
from .v1 import profiles_pb2 as profiles

MAX_INLINE_BYTES = 1 << 20
KEEP_BYTES = 64 << 20  # of samples sent last: what may have been lost on the way
RETRY_SECONDS = 0.5
REFERENCES = {"auto": profiles.AUTO, "none": profiles.NONE, "temporal": profiles.TEMPORAL,
              "depth-head": profiles.DEPTH_HEAD, "depth": profiles.DEPTH}


def begin_request(geometry: Geometry, *, model_name: str, seed: int = 1, n_iterations: int = 0,
                  reference: str = "auto", dsub: tuple[int, int] | None = None, preset: str = "",
                  label: str = "", calibration_id: int = 0, **numbers) -> profiles.CalibrateRequest:
    """numbers: other fields of CalibrateBegin by their names; see profiles.proto for units and ranges."""
    if reference not in REFERENCES:
        raise ValueError(f"reference {reference!r} is none of {', '.join(REFERENCES)}")
    dsub_k, dsub_v = dsub or (0, 0)
    return profiles.CalibrateRequest(begin=profiles.CalibrateBegin(
        model_name=model_name, geometry=geometry.to_proto(), seed=seed, n_iterations=n_iterations,
        reference=REFERENCES[reference], dsub_k=dsub_k, dsub_v=dsub_v, preset=preset, label=label,
        calibration_id=calibration_id, **numbers))


def metric_requests(geometry: Geometry, metric) -> list[profiles.CalibrateRequest]:
    """metric: None, or [layers, 2, heads, head_dim, head_dim]."""
    if metric is None:
        return []
    want = geometry.n_layers, 2, geometry.n_kv_heads, geometry.head_dim, geometry.head_dim
    if tuple(metric.shape) != want:
        raise ValueError(f"metric: shape {tuple(metric.shape)} where {want} belongs")
    return [profiles.CalibrateRequest(metric=profiles.CalibrateMetric(
        layer=layer, kind=kind, head=head, matrix=np.ascontiguousarray(
            metric[layer, kind, head], "<f4").tobytes())) for layer, kind, head in np.ndindex(want[:3])]


def stream_requests(streams) -> list[profiles.CalibrateRequest]:
    """streams: {(layer, kind, head): {"reference": …, "dsub": …, "planes": …}}, or None."""
    requests = []
    for (layer, kind, head), own in (streams or {}).items():
        own = dict(own)
        reference = own.pop("reference", "auto")
        if reference not in REFERENCES:
            raise ValueError(f"reference {reference!r} is none of {', '.join(REFERENCES)}")
        requests.append(profiles.CalibrateRequest(stream=profiles.CalibrateStream(
            layer=layer, kind=kind, head=head, reference=REFERENCES[reference], **own)))
    return requests


def parts_of(geometry: Geometry, samples):
    """CalibrateSamples of at most 1 MiB each."""
    first_token = 0
    for numbers, position in samples:
        step = max(1, MAX_INLINE_BYTES // (geometry.numbers_per_token * numbers.itemsize))
        for at in range(0, numbers.shape[3], step):
            part = np.ascontiguousarray(numbers[:, :, :, at:at + step])
            yield profiles.CalibrateSamples(
                tensor=TensorDesc.of(part).to_proto(), n_tokens=part.shape[3],
                first_position=position + at, inline_data=part.tobytes(), first_token=first_token)
            first_token += part.shape[3]


def end_of(part: profiles.CalibrateSamples) -> int:
    return part.first_token + part.n_tokens


class Feed:
    """The requests of one calibration. A call that broke off may still be asking for more in gRPC's
    thread when the next one begins: only the latest gets any, and what the other took is kept."""

    def __init__(self, begin, metrics, parts):
        self._head, self._parts = [begin, *metrics], parts
        self._kept, self._kept_bytes = collections.deque(), 0
        self._lock, self._turn = threading.Lock(), 0
        self.failure = None  # of whoever makes the samples: gRPC would only say that there was one

    def requests(self, first_token: int):
        """All requests of a call; samples from the token on that the daemon has not got yet."""
        with self._lock:
            self._turn += 1
            turn = self._turn
            if self._kept and self._kept[0].first_token > first_token:
                raise DeltaPQError("LOCAL", "RESUME", f"the daemon has {first_token} tokens, but samples "
                                   f"before {self._kept[0].first_token} are not kept any more")
        return self._from(turn, first_token)

    def _from(self, turn, at):
        yield from self._head
        while True:
            with self._lock:
                if turn != self._turn:
                    return
                try:
                    part = self._at(at)
                except BaseException as e:
                    self.failure = e
                    raise
            if part is None:
                return
            yield profiles.CalibrateRequest(samples=part)
            at = end_of(part)

    def _at(self, token):
        for part in self._kept:
            if end_of(part) > token:
                return part
        for part in self._parts:
            if end_of(part) > token:
                self._keep(part)
                return part
        return None

    def _keep(self, part):
        self._kept.append(part)
        self._kept_bytes += len(part.inline_data)
        while self._kept_bytes > KEEP_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft().inline_data)


def may_go_on(error: DeltaPQError) -> bool:
    return error.code == "UNAVAILABLE" or error.reason == "CALIBRATION_BUSY"


def new_id() -> int:
    return secrets.randbits(64) or 1


def run(client, feed: Feed, calibration_id: int, known: bool, timeout: float,
        resume_seconds: float) -> profiles.CalibrateReply:
    """Call until there is an answer. known: the daemon may have samples of that id already."""
    first_token = tokens_taken(client, calibration_id) if known else 0
    give_up = None
    while True:
        try:
            return client.calibrate_once(feed.requests(first_token), timeout)
        except DeltaPQError as e:
            if feed.failure:
                raise feed.failure from None
            if not calibration_id or not may_go_on(e):
                raise
            taken, give_up = wait_for_daemon(client, calibration_id, e, give_up, resume_seconds)
            if taken > first_token:
                give_up = None  # it gets on
            first_token = taken


def tokens_taken(client, calibration_id: int) -> int:
    try:
        return client.get_calibration(calibration_id).n_tokens
    except DeltaPQError as e:
        if e.reason != "CALIBRATION":
            raise
        return 0


def wait_for_daemon(client, calibration_id, error, give_up, resume_seconds):
    """(tokens that it has, when to give up): raises error when that time is over."""
    give_up = give_up or time.monotonic() + resume_seconds
    while time.monotonic() < give_up:
        time.sleep(RETRY_SECONDS)
        try:
            return tokens_taken(client, calibration_id), give_up
        except DeltaPQError as e:
            if e.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise
    raise error
