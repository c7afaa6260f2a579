"""A gRPC stream with as little as it takes: thousands of nodes in one process, a connection each.

A client of grpc.aio costs a tenth of a millisecond and more for each message, about what the manager has for
it at the other end: with ten thousand of them the devices would be what is measured. So the frames are made
by hand here (RFC 9113, and gRPC over HTTP/2); over the wire goes what grpc.aio sends.

1. One request, on stream 1; of the answer's headers it is not read what they say, only that they came.
2. Flow control is kept to in both directions, by HTTP/2's initial windows, as `ctrl.rpc.transport` has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
WINDOW = 65535
MAX_FRAME = 16384
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _plain(text: str) -> bytes:
    """A string of HPACK, as it is (RFC 7541, 5.2)."""
    assert len(text) < 127
    return bytes((len(text),)) + text.encode()


def _headers(path: str) -> bytes:
    """POST, http, and the rest as literals that are not indexed (RFC 7541, 6.2.2)."""
    return b"".join(
        (
            b"\x83\x86\x04" + _plain(path),
            b"\x01" + _plain("localhost"),
            b"\x0f\x10" + _plain("application/grpc"),  # content-type
            b"\x00" + _plain("te") + _plain("trailers"),
        )
    )


class Connection(asyncio.Protocol):
    """One connection and its one stream. `opened`: True when the other side has the request, False when it
    never will; `ended`: it is over; `heard` is told each message."""

    def __init__(self, path: str, heard: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._path = path
        self._heard = heard
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._message = b""
        self._eaten = 0
        self._room = self._stream_room = self._their_window = WINDOW
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        begin = PREFACE + frame(SETTINGS, 0, 0)
        self._transport.write(begin + frame(HEADERS, END_HEADERS, 1, _headers(self._path)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def send(self, message: bytes) -> None:
        """Send a message, when there is room for it."""
        assert len(message) + 5 <= MAX_FRAME
        self._unsent.append(frame(DATA, 0, 1, b"\0" + len(message).to_bytes(4, "big") + message))
        self._flush()

    def ping(self) -> None:
        if self._transport is not None:
            self._transport.write(frame(PING, 0, 0, bytes(8)))

    def abort(self) -> None:
        """End it, without a word."""
        if self._transport is not None:
            self._transport.abort()
        self._over()

    def _flush(self) -> None:
        while self._unsent and self._transport is not None:
            size = len(self._unsent[0]) - 9
            if min(self._room, self._stream_room) < size:
                return
            self._room -= size
            self._stream_room -= size
            self._transport.write(self._unsent.pop(0))

    def _over(self) -> None:
        self._transport = None
        if not self.opened.done():
            self.opened.set_result(False)
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + size:
                break
            self._frame(buffer[at + 3], buffer[at + 4], buffer[at + 8], buffer[at + 9 : at + 9 + size])
            at += 9 + size
            if self._transport is None:
                return
        self._buffer = buffer[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        transport = self._transport
        assert transport is not None
        if kind == DATA:
            self._data(payload)
        elif kind == HEADERS:
            if not flags & END_STREAM and not self.opened.done():
                self.opened.set_result(True)
        elif kind == WINDOW_UPDATE:
            if stream:
                self._stream_room += int.from_bytes(payload, "big")
            else:
                self._room += int.from_bytes(payload, "big")
            self._flush()
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            transport.write(frame(PING, ACK, 0, payload))
        if kind in {RST_STREAM, GOAWAY} or (kind in {DATA, HEADERS} and flags & END_STREAM):
            self.abort()

    def _data(self, payload: bytes) -> None:
        self._eaten += len(payload)
        if self._eaten > WINDOW // 2 and self._transport is not None:
            more = self._eaten.to_bytes(4, "big")
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, 1, more))
            self._eaten = 0
        self._message += payload
        while len(self._message) >= 5:
            end = 5 + int.from_bytes(self._message[1:5], "big")
            if len(self._message) < end:
                return
            message, self._message = self._message[5:end], self._message[end:]
            self._heard(message)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if payload[at : at + 2] == b"\x00\x04":  # INITIAL_WINDOW_SIZE
                window = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._stream_room += window - self._their_window
                self._their_window = window
        self._flush()
