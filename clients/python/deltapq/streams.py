"""AppendStream and ReadStream: numbers in chunks over one call, for workers without staging, that go on
where they were when the connection broke."""
from __future__ import annotations

import collections
import contextlib
import queue
import time

import grpc
import numpy as np

from .errors import DeltaPQError
from .tensors import DTYPES, NUMPY, TensorDesc
from .v1 import kv_cache_pb2 as kv

CHUNK_BYTES = 1 << 20
WINDOW_BYTES = 4 << 20  # of what was sent and is not acknowledged: kept, to be sent again
RETRY_SECONDS = 0.2


def may_go_on(error: DeltaPQError) -> bool:
    """The connection broke, or it is worth coming again."""
    return error.code == "UNAVAILABLE" or error.retry_ms > 0


@contextlib.contextmanager
def refusals():
    try:
        yield
    except grpc.RpcError as e:
        raise DeltaPQError.from_rpc(e) from None


class Patience:
    """How long to try again without getting on."""

    def __init__(self, seconds: float):
        self.seconds, self._give_up = seconds, None

    def gets_on(self) -> None:
        self._give_up = None

    def wait(self, error: DeltaPQError) -> None:
        """Until it is worth trying again; raises error when it is not."""
        self._give_up = self._give_up or time.monotonic() + self.seconds
        pause = max(RETRY_SECONDS, error.retry_ms / 1000)
        if not may_go_on(error) or time.monotonic() + pause > self._give_up:
            raise error
        time.sleep(pause)


# --- append ---------------------------------------------------------------------------------------

def parts_of(geometry, numbers, token_ids, chunk_bytes: int):
    """(array, its token ids or ()) of at most chunk_bytes, of an array or of an iterator over arrays, or
    over pairs (array, token ids)."""
    whole = hasattr(numbers, "ndim")
    for item in [numbers] if whole else numbers:
        array, ids = item if isinstance(item, tuple) else (item, token_ids if whole else None)
        if tuple(array.shape) != geometry.shape(array.shape[3]):
            raise ValueError(f"shape {tuple(array.shape)} where {geometry.shape(array.shape[3])} belongs")
        if ids is not None and len(ids) != array.shape[3]:
            raise ValueError(f"{len(ids)} token ids for {array.shape[3]} tokens")
        step = chunk_bytes // (geometry.numbers_per_token * array.itemsize)
        if not step:
            raise DeltaPQError("LOCAL", "INLINE_SIZE", f"one token of {geometry.numbers_per_token} numbers "
                               f"does not fit into a chunk of {chunk_bytes} bytes")
        for at in range(0, array.shape[3], step):
            yield array[:, :, :, at:at + step], () if ids is None else ids[at:at + step]


class Appender:
    """One append_stream(): what is to be sent, and what was sent and is not acknowledged yet."""

    def __init__(self, stub, sequence, parts, timeout: float):
        self._stub, self.sequence, self._parts, self._timeout = stub, sequence, parts, timeout
        self._pending = collections.deque()  # (first token, array, token ids)
        self._next = sequence.n_tokens  # first token of what the iterator gives next
        self.reply = None

    def run(self, resume_seconds: float) -> kv.AppendReply | None:
        patience, ask = Patience(resume_seconds), False
        while True:
            before = self.sequence.n_tokens
            try:
                with refusals():
                    return self._one_call(ask)
            except DeltaPQError as e:
                if self.sequence.n_tokens > before:
                    patience.gets_on()
                patience.wait(e)
                ask = True

    def _one_call(self, ask: bool):
        requests = queue.SimpleQueue()
        call = self._stub.AppendStream(iter(requests.get, None), timeout=self._timeout)
        try:
            if ask:
                requests.put(kv.AppendRequest(sequence_id=self.sequence.id))
                self._go_on_from(next(call).n_tokens)
            try:
                self._send(requests, call)
            except grpc.RpcError:
                raise
            except Exception:  # of the caller's iterator: what was sent before counts
                with contextlib.suppress(grpc.RpcError):
                    self._finish(requests, call)
                raise
            self._finish(requests, call)
            return self.reply
        finally:
            requests.put(None)  # gRPC's thread waits for it
            call.cancel()

    def _go_on_from(self, n_tokens: int) -> None:
        """The daemon has so many: of a chunk that was sent, all or nothing."""
        while self._pending and self._pending[0][0] < n_tokens:
            self._pending.popleft()
        self.sequence.n_tokens = n_tokens
        if n_tokens != (self._pending[0][0] if self._pending else self._next):
            raise DeltaPQError("LOCAL", "RESUME", f"sequence {self.sequence.id} has {n_tokens} tokens, "
                               "which is not where a chunk of this stream ends: somebody else appends to it")

    def _send(self, requests, call) -> None:
        in_flight = sum(array.nbytes for _, array, _ in self._pending)
        for chunk in list(self._pending):
            requests.put(self._request(*chunk))
        for array, ids in self._parts:
            self._pending.append((self._next, array, ids))
            self._next += array.shape[3]
            requests.put(self._request(*self._pending[-1]))
            in_flight += array.nbytes
            while in_flight > WINDOW_BYTES:
                in_flight -= self._acknowledged(next(call))

    def _finish(self, requests, call) -> None:
        requests.put(None)
        while self._pending:
            self._acknowledged(next(call))
        for _ in call:  # its status
            pass

    def _request(self, first: int, array, ids) -> kv.AppendRequest:
        packed = np.ascontiguousarray(array)
        return kv.AppendRequest(sequence_id=self.sequence.id, first_token=first, n_tokens=array.shape[3],
                                token_ids=ids, tensor=TensorDesc.of(packed).to_proto(),
                                inline_data=packed.tobytes())

    def _acknowledged(self, reply) -> int:
        _, array, _ = self._pending.popleft()
        shared = self.reply.n_shared_tokens if self.reply else 0
        self.reply = reply
        self.reply.n_shared_tokens += shared
        self.sequence.n_tokens = reply.n_tokens
        return array.nbytes


# --- read -----------------------------------------------------------------------------------------

class Chunks:
    """An iterator over what ReadStream sends: (first token, first layer, array [layers, 2, heads, tokens,
    head_dim]). It is read no faster than it is iterated over; cancel(), or leaving a with block, ends it.

    Of what it gave last: is_coded, it is from a tile, hence approximate, else raw; is_dropped, and of that
    tile a fine plane was made, and dropped for want of room; generation, of the sequence, as of the
    beginning."""

    def __init__(self, stub, sequence, request: kv.ReadStreamRequest, dtype: str, timeout: float):
        self._geometry, self._dtype = sequence.geometry, NUMPY[dtype]
        self.is_coded, self.is_dropped, self.generation = False, False, 0
        self._call = stub.ReadStream(request, timeout=timeout)

    def __iter__(self):
        return self

    def __next__(self):
        g = self._geometry
        with refusals():
            reply = next(self._call)
        self.is_coded, self.is_dropped, self.generation = reply.is_coded, reply.is_dropped, reply.generation
        shape = reply.n_layers, 2, g.n_kv_heads, reply.n_tokens, g.head_dim
        return reply.first_token, reply.first_layer, np.frombuffer(reply.inline_data, self._dtype).reshape(shape)

    def cancel(self) -> None:
        self._call.cancel()

    def __enter__(self) -> "Chunks":
        return self

    def __exit__(self, *exc) -> None:
        self.cancel()


def read_request(sequence, first: int, n: int, layers, dtype: str, base_only: bool,
                 chunk_bytes: int) -> kv.ReadStreamRequest:
    first_layer, n_layers = layers or (0, 0)
    return kv.ReadStreamRequest(sequence_id=sequence.id, first_token=first, n_tokens=n,
                                first_layer=first_layer, n_layers=n_layers, dtype=DTYPES[dtype],
                                base_only=base_only, max_chunk_bytes=chunk_bytes)


def read_into(open_chunks, out, first: int, first_layer: int, resume_seconds: float) -> None:
    """All of a range into out; open_chunks(first, n) begins a stream of a part of its tokens."""
    n_layers, n = out.shape[0], out.shape[3]
    done, patience = 0, Patience(resume_seconds)
    while done < n:
        try:
            with open_chunks(first + done, n - done) as chunks:
                for token, layer, array in chunks:
                    at, low = token - first, layer - first_layer
                    out[low:low + array.shape[0], :, :, at:at + array.shape[3]] = array
                    if low + array.shape[0] == n_layers:
                        done = at + array.shape[3]
                        patience.gets_on()
            return
        except DeltaPQError as e:
            patience.wait(e)
