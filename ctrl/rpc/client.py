"""A node's end of the session: with one of its managers, for as long as there is one.

1. Managers are tried in their order, each with a fresh channel and a deadline; after a round without a
   session there is a pause of 0.1 s, growing to 2 s, jittered so that the nodes of a manager that died do not
   all come back at once. A session that was welcomed starts it all anew.
2. A partition is noticed by HTTP/2 pings (3 s, answered within 3 s), a manager that hangs by its silence for
   three times its keepalive. A try never waits longer than 2 s for an address that does not answer. One that
   does is given longer, twice as long after each time: a manager to which everyone returns at once has much
   to do, and who gives up makes more of it.
3. What goes wrong is logged when it changes, not each time. What gRPC's core writes on stderr at each try is
   for whoever imports this to turn off before (`GRPC_VERBOSITY`), but in a process with a server, whose
   failed handshakes are explained nowhere else.
4. The manager's certificate has to be valid for the address it was called at (an IP address of its
   subjectAltName), and ours is read again for each try.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ctrl.rpc.messages import FromManager, FromNode, Hello, Welcome
from ctrl.rpc.outbox import Outbox
from ctrl.rpc.reading import Malformed, decode_from_manager
from ctrl.rpc.tls import Certificate, TlsError, TlsFiles
from ctrl.rpc.transport import OPTIONS, PATH, grpc, roused_lightly
from ctrl.rpc.writing import encode_from_node

LOG = logging.getLogger("fastpath.rpc")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits for what."""

    connect_s: float = 2
    busy_s: float = 10
    """For an address that is known to answer, at first."""
    busiest_s: float = 60
    welcome_s: float = 60
    """For a turn at a manager that is there: it answers pings."""
    first_pause_s: float = 0.1
    last_pause_s: float = 2
    ping_s: float = 3
    stall_s: float = 10
    max_queued: int = 256


class Handlers(Protocol):
    """Who is told, on the loop: `connected` and `disconnected` by turns, `heard` in between."""

    def connected(self, address: str) -> None:
        """Somebody answers there: the Hello is due, by `send`."""

    def heard(self, message: FromManager) -> None:
        """The manager said this."""

    def disconnected(self) -> None:
        """The session is over; what was sent may have come or not."""


class _OverError(Exception):
    """The session cannot be, or not go on: a sentence."""


class Client:
    """One node's session. `addresses`: HOST:PORT, in the order of preference. Without `tls` in the clear."""

    def __init__(
        self,
        addresses: Sequence[str],
        handlers: Handlers,
        tls: TlsFiles | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.manager = ""
        """The address of the session, "" while there is none."""
        self.problems: dict[str, str] = {}
        """By address, why the last try or session came to an end; none of the one that is on."""
        self._addresses = tuple(addresses)
        self._handlers = handlers
        self._tls = tls
        self._patience = patience or Patience()
        self._outbox: Outbox[FromNode] | None = None
        self._is_welcome = False
        self._waiting: list[FromNode] = []  # for the Welcome
        self._limit = asyncio.timeout(None)  # of the session: what it hears in time moves it
        self._stuck = ""
        self._longer_s: dict[str, float] = {}
        """How long an address that was too slow is given, if somebody answers there."""

    def send(self, message: FromNode) -> None:
        """Say it after all that was said before; nothing while there is no session. What follows the Hello
        waits for the Welcome: a node that is refused has not told its state, and learns the reason (gRPC
        loses it to a message that is on its way)."""
        if self._outbox is None:
            return
        if self._is_welcome or isinstance(message, Hello):
            self._outbox.put(message)
        elif len(self._waiting) < self._patience.max_queued:
            self._waiting.append(message)
        else:
            self._give_up(f"no Welcome, and {len(self._waiting)} messages wait for it")

    def end(self, why: str) -> None:
        """End the session that there is, with a sentence for the log, and try anew."""
        if self._outbox is not None:
            self._give_up(why)

    async def run(self) -> None:
        """Keep a session, until cancelled."""
        pause_s = self._patience.first_pause_s
        while True:
            for address in self._addresses:
                self._is_welcome = False
                try:
                    await self._session(address)
                except _OverError as over:
                    self._tell(address, str(over))
                if self._is_welcome:
                    pause_s = self._patience.first_pause_s
                    break  # the first of them again
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
            pause_s = min(pause_s * 2, self._patience.last_pause_s)

    # --- one session ----------------------------------------------------------------------------------------

    async def _session(self, address: str) -> None:
        """Connect, and converse until it is over: `_OverError` says why."""
        own = self._own()
        async with self._channel(address, own) as channel:
            call = channel.stream_stream(PATH)()
            try:
                await self._connect(address, call)
                await self._converse(address, call)
            except grpc.aio.AioRpcError as error:
                raise _OverError(_why(error, address, own)) from None
            finally:
                call.cancel()

    def _own(self) -> Certificate | None:
        try:
            return self._tls.read(of_manager=False) if self._tls else None
        except TlsError as error:
            raise _OverError(str(error)) from None

    def _channel(self, address: str, own: Certificate | None) -> Any:
        ping_ms = int(self._patience.ping_s * 1000)
        options = (
            *OPTIONS,
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.keepalive_time_ms", ping_ms),
            ("grpc.keepalive_timeout_ms", ping_ms),
            ("grpc.http2.ping_timeout_ms", ping_ms),  # the one that counts in grpcio 1.8x; else a minute
        )
        with roused_lightly():
            if own is None:
                return grpc.aio.insecure_channel(address, options)
            credentials = grpc.ssl_channel_credentials(own.ca, own.key, own.cert)
            return grpc.aio.secure_channel(address, credentials, options)

    async def _connect(self, address: str, call: Any) -> None:
        patience = self._patience
        next_s = patience.busy_s
        try:
            async with asyncio.timeout(patience.connect_s) as limit:
                if (longer_s := self._longer_s.get(address)) and await _answers(address):
                    limit.reschedule(asyncio.get_running_loop().time() + longer_s)
                    next_s = min(2 * longer_s, patience.busiest_s)
                await call.wait_for_connection()
        except TimeoutError:
            self._longer_s[address] = next_s
            raise _OverError("no answer in time") from None

    async def _converse(self, address: str, call: Any) -> None:
        loop = asyncio.get_running_loop()
        silence_s = self._patience.welcome_s
        limit = self._limit = asyncio.timeout(silence_s)
        self._stuck = ""
        patience = self._patience
        self._outbox = Outbox(
            encode_from_node,
            call.write,
            self._give_up,
            max_queued=patience.max_queued,
            stall_s=patience.stall_s,
        )
        self.manager = address
        self._waiting.clear()
        self._handlers.connected(address)
        try:
            async with limit:
                while (data := await call.read()) is not grpc.aio.EOF:
                    message = decode_from_manager(data)
                    if isinstance(message, Malformed):
                        raise _OverError(f"it said what is no message: {message.why}")
                    if isinstance(message, Welcome):
                        silence_s = 3 * message.keepalive_s
                        self._welcome(address, message)
                    limit.reschedule(loop.time() + silence_s)
                    self._handlers.heard(message)
            raise _OverError("it ended the session")
        except TimeoutError:
            raise _OverError(self._stuck or f"it said nothing for {silence_s:g} s") from None
        finally:
            self._outbox.close()
            self._outbox = None
            self.manager = ""
            self._handlers.disconnected()

    def _give_up(self, why: str) -> None:
        if not self._stuck:
            self._stuck = why
            with suppress(RuntimeError):  # it runs out just now
                self._limit.reschedule(0)

    # --- what is told ---------------------------------------------------------------------------------------

    def _welcome(self, address: str, welcome: Welcome) -> None:
        self._is_welcome = True
        self._longer_s.pop(address, None)
        for waiting in self._waiting:
            self.send(waiting)
        self._waiting.clear()
        self.problems.pop(address, None)
        LOG.info("manager found address=%s name=%s store=%s", address, welcome.manager, welcome.store)

    def _tell(self, address: str, why: str) -> None:
        if self.problems.get(address) != why:
            self.problems[address] = why
            LOG.warning("manager lost address=%s why=%s", address, json.dumps(why))


async def _answers(address: str) -> bool:
    """Tell whether somebody listens there, and is reached."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        return False
    writer.transport.abort()
    return True


def _why(error: grpc.aio.AioRpcError, address: str, own: Certificate | None) -> str:
    """Make a sentence of what gRPC says."""
    details = str(error.details())
    if error.code() is grpc.StatusCode.INTERNAL and "from Core" in details:
        return "the connection broke"
    if own is not None:
        if found := re.search("CERTIFICATE_VERIFY_FAILED: ([^:]*)", details):
            return f"its certificate does not stand up to our CA: {found[1]}"
        if "Hostname Verification Check failed" in details:
            return f"its certificate is not for {address.rpartition(':')[0]}"
        if "failed to connect" in details and re.search("Socket closed|Connection reset", details):
            return f"it ended the handshake: it may not take our certificate {own}"
    return details.removeprefix("failed to connect to all addresses; last error: ")
