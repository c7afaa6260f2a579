"""What both ends of a session know of gRPC: its import, the method, and what they set alike."""

from __future__ import annotations

import asyncio

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

__all__ = ["LOST", "METHOD", "OPTIONS", "PATH", "SERVICE", "grpc"]
