"""What both ends of a session know of gRPC: its import, the method, and what they set alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctrl.rpc.bounds import MAX_MESSAGE
from ctrl.rpc.tls import grpc_environment

grpc_environment()  # before gRPC is there to look at it

import grpc  # noqa: E402
import grpc.aio  # noqa: E402

SERVICE, METHOD = "fastpath.v1.Fabric", "Session"
PATH = f"/{SERVICE}/{METHOD}"

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # The window of a stream stays at 64 KiB: what a peer has under way costs no more than that and a message.
    ("grpc.http2.bdp_probe", 0),
    # Pings tell whether the peer is there; they wait for no data.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

LOST = (grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What saying something raises when the stream is over."""


@contextmanager
def roused_lightly() -> Iterator[None]:
    """Have gRPC's thread never wait for the loop: to be held around what starts it, a server or a channel.

    It rouses the loop by a byte for each event, over two sockets (grpcio 1.85: PollerCompletionQueue). They
    take some 280 bytes; then it waits for the loop, which takes one byte a round: with rounds of a tenth of a
    second ten events a second come through. Sockets that do not block leave out what does not fit, and one
    byte that is there is enough.
    """
    make = socket.socketpair

    def make_unblocking(*args: Any, **kwargs: Any) -> tuple[socket.socket, socket.socket]:
        pair = make(*args, **kwargs)
        for one in pair:
            one.setblocking(False)
        return pair

    socket.socketpair = make_unblocking
    try:
        yield
    finally:
        socket.socketpair = make


__all__ = ["LOST", "METHOD", "OPTIONS", "PATH", "SERVICE", "grpc", "roused_lightly"]
