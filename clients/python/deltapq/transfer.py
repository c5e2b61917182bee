"""Sequences and profiles as files (lib/FORMAT.md), for moving caches between machines.

An export grows in FILE.part and becomes FILE when it is complete; one that broke off goes on from its last
good record. An import asks the daemon what it has, and sends the rest. Files are read by libdeltapq's one
reader, and every byte of them is judged again by the daemon that takes it in."""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import mmap
import os
import queue
import struct

from .errors import DeltaPQError
from .library import Library
from .streams import Patience, refusals
from .v1 import kv_cache_pb2 as kv

MAGIC, VERSION, HEADER_BYTES = b"DPQEXPRT", 1, 16
FILE_HEADER = MAGIC + struct.pack("<II", VERSION, 0)
PROFILE, SEQUENCE, TILE, TAIL, END = range(1, 6)
PIECE_BYTES = 1 << 20
TILE_TOKENS = 128


@dataclasses.dataclass
class FileSequence:
    """A sequence of a file. parts: (index of the first token, offset, bytes) of its tiles and tail."""
    offset: int
    n_bytes: int
    crc32c: int
    profile_id: bytes
    rate: int
    adapter: str
    salt: str
    position_base: int
    n_tokens: int
    parts: list = dataclasses.field(default_factory=list)
    next_index: int = 0  # of the first token that is in none of the parts


@dataclasses.dataclass
class Contents:
    """What is in a file, as far as it is good."""
    profile: tuple | None = None  # (offset, bytes) of the profile file in it
    profile_id: bytes = b""
    sequences: list = dataclasses.field(default_factory=list)
    n_good_bytes: int = 0  # up to the end of the last good record; 0: not even the header
    n_bytes: int = 0
    is_complete: bool = False
    outcome: str = ""  # "CUT", "CORRUPT", "VERSION": why it is not complete
    message: str = ""

    @property
    def n_records(self) -> int:
        return (self.profile is not None) + sum(1 + len(s.parts) for s in self.sequences)


def n_records_of(n_tokens: int) -> int:
    """Of a sequence: itself, its tiles, its tail."""
    return 1 + -(-n_tokens // TILE_TOKENS)


def local_error(reason: str, message: str) -> DeltaPQError:
    return DeltaPQError("LOCAL", reason, message)


def scan(library: Library, file) -> Contents:
    """Judge all of an open file. Raises for one that is no export file at all, or of another version."""
    size = os.fstat(file.fileno()).st_size
    found = Contents(n_bytes=size)
    if size == 0:
        found.outcome, found.message = "CUT", "the file is empty"
        return found
    with contextlib.closing(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)) as mapped:
        view = library.ffi.from_buffer(mapped)
        try:
            _scan(library, view, size, found)
        finally:
            library.ffi.release(view)
        head = mapped[:HEADER_BYTES]
    if head[:len(MAGIC)] != MAGIC[:len(head)]:
        raise local_error("NOT_EXPORT", f"{file.name} is not an export file")
    if found.outcome == "VERSION":
        raise local_error("VERSION", f"{file.name} is an export file of another version")
    return found


def _scan(library: Library, view, size: int, found: Contents) -> None:
    ffi, lib = library.ffi, library.lib
    out, record, fault = ffi.new("struct dpq_export **"), ffi.new("struct dpq_export_record *"), \
        ffi.new("struct dpq_fault *")
    library.check(lib.dpq_export_new(view, size, out))
    try:
        while not found.is_complete:
            r = lib.dpq_export_next(out[0], record, fault)
            if r:
                found.outcome = ffi.string(lib.dpq_outcome_name(r)).decode()
                found.message = ffi.string(fault.message).decode()
                if size >= HEADER_BYTES and not found.n_good_bytes and found.outcome != "VERSION":
                    found.n_good_bytes = HEADER_BYTES  # when it is one: scan() looks
                return
            _take(ffi, record, found)
            found.n_good_bytes = record.offset + record.n_bytes
    finally:
        lib.dpq_export_free(out[0])
    if found.n_good_bytes != size:
        found.is_complete, found.outcome = False, "CORRUPT"
        found.message = f"{size - found.n_good_bytes} bytes follow after its end"


def parse_sequence(record, payload: bytes) -> FileSequence:
    """Of a record that was judged."""
    profile_id, _, rate, position_base, n_tokens, n_adapter, n_salt = struct.unpack_from("<32sIIQQII", payload)
    names = payload[64 + 4 * n_tokens:]
    return FileSequence(record.offset, record.n_bytes, record.crc32c, profile_id, rate,
                        names[:n_adapter].decode("utf-8", "replace"),
                        names[n_adapter:n_adapter + n_salt].decode("utf-8", "replace"), position_base, n_tokens)


def _take(ffi, record, found: Contents) -> None:
    if record.kind == PROFILE:
        found.profile = record.offset + HEADER_BYTES, record.n_payload
        found.profile_id = hashlib.sha256(ffi.buffer(record.payload, record.n_payload)).digest()
    elif record.kind == SEQUENCE:
        found.sequences.append(parse_sequence(record, bytes(ffi.buffer(record.payload, record.n_payload))))
    elif record.kind == END:
        found.is_complete = True
    else:
        sequence = found.sequences[-1]
        sequence.parts.append((record.first_index, record.offset, record.n_bytes))
        sequence.next_index = record.first_index + record.n_tokens


# --- export ---------------------------------------------------------------------------------------

@dataclasses.dataclass
class Exported:
    path: str
    n_bytes: int
    n_resumed_bytes: int  # of these, there before
    n_tokens: list  # of each sequence


class Writer:
    """FILE.part, locked, open behind its last good record."""

    def __init__(self, library: Library, path: str):
        self.path, self.part, self._library = path, path + ".part", library
        if os.path.lexists(path):
            raise local_error("EXISTS", f"{path} is there already, and is never overwritten")
        self._file = open(self.part, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.rescan()
        except BlockingIOError:
            self.close()
            raise local_error("BUSY", f"{self.part} is being written by another export") from None
        except BaseException:
            self.close()
            raise

    def rescan(self) -> None:
        """What is good stays."""
        self.found = scan(self._library, self._file)
        self._file.truncate(self.found.n_good_bytes)
        self.n_bytes = self.found.n_good_bytes

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written was reported, and is not counted as good

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as e:
            raise self._failed(e) from None
        self.n_bytes += len(data)

    def record(self, kind: int, payload: bytes) -> None:
        length = struct.pack("<Q", len(payload))
        ffi, lib = self._library.ffi, self._library.lib
        crc = lib.dpq_crc32c(lib.dpq_crc32c(0, length, 8), ffi.from_buffer(payload), len(payload))
        self.write(struct.pack("<II", kind, crc) + length + payload + bytes(-len(payload) % 8))

    def finish(self) -> None:
        """On disk, and under its own name."""
        try:
            os.fsync(self._file.fileno())
            os.link(self.part, self.path)  # not rename(): that would overwrite
            os.unlink(self.part)
            directory = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as e:
            raise self._failed(e) from None

    def _failed(self, error: OSError) -> DeltaPQError:
        reason = "NO_SPACE" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "IO"
        return local_error(reason, f"{self.part}: {os.strerror(error.errno)}, after {self.n_bytes} bytes; they "
                           "are kept, and the same export goes on from there")


def export_file(client, path: str, sequence_ids=(), *, profile_id: bytes = b"", with_profile: bool = True,
                adapter: str = "", salt: str = "", n_tokens: int = 0, progress=None, timeout: float = 3600.0,
                resume_seconds: float = 60.0) -> Exported:
    """Sequences, and the profile that they need, into a file that is not there yet.

    sequence_ids  of one tenant, profile, adapter and salt; none: the profile alone, by its profile_id
    adapter, salt as the sequences were created: the daemon does not keep them, but checks them
    n_tokens      the first so many of each; 0: all
    progress      is called with (bytes written, bytes there will be of the sequence under way)

    A broken connection is waited for, no longer than resume_seconds. Whatever ends it, the same call goes
    on from path.part."""
    writer = Writer(client.library, path)
    try:
        exporter = Exporter(client, writer, adapter, salt, n_tokens, progress, timeout, resume_seconds)
        return exporter.run(list(sequence_ids), profile_id, with_profile)
    finally:
        writer.close()


class Exporter:
    """One export_file(), behind what is there already."""

    def __init__(self, client, writer: Writer, adapter, salt, n_tokens, progress, timeout, resume_seconds):
        self._client, self._writer = client, writer
        self._adapter, self._salt, self._n_tokens = adapter, salt, n_tokens
        self._progress, self._timeout, self._resume_seconds = progress, timeout, resume_seconds

    def run(self, ids: list, profile_id: bytes, with_profile: bool) -> Exported:
        writer, found = self._writer, self._writer.found
        resumed = writer.n_bytes
        if len(found.sequences) > len(ids) or (found.is_complete and len(found.sequences) < len(ids)):
            raise self._foreign(f"it has {len(found.sequences)} sequences")
        self._profile_id = found.profile_id or (found.sequences[0].profile_id if found.sequences else b"")
        self._has_profile = found.profile is not None
        self._wants_profile = (with_profile or not ids) and not found.sequences
        if not writer.n_bytes:
            writer.write(FILE_HEADER)
        if not ids:
            self._is_of(profile_id)
        n_tokens = [self._sequence(i, sequence_id) for i, sequence_id in enumerate(ids)]
        if not found.is_complete:
            writer.record(END, struct.pack("<Q", self._has_profile + sum(map(n_records_of, n_tokens))))
        writer.finish()
        return Exported(writer.path, writer.n_bytes, resumed, n_tokens)

    def _foreign(self, what: str) -> DeltaPQError:
        return local_error("OTHER_EXPORT", f"{self._writer.part} is of another export: {what}; remove it, or "
                           "name another file")

    def _is_of(self, profile_id: bytes) -> None:
        """A sequence of that profile is to be written: the file has it, gets it, or is another one's."""
        if self._profile_id not in (b"", profile_id):
            raise local_error("PROFILE", "sequences of different profiles: export them into files of their own"
                              if self._writer.found.n_records == 0 else self._foreign("of another profile").message)
        self._profile_id = profile_id
        if self._wants_profile and not self._has_profile:
            self._writer.record(PROFILE, self._client.get_profile(profile_id))
            self._has_profile = True
        self._wants_profile = False

    def _sequence(self, i: int, sequence_id: int) -> int:
        patience = Patience(self._resume_seconds)
        while True:
            before = self._writer.n_bytes
            there = self._writer.found.sequences[i:i + 1]
            try:
                with refusals():
                    return self._one_call(sequence_id, there[0] if there else None)
            except DeltaPQError as e:
                if self._writer.n_bytes > before:
                    patience.gets_on()
                patience.wait(e)
            self._writer.rescan()

    def _one_call(self, sequence_id: int, there: FileSequence | None) -> int:
        request = kv.ExportRequest(sequence_id=sequence_id, adapter=self._adapter, salt=self._salt,
                                   n_tokens=there.n_tokens if there else self._n_tokens)
        if there:
            request.rest.CopyFrom(kv.ExportRest(sequence_crc32c=there.crc32c, first_index=there.next_index))
        done, n_tokens = 0, there.n_tokens if there else 0
        for reply in self._client.export_once(request, self._timeout):
            if not there and not done:
                self._is_of(reply.data[HEADER_BYTES:HEADER_BYTES + 32])
            self._writer.write(reply.data)
            done, n_tokens = done + len(reply.data), reply.n_tokens
            if self._progress:
                self._progress(done, reply.total_bytes)
        return n_tokens


# --- import ---------------------------------------------------------------------------------------

@dataclasses.dataclass
class Imported:
    id: int  # of the sequence
    n_tokens: int
    n_shared_tokens: int  # in tiles that were there before
    n_sent_bytes: int


def open_file(library: Library, path: str):
    """(file, Contents) of a complete one; raises for others, naming what is wrong and where."""
    try:
        file = open(path, "rb")
    except OSError as e:
        raise local_error("IO", f"{path}: {os.strerror(e.errno)}") from None
    try:
        found = scan(library, file)
        if not found.is_complete:
            raise local_error(found.outcome, f"{path}: {found.message}; {found.n_good_bytes} of {found.n_bytes} "
                              "bytes are good")
        return file, found
    except BaseException:
        file.close()
        raise


def import_file(client, path: str, *, progress=None, timeout: float = 3600.0,
                resume_seconds: float = 60.0) -> list[Imported]:
    """All sequences of a file, and its profile. Nothing is overwritten: tiles that are stored already are
    used, so an import that broke off may be repeated, and sends what is missing. Each sequence is new, with
    an id of its own; release() those that are only to be found by look-up.

    progress is called with (bytes dealt with, bytes of the file)."""
    file, found = open_file(client.library, path)
    with file:
        if found.profile and found.profile_id not in {p.profile_id for p in client.profiles()}:
            file.seek(found.profile[0])
            client.install_profile(file.read(found.profile[1]))
        return [import_sequence(client, file, s, found.n_bytes, progress, timeout, resume_seconds)
                for s in found.sequences]


def import_sequence(client, file, sequence: FileSequence, n_file_bytes: int, progress, timeout,
                    resume_seconds) -> Imported:
    patience, best = Patience(resume_seconds), -1
    while True:
        state = Imported(0, 0, 0, 0)
        try:
            with refusals():
                return import_once(client, file, sequence, state, n_file_bytes, progress, timeout)
        except DeltaPQError as e:
            if state.n_tokens > best >= 0:
                patience.gets_on()
            best = max(best, state.n_tokens)
            patience.wait(e)


def import_once(client, file, sequence: FileSequence, state: Imported, n_file_bytes, progress, timeout) -> Imported:
    requests = queue.SimpleQueue()
    call = client.import_once(iter(requests.get, None), timeout)

    def send(data: bytes) -> None:
        requests.put(kv.ImportRequest(data=data))
        reply = next(call)
        state.n_tokens, state.n_shared_tokens = reply.n_tokens, reply.n_shared_tokens
        state.id, state.n_sent_bytes = reply.sequence_id, reply.n_bytes

    def send_range(at: int, end: int) -> None:
        file.seek(at)
        while at < end:
            data = file.read(min(PIECE_BYTES, end - at))
            if not data:
                raise local_error("IO", f"{file.name} has become shorter")
            send(data)
            at += len(data)
            if progress:
                progress(at, n_file_bytes)

    try:
        send(FILE_HEADER)
        send_range(sequence.offset, sequence.offset + sequence.n_bytes)
        missing = [part for part in sequence.parts if part[0] >= state.n_tokens]
        if missing and not state.id:
            send_range(missing[0][1], missing[-1][1] + missing[-1][2])
        requests.put(None)
        for _ in call:  # its status
            pass
        return state
    finally:
        requests.put(None)
        call.cancel()
