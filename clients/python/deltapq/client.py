"""The client: RPCs over gRPC, numbers through the staging segment, inline, or by local decode."""
from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import threading

import grpc
import numpy as np

from . import calibration, streams
from .audit import Audit
from .errors import DeltaPQError
from .events import Cursor
from .library import Library
from .local import LocalReader
from .side import Side
from .tensors import NUMPY, RATES, Geometry, TensorDesc, dtype_of
from .v1 import (kv_cache_pb2 as kv, kv_cache_pb2_grpc as kv_grpc, monitor_pb2 as monitor,
                 monitor_pb2_grpc as monitor_grpc, profiles_pb2 as profiles,
                 profiles_pb2_grpc as profiles_grpc)

MAX_INLINE_BYTES = 1 << 20
BULK_OPTIONS = [("grpc.max_receive_message_length", 4 << 20), ("grpc.http2.lookahead_bytes", 4 << 20)]


def stream_choice(layer: int | None, kind: int | None, head: int | None) -> monitor.StreamChoice:
    return monitor.StreamChoice(one_layer=layer is not None, layer=layer or 0, one_kind=kind is not None,
                                kind=kind or 0, one_head=head is not None, head=head or 0)


@dataclasses.dataclass
class Sequence:
    """A sequence as this client knows it. Any client of the tenant may use its id."""
    id: int
    profile_id: bytes
    geometry: Geometry
    rate: str = "quality"
    adapter: str = ""
    salt: str = ""
    position_base: int = 0
    n_tokens: int = 0


class Client:
    """A connection to deltapqd. Calls raise DeltaPQError; each has a deadline of `timeout` seconds.

    staging_bytes  of the shared segment through which numbers travel; 0: inline only
    library        path of libdeltapq.so, for local decode; found by itself when needed

    Thread: calls may be made from any thread; those that use staging take turns.
    """

    def __init__(self, socket: str, *, staging_bytes: int = 64 << 20, name: str = "python",
                 timeout: float = 30.0, library: str | None = None):
        self.timeout = timeout
        self._socket, self._library_path = socket, library
        self._library = self._local = self._side = self._staging = None
        self._geometries: dict[bytes, Geometry] = {}
        self._staging_lock, self._staging_lost = threading.Lock(), False
        self._lock = threading.RLock()
        self.channel = grpc.insecure_channel(f"unix:{os.path.abspath(socket)}", options=BULK_OPTIONS)
        self._kv = kv_grpc.KvCacheStub(self.channel)
        self._profiles = profiles_grpc.ProfilesStub(self.channel)
        self._monitor = monitor_grpc.MonitorStub(self.channel)
        self._arena_fd = -1
        try:
            self._attach(staging_bytes, name)
        except BaseException:
            self.close()
            raise

    def _attach(self, staging_bytes: int, name: str) -> None:
        reply = self._call(self._kv.Attach, kv.AttachRequest(
            protocol=1, staging_bytes=staging_bytes, client_name=name))
        self.client_id, self.tenant, self.epoch = reply.client_id, reply.tenant, reply.epoch
        self.daemon_version = reply.daemon_version
        self._side = Side(reply.side_socket, self.timeout)
        self._arena_fd, staging_fd = self._side.attach(reply.ticket)
        if staging_fd >= 0:
            try:
                self._staging = mmap.mmap(staging_fd, reply.staging_bytes)
            finally:
                os.close(staging_fd)

    # --- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Give everything back; the daemon frees the staging segment. May be called twice."""
        if self._local:
            self._local.close()
            self._local = None
        if self._arena_fd >= 0:
            os.close(self._arena_fd)
            self._arena_fd = -1
        if self._side:
            self._side.close()
            self._side = None
        if self._staging is not None:
            try:
                self._staging.close()
            except BufferError:
                pass  # an array that the caller still holds: unmapped with it
            self._staging = None
        self.channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _call(self, method, request, timeout: float | None = None, **how):
        try:
            return method(request, timeout=timeout or self.timeout, **how)
        except grpc.RpcError as e:
            raise DeltaPQError.from_rpc(e) from None

    @contextlib.contextmanager
    def _own_staging(self):
        """The segment, for one call. After one whose end is not known (a deadline, an interrupt), the
        daemon may still be reading or writing there: nobody may touch it again."""
        with self._staging_lock:
            if self._staging_lost:
                raise DeltaPQError("LOCAL", "STAGING", "a call through the staging segment broke off, and "
                                   "may still be using it: make a new Client")
            self._staging_lost = True
            try:
                yield
            except Exception as e:  # others than ours come from preparing the call
                self._staging_lost = getattr(e, "code", "") in (
                    "DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE", "UNKNOWN")
                raise
            self._staging_lost = False

    # --- sequences ------------------------------------------------------------------------------

    def create_sequence(self, profile_id: bytes, *, rate: str = "quality", token_ids=(),
                        adapter: str = "", salt: str = "", position_base: int = 0,
                        keep_fine: bool = False, keep_tokens: bool = False) -> Sequence:
        """Begin a sequence; the longest stored prefix of whole tiles of token_ids is adopted. When
        room is short, keep_fine forbids to drop its fine planes, keep_tokens to evict its end."""
        geometry = self.geometry(profile_id)
        reply = self._call(self._kv.CreateSequence, kv.CreateSequenceRequest(
            profile_id=profile_id, client_id=self.client_id, rate=RATES[rate], adapter=adapter,
            salt=salt, position_base=position_base, token_ids=token_ids, keep_fine=keep_fine,
            keep_tokens=keep_tokens))
        return Sequence(reply.sequence_id, profile_id, geometry, rate, adapter, salt, position_base,
                        reply.n_tokens)

    def append(self, sequence: Sequence, numbers: np.ndarray, token_ids=None, *,
               via: str = "staging") -> kv.AppendReply:
        """Append the KV of numbers.shape[3] tokens: [layers, 2, heads, tokens, head_dim], float32,
        float16, or uint16 for bfloat16; any strides. In several requests if it is large; what was
        acknowledged stays when a later one is refused."""
        self._check_shape(numbers, sequence.geometry.shape(numbers.shape[3]))
        n, ids = numbers.shape[3], None if token_ids is None else list(token_ids)
        if ids is not None and len(ids) != n:
            raise ValueError(f"{len(ids)} token ids for {n} tokens")
        row = sequence.geometry.numbers_per_token * numbers.itemsize
        step, reply = self._step(via, row), None
        for at in range(0, n, step):
            part = numbers[:, :, :, at:at + step]
            reply = self._append_part(sequence, part, None if ids is None else ids[at:at + step], via)
        return reply

    @staticmethod
    def _check_shape(array, shape) -> None:
        if tuple(array.shape) != shape:
            raise ValueError(f"shape {tuple(array.shape)} where {shape} belongs")

    def _step(self, via: str, row_bytes: int) -> int:
        if via not in ("staging", "inline"):
            raise ValueError(f"via {via!r} is neither 'staging' nor 'inline'")
        room = MAX_INLINE_BYTES if via == "inline" else len(self._staging or b"")
        if room < row_bytes:
            raise DeltaPQError("LOCAL", "STAGING", f"one token of {row_bytes} bytes does not fit into "
                               f"the {room} bytes there are for {via}")
        step = room // row_bytes
        return step - step % 128 if step >= 128 else step

    def _append_part(self, sequence: Sequence, part: np.ndarray, ids, via: str) -> kv.AppendReply:
        request = kv.AppendRequest(sequence_id=sequence.id, first_token=sequence.n_tokens,
                                   n_tokens=part.shape[3], token_ids=ids or ())
        if via == "inline":
            packed = np.ascontiguousarray(part)
            request.tensor.CopyFrom(TensorDesc.of(packed).to_proto())
            request.inline_data = packed.tobytes()
            reply = self._call(self._kv.Append, request)
        else:
            with self._own_staging():
                place = np.frombuffer(self._staging, part.dtype, part.size).reshape(part.shape)
                place[...] = part
                request.tensor.CopyFrom(TensorDesc.of(place).to_proto())
                request.client_id = self.client_id
                reply = self._call(self._kv.Append, request)
        sequence.n_tokens = reply.n_tokens
        return reply

    def append_stream(self, sequence: Sequence, numbers, token_ids=None, *, chunk_bytes: int = MAX_INLINE_BYTES,
                      timeout: float = 600.0, resume_seconds: float = 60.0) -> kv.AppendReply | None:
        """append() over one call, in chunks, without staging. numbers is an array as for append(), or an
        iterator over such arrays or over pairs (array, token ids); what it gives is asked for as it can be
        sent, no more than 4 MiB ahead of what is acknowledged.

        When the connection breaks it goes on by itself, at the last token that the daemon has, unless that
        takes more than resume_seconds. After an error sequence.n_tokens says what was acknowledged. Returns
        the last reply; n_shared_tokens is of all."""
        parts = streams.parts_of(sequence.geometry, numbers, token_ids, chunk_bytes)
        return streams.Appender(self._kv, sequence, parts, timeout).run(resume_seconds)

    def append_tensor(self, sequence: Sequence, desc: TensorDesc, n_tokens: int, *, token_ids=(),
                      inline: bytes | None = None, first_token: int | None = None) -> kv.AppendReply:
        """One request as it stands: desc refers to the staging segment, or to inline bytes."""
        reply = self._call(self._kv.Append, kv.AppendRequest(
            sequence_id=sequence.id, n_tokens=n_tokens, token_ids=token_ids, tensor=desc.to_proto(),
            first_token=sequence.n_tokens if first_token is None else first_token,
            client_id=0 if inline is not None else self.client_id, inline_data=inline or b""))
        sequence.n_tokens = reply.n_tokens
        return reply

    @property
    def staging(self) -> np.ndarray:
        """The staging segment, as bytes to be written and read."""
        return np.frombuffer(self._staging, np.uint8)

    def read(self, sequence: Sequence, first: int = 0, n: int | None = None, *, dtype: str = "f32",
             layers: tuple[int, int] | None = None, via: str = "staging", base_only: bool = False,
             out: np.ndarray | None = None) -> np.ndarray:
        """n tokens from first on (default: all): [layers, 2, heads, n, head_dim] of dtype; into out, of
        any strides, if given. layers is (first, count). via is "staging", "inline", or "stream": see
        read_stream(), and decode_local() for the fourth way."""
        first_layer, n_layers = layers or (0, sequence.geometry.n_layers)
        n = sequence.n_tokens - first if n is None else n
        g = sequence.geometry
        shape = (n_layers, *g.shape(n)[1:])
        out = np.empty(shape, NUMPY[dtype]) if out is None else out
        self._check_shape(out, shape)
        if via == "stream":
            streams.read_into(lambda at, count: self.read_stream(
                sequence, at, count, dtype=dtype_of(out), layers=(first_layer, n_layers), base_only=base_only),
                out, first, first_layer, resume_seconds=self.timeout)
            return out
        row = n_layers * 2 * g.n_kv_heads * g.head_dim * out.itemsize
        step = self._step(via, row)
        for at in range(0, n, step):
            self._read_part(sequence, first + at, out[:, :, :, at:at + step], first_layer, via, base_only)
        return out

    def read_stream(self, sequence: Sequence, first: int = 0, n: int | None = None, *, dtype: str = "f32",
                    layers: tuple[int, int] | None = None, base_only: bool = False, chunk_bytes: int = 0,
                    timeout: float = 600.0) -> streams.Chunks:
        """read() in chunks of at most chunk_bytes (0: 1 MiB), without staging: an iterator over (first
        token, first layer, array), tile by tile, and in a tile some layers at a time; its is_coded and
        is_dropped say what the last one was made from. Nothing is sent that is not taken, and when nothing
        is taken for the daemon's stall_seconds (300) it ends (UNAVAILABLE). What it holds in the daemon is
        let go at its end, or at cancel(); `with` cancels. read(via="stream") gives an array, and goes on by
        itself after the connection broke."""
        n = sequence.n_tokens - first if n is None else n
        request = streams.read_request(sequence, first, n, layers, dtype, base_only, chunk_bytes)
        return streams.Chunks(self._kv, sequence, request, dtype, timeout)

    def _read_part(self, sequence, first, out, first_layer, via, base_only) -> None:
        shape, size = out.shape, out.size * out.itemsize
        request = kv.ReadRequest(sequence_id=sequence.id, first_token=first, n_tokens=shape[3],
                                 first_layer=first_layer, n_layers=shape[0], base_only=base_only)
        if via == "inline":
            desc = TensorDesc.of(np.empty(shape, out.dtype))
            request.tensor.CopyFrom(desc.to_proto())
            data = self._call(self._kv.Read, request).inline_data
            out[...] = np.frombuffer(data, out.dtype, out.size).reshape(shape)
            return
        with self._own_staging():
            place = np.frombuffer(self._staging, out.dtype, size // out.itemsize).reshape(shape)
            request.tensor.CopyFrom(TensorDesc.of(place).to_proto())
            request.client_id = self.client_id
            self._call(self._kv.Read, request)
            out[...] = place

    def read_tensor(self, sequence: Sequence, desc: TensorDesc, first: int, n: int, *,
                    layers: tuple[int, int] | None = None, staging: bool = True) -> kv.ReadReply:
        """One request as it stands; the reply's inline_data when staging is False."""
        first_layer, n_layers = layers or (0, sequence.geometry.n_layers)
        return self._call(self._kv.Read, kv.ReadRequest(
            sequence_id=sequence.id, first_token=first, n_tokens=n, first_layer=first_layer,
            n_layers=n_layers, tensor=desc.to_proto(), client_id=self.client_id if staging else 0))

    def lookup(self, profile_id: bytes, token_ids, *, rate: str = "quality", adapter: str = "",
               salt: str = "", position_base: int = 0, sequence_id: int = 0,
               slots: bool = False) -> kv.LookupReply:
        """How much of token_ids is stored; with sequence_id that sequence's raw tail counts, too."""
        return self._call(self._kv.Lookup, kv.LookupRequest(
            profile_id=profile_id, rate=RATES[rate], adapter=adapter, salt=salt,
            position_base=position_base, token_ids=token_ids, sequence_id=sequence_id, slots=slots))

    def release(self, sequence: Sequence, *, discard: bool = False) -> int:
        """Give the sequence up; with discard its tiles go too, if nobody else uses them. Bytes freed."""
        return self._call(self._kv.Release, kv.ReleaseRequest(
            sequence_id=sequence.id, discard=discard)).freed_bytes

    def fork(self, sequence: Sequence, n_tokens: int = 0, key: int = 0) -> Sequence:
        """A sequence that begins as this one is now, or as its first n_tokens are. Tiles are shared; what
        happens to either later does not touch the other. It stays until it is released or deleted.
        With a key, any number but 0, a call whose answer was lost can be made again."""
        reply = self._call(self._kv.Fork, kv.ForkRequest(sequence_id=sequence.id, n_tokens=n_tokens,
                                                         fork_key=key))
        return dataclasses.replace(sequence, id=reply.sequence_id, n_tokens=reply.n_tokens)

    def trim(self, sequence: Sequence, n_tokens: int) -> kv.TrimReply:
        """Keep the first n_tokens alone; reads of them return the same numbers as before. Cheapest at
        multiples of 128 and within the raw tail: where a tile is cut through, what follows in it is
        never shared (n_lossy_tokens)."""
        reply = self._call(self._kv.Trim, kv.TrimRequest(sequence_id=sequence.id, n_tokens=n_tokens))
        sequence.n_tokens = reply.n_tokens
        return reply

    def delete(self, sequence: Sequence) -> int:
        """Forget the sequence. Its tiles whose tokens have no ids go, if no fork uses them; the others
        stay for look-ups until the space is needed. Bytes freed."""
        return self._call(self._kv.Delete, kv.DeleteRequest(sequence_id=sequence.id)).freed_bytes

    def pin(self, sequence: Sequence, seconds: float) -> float:
        """Keep the sequence and all its tiles for so long, 0.001 to 86400 s, whatever room is needed for
        and whether or not this client lives. Where a later end was set before, that one counts. Seconds
        left."""
        return self._call(self._kv.Pin, kv.PinRequest(
            sequence_id=sequence.id, ttl_ms=round(seconds * 1000))).left_ms / 1000

    def unpin(self, sequence: Sequence) -> bool:
        """End the pin now, whoever set it. Was there one?"""
        return self._call(self._kv.Unpin, kv.UnpinRequest(sequence_id=sequence.id)).was_pinned

    # --- moving between machines ----------------------------------------------------------------

    def export_once(self, request: kv.ExportRequest, timeout: float):
        """One Export call as it stands; deltapq.transfer writes files by it."""
        return self._kv.Export(request, timeout=timeout)

    def import_once(self, requests, timeout: float):
        """One Import call with these requests; deltapq.transfer reads files for it."""
        return self._kv.Import(requests, timeout=timeout)

    # --- local decode ---------------------------------------------------------------------------

    @property
    def library(self) -> Library:
        with self._lock:
            if self._library is None:
                self._library = Library(self._library_path)
            return self._library

    def local(self) -> LocalReader:
        """The mapped arena and its codecs; made at the first use."""
        with self._lock:
            if self._local is None:
                self._local = LocalReader(self.library, self._arena_fd, self._side)
            return self._local

    def decode_local(self, profile_id: bytes, token_ids, out=None, *, n: int | None = None,
                     found: kv.LookupReply | None = None, dtype: str = "f32", threads: int = 2,
                     base_only: bool = False, **prefix):
        """The first n (default: all stored) tokens of token_ids, decoded in this process from the
        daemon's shared memory: no numbers travel. Into out, if given: an array or a torch tensor on the
        CPU, [layers, 2, heads, n, head_dim] of any strides.

        **prefix as for lookup(); found is a reply of lookup(slots=True), if there is one already. Where
        a tile went away after the look-up, everything is looked up once more."""
        found = found or self.lookup(profile_id, token_ids, slots=True, **prefix)
        n = found.n_tokens if n is None else n
        shape = self.geometry(profile_id).shape(n)
        out = np.empty(shape, NUMPY[dtype]) if out is None else out
        self._check_shape(out, shape)
        for last in (False, True):
            if n > found.n_tokens:
                raise DeltaPQError("LOCAL", "TOKEN_RANGE", f"{n} tokens wanted, {found.n_tokens} stored")
            try:
                self.local().decode(profile_id, found, out, n, threads, base_only)
                return out
            except DeltaPQError as e:
                if e.reason != "GONE" or last:
                    raise
            found = self.lookup(profile_id, token_ids, slots=True, **prefix)

    # --- profiles -------------------------------------------------------------------------------

    def geometry(self, profile_id: bytes) -> Geometry:
        if profile_id not in self._geometries:
            reply = self._call(self._profiles.Get, profiles.GetProfileRequest(
                profile_id=profile_id, max_bytes=1))
            self._geometries[profile_id] = Geometry.from_proto(reply.info.geometry)
        return self._geometries[profile_id]

    def profiles(self) -> list[profiles.ProfileInfo]:
        return list(self._call(self._profiles.List, profiles.ListProfilesRequest()).profiles)

    def get_profile(self, profile_id: bytes) -> bytes:
        """The profile file."""
        data = b""
        while True:
            reply = self._call(self._profiles.Get, profiles.GetProfileRequest(
                profile_id=profile_id, offset=len(data)))
            data += reply.data
            if not reply.data or len(data) >= reply.total_bytes:
                return data

    def remove_profile(self, profile_id: bytes) -> None:
        """Take a profile out of service. Refused (FAILED_PRECONDITION, IN_USE) while a sequence, a
        stored tile or tail, or a refinement needs it; the message says how many of this tenant's do."""
        self._call(self._profiles.Remove, profiles.RemoveProfileRequest(profile_id=profile_id))
        with self._lock:
            self._geometries.pop(profile_id, None)

    def install_profile(self, data: bytes) -> bytes:
        """Store a profile file; return its id."""
        upload, step, reply = 0, MAX_INLINE_BYTES, None
        for at in range(0, max(len(data), 1), step):
            reply = self._call(self._profiles.Install, profiles.InstallRequest(
                data=data[at:at + step], offset=at, total_bytes=len(data), upload_id=upload))
            upload = reply.upload_id
        return reply.profile_id

    def calibrate(self, geometry: Geometry, samples, *, model_name: str, metric=None, streams=None, progress=None,
                  timeout: float = 1800.0, calibration_id: int | None = None, resume_seconds: float = 60.0,
                  **options) -> profiles.CalibrateReply:
        """Learn a profile. samples yields (numbers, first_position), numbers as for append().

        metric    float32 [layers, 2, heads, head_dim, head_dim]: what errors cost, see CalibrateMetric
        streams   {(layer, kind, head): {"reference": …, "dsub": …, "planes": …}}: what single
                  streams get whatever the options say, see CalibrateStream
        progress  is called with (done, total) while the daemon trains
        options   seed, n_iterations, reference ("auto", "none", "temporal", "depth-head", "depth"),
                  dsub (of K and V, (2, 2) without a preset), preset, group_tokens, leak, metric_lambda,
                  balanced_bits, bound, max_decode_mflop, full_references: see CalibrateBegin

        When the connection breaks it goes on by itself, unless that takes more than resume_seconds, or
        calibration_id is 0. With an id of one's own another process can go on, too, within
        calibration_park_seconds, with the same samples and options."""
        label = f"{os.getpid()}-{threading.get_ident()}-{id(samples)}"
        known = calibration_id is not None
        calibration_id = calibration_id if known else calibration.new_id()
        feed = calibration.Feed(
            calibration.begin_request(geometry, model_name=model_name, label=label,
                                      calibration_id=calibration_id, **options),
            calibration.stream_requests(streams) + calibration.metric_requests(geometry, metric),
            calibration.parts_of(geometry, samples))
        stop = self._watch_progress(label, progress, timeout) if progress else None
        try:
            return calibration.run(self, feed, calibration_id, known and calibration_id != 0, timeout,
                                   resume_seconds)
        finally:
            if stop:
                stop()

    def calibrate_once(self, requests, timeout: float) -> profiles.CalibrateReply:
        """One Calibrate call with these requests as they stand."""
        return self._call(self._profiles.Calibrate, requests, timeout)

    def get_calibration(self, calibration_id: int) -> profiles.GetCalibrationReply:
        """How far a calibration is: state, n_tokens, progress, profile_id, error."""
        return self._call(self._profiles.GetCalibration, profiles.GetCalibrationRequest(
            calibration_id=calibration_id))

    def audit(self, profile_id: bytes) -> Audit:
        """What calibration found for each stream, and why it chose what it did; print() gives a table."""
        rows, reply = [], None
        while reply is None or (reply.rows and len(rows) < reply.n_all_rows):
            reply = self._call(self._profiles.Audit, profiles.AuditRequest(
                profile_id=profile_id, first_row=len(rows)))
            rows += reply.rows
        return Audit(rows, reply.summary)

    def refine(self, profile_id: bytes, *, sample_rate: float = 0.1, budget_tokens: int = 16384) -> int:
        """Have a new profile learned from a share of what this tenant appends from now on; the id for
        get_calibration(). The tenant's configuration must allow it."""
        return self._call(self._profiles.Refine, profiles.RefineRequest(
            profile_id=profile_id, sample_rate=sample_rate, budget_tokens=budget_tokens)).calibration_id

    def _watch_progress(self, label, progress, timeout=60.0):
        """Until what this returns is called."""
        cursor = self.watch(from_now=True, acknowledge=False, resume_seconds=timeout)

        def listen():
            with contextlib.suppress(DeltaPQError):  # progress is a courtesy
                for event in cursor:
                    p = event.calibration_progress
                    if event.WhichOneof("what") == "calibration_progress" and p.label == label:
                        progress(p.done, p.total)

        def stop():
            cursor.cancel()
            thread.join(5)
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        return stop

    # --- monitor --------------------------------------------------------------------------------

    def status(self) -> monitor.Status:
        return self._call(self._monitor.GetStatus, monitor.GetStatusRequest())

    def get_risk(self, *, profile_id: bytes = b"", sequence: Sequence | None = None) -> monitor.Risk:
        """The worst zone and level of risk of each stream: of one sequence, or of all with a profile
        (the one that was heard of last, if none is named)."""
        return self._call(self._monitor.GetRisk, monitor.GetRiskRequest(
            profile_id=profile_id, sequence_id=sequence.id if sequence else 0))

    def report(self, sequence: Sequence, error_ratio: float, *, layer: int | None = None,
               kind: int | None = None, head: int | None = None) -> int:
        """An output error that was measured, over what is tolerable; see risk.AttentionProbe. Returns
        the first token that is coded with it in mind."""
        return self._call(self._monitor.Report, monitor.ReportRequest(
            sequence_id=sequence.id, error_ratio=error_ratio,
            streams=stream_choice(layer, kind, head))).first_token

    def reset(self, sequence: Sequence, *, layer: int | None = None, kind: int | None = None,
              head: int | None = None) -> int:
        """Have the next tile coded without a reference. Returns its first token."""
        return self._call(self._monitor.Reset, monitor.ResetRequest(
            sequence_id=sequence.id, streams=stream_choice(layer, kind, head))).first_token

    def watch(self, *, after_seq: int = 0, incarnation: int = 0, from_now: bool = False, queue: int = 0,
              flush_ms: int = 0, acknowledge: bool = True, resume_seconds: float = 60.0) -> Cursor:
        """Events, one after another: those that are kept first, or those after after_seq (see
        Cursor.position()), or only new ones. The daemon keeps `queue` (1 … 65536; 0: 1024) for a slow
        reader, and sees how far it is unless acknowledge is False. It may let events gather for
        flush_ms (0 … 10000), which costs it less."""
        return Cursor(self._socket, after_seq=after_seq, incarnation=incarnation, from_now=from_now, queue=queue,
                      flush_ms=flush_ms, acknowledge=acknowledge, resume_seconds=resume_seconds)
