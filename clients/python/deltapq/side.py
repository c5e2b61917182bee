"""The side socket, where the daemon hands out memfds: lib/base/side_wire.h in Python."""
from __future__ import annotations

import os
import socket
import struct

from .errors import DeltaPQError

MAGIC = 0x31515044
ATTACH, PROFILE = 1, 2
REQUEST = struct.Struct("<II16s32s8s")
REPLY = struct.Struct("<IIIIQQ96s")


class Side:
    """One connection: the daemon keeps the client's staging as long as it is open."""

    def __init__(self, path: str, timeout: float):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError as e:
            self.socket.close()
            raise DeltaPQError("LOCAL", "SIDE_SOCKET", f"can't connect to {path}: {e.strerror}") from e

    def _ask(self, op: int, ticket: bytes = b"", digest: bytes = b""):
        try:
            self.socket.sendall(REQUEST.pack(MAGIC, op, ticket, digest, b""))
            data, fds, _, _ = socket.recv_fds(self.socket, REPLY.size, 2)
            while data and len(data) < REPLY.size:
                more = self.socket.recv(REPLY.size - len(data))
                data += more
                if not more:
                    break
        except OSError as e:
            raise DeltaPQError("LOCAL", "SIDE_SOCKET", f"the side socket failed: {e}") from e
        if len(data) < REPLY.size:
            for fd in fds:
                os.close(fd)
            raise DeltaPQError("LOCAL", "SIDE_SOCKET", "the daemon closed the side socket")
        magic, status, n_fds, _, size0, size1, message = REPLY.unpack(data)
        if magic != MAGIC or status or n_fds != len(fds):
            for fd in fds:
                os.close(fd)
            text = message.split(b"\0")[0].decode("utf-8", "replace")
            raise DeltaPQError("LOCAL", "SIDE_REFUSED", text or "malformed reply on the side socket")
        return fds, (size0, size1)

    def attach(self, ticket: bytes):
        """Return (arena fd, staging fd or -1); the caller closes them."""
        fds, _ = self._ask(ATTACH, ticket=ticket)
        return fds[0], fds[1] if len(fds) > 1 else -1

    def profile(self, digest: bytes) -> int:
        """Return the descriptor of a sealed profile file; the caller closes it."""
        return self._ask(PROFILE, digest=digest)[0][0]

    def close(self) -> None:
        self.socket.close()
