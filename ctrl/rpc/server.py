"""The manager's end of the sessions: many nodes, a stream each (gRPC, `fabric.proto`), by TLS or in clear.

1. Nothing of a peer is kept before it was found within bounds: connections, the time for a handshake and for
   a Hello, the size of a message, what waits for a peer that does not read. Each refusal has a name in
   `counts` and a line in the log, once a minute for the same peer and reason.
2. Sessions take turns: a message of each is read at a time, and who says more than its pace is not read from
   for a while: HTTP/2 holds it up, at its end. A message is small (`bounds`), so a turn is short.
3. Bytes come and go through a generic handler: `reading` makes of whatever comes a message or a sentence;
   gRPC's own deserialisers end the session without a reason.
4. Sessions begin `max_beginning` at a time, the others wait for their turn, and their limits in time count
   from there: ten thousand that come at once are served by and by, instead of all too late.
5. A session that we end is over for our user at once; its slot is free when gRPC has let go of it: that a
   peer that does not read holds a connection does not let it hold many.
6. Of a failed handshake gRPC's core prints why on stderr ("Handshake failed with error ... certificate has
   expired"), and tells us nothing. `Handshakes` finds out how many came to no stream, and from where.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import unquote

from ctrl.rpc.handshakes import Handshakes
from ctrl.rpc.messages import FromManager, FromNode, Hello
from ctrl.rpc.outbox import Outbox
from ctrl.rpc.pace import Pace
from ctrl.rpc.reading import Malformed, decode_from_node
from ctrl.rpc.tls import TlsFiles
from ctrl.rpc.transport import LOST, METHOD, OPTIONS, SERVICE, grpc, roused_lightly
from ctrl.rpc.writing import encode_from_manager

LOG = logging.getLogger("fastpath.rpc")
QUIET_S, QUIET_MAX = 60, 1000
"""For how long the same is not logged again of a peer; of how many that is known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server process takes on."""

    max_sessions: int = 10_000
    hello_s: float = 5
    """For a handshake, and then for a Hello."""
    max_beginning: int = 512
    """Sessions of which what they say at first is not dealt with yet (`Server.begun`)."""
    begin_s: float = 5
    """For how long such a one keeps others waiting, at most."""
    max_queued: int = 256
    """Messages that wait for a session."""
    stall_s: float = 10
    """How long one of them may take to be sent."""
    rate: float = 500
    """Units per second that a session may say: one for a message, and one for each 2,048 bytes of it."""
    burst: float = 4000


class Handlers(Protocol):
    """Who is told of the sessions: on the loop, one call at a time. Each may `send` and `end`."""

    def opened(self, session: int, hello: Hello, identity: str | None) -> str | None:
        """A node said who it is. `identity`: the name that its certificate shows ("" for none), None without
        TLS. Return why it is refused (nothing more comes of that session then), else None."""

    def heard(self, session: int, message: FromNode) -> None:
        """An open session said this; never a Hello."""

    def closed(self, session: int) -> None:
        """An open session is over, whoever ended it. Once."""


@dataclass(slots=True)
class _Session:
    """One stream. `limit`: runs out when no Hello came in time, and at once when the session is ended."""

    peer: str
    outbox: Outbox[FromManager]
    node: str = ""
    is_open: bool = False
    is_beginning: bool = False
    ending: tuple[grpc.StatusCode, str] | None = None
    limit: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))


class Server:
    """Listens while its context is open; OSError (the address), TlsError.

    `listen`: HOST:PORT; port 0 takes any, see `port`. Without `tls` in the clear: whether that may be is the
    user's to decide.
    """

    def __init__(
        self, listen: str, handlers: Handlers, tls: TlsFiles | None = None, limits: Limits | None = None
    ) -> None:
        self.port = 0
        self.counts: Counter[str] = Counter()
        """Of refusals and endings, by name."""
        self._listen = listen
        self._handlers = handlers
        self._limits = limits or Limits()
        self._handshakes = Handshakes(tls) if tls else None
        self._sessions: dict[int, _Session] = {}
        self._turns = asyncio.Semaphore(self._limits.max_beginning)
        self._n_streams = 0  # with those that gRPC has not let go of yet
        self._last = 0
        self._quiet_until_s: dict[tuple[str, str], float] = {}

    def send(self, session: int, message: FromManager) -> None:
        """Say it after all that was said before; nothing if the session is over. One whose peer does not
        read is ended (`slow`)."""
        if found := self._sessions.get(session):
            found.outbox.put(message)

    def end(self, session: int, why: str) -> None:
        """End a session, with the reason told to the peer."""
        self._end(session, "ended", grpc.StatusCode.ABORTED, why)

    def begun(self, session: int) -> None:
        """What a session said at first is dealt with: let the next one begin."""
        if found := self._sessions.get(session):
            self._give_turn(found)

    async def __aenter__(self) -> Self:
        limits = self._limits
        with roused_lightly():
            self._server = grpc.aio.server(
                options=(
                    *OPTIONS,
                    ("grpc.so_reuseport", 0),  # a second manager on this address is a mistake
                    ("grpc.max_concurrent_streams", 1),  # of a connection
                    (
                        "grpc.max_allowed_incoming_connections",
                        limits.max_sessions + max(100, limits.max_sessions // 2),
                    ),
                    ("grpc.server_handshake_timeout_ms", int(limits.hello_s * 1000)),
                    ("grpc.max_connection_idle_ms", int(limits.hello_s * 1000)),  # without a stream
                    # Nodes ping every 3 s; one that sends many more than that is cut off.
                    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                    ("grpc.http2.max_ping_strikes", 5),
                    # A connection that died silently frees its slot.
                    ("grpc.keepalive_time_ms", 20_000),
                    ("grpc.keepalive_timeout_ms", 10_000),
                    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that counts in grpcio 1.8x
                )
            )
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        try:
            if self._handshakes is None:
                self.port = self._server.add_insecure_port(self._listen)
            else:
                self.port = self._server.add_secure_port(self._listen, self._handshakes.credentials())
                self._handshakes.port = self.port
        except RuntimeError as error:
            why = "it is taken, or no address of this box"
            raise OSError(f"cannot listen on {self._listen}: {why}") from error
        await self._server.start()
        self._watch = asyncio.create_task(self._tell_of_handshakes(), name="handshakes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        for session in self._sessions.values():
            self._stop(session, grpc.StatusCode.ABORTED, "the manager stops")
        await self._server.stop(0.2)
        with suppress(asyncio.CancelledError):
            await self._watch

    # --- one session ----------------------------------------------------------------------------------------

    async def _serve(self, _requests: object, context: Any) -> None:
        """Run one stream, for gRPC."""
        peer = _address(context.peer())
        self._n_streams += 1
        if self._handshakes:
            self._handshakes.arrived(peer)
        try:
            ending = self._unwanted(peer, context) or await self._session(peer, context)
            if ending is not None:
                with suppress(*LOST):  # who is not there any more does without the reason
                    await context.abort(*ending)
        finally:
            self._n_streams -= 1
            if self._handshakes:
                self._handshakes.left(peer)

    def _unwanted(self, peer: str, context: Any) -> tuple[grpc.StatusCode, str] | None:
        if self._n_streams > self._limits.max_sessions:
            why = f"this manager has {self._limits.max_sessions} sessions, its limit"
            self._tell("full", peer, "", why)
            return grpc.StatusCode.RESOURCE_EXHAUSTED, why
        if self._handshakes and (version := _version(context)) != "TLSv1.3":
            why = f"{version} given; expected TLSv1.3"
            self._tell("tls_version", peer, "", why)
            return grpc.StatusCode.FAILED_PRECONDITION, why
        return None

    async def _session(self, peer: str, context: Any) -> tuple[grpc.StatusCode, str] | None:
        """Converse until it is over, return why we ended it: None when the peer did."""
        self._last += 1
        number = self._last
        session = self._sessions[number] = _Session(
            peer,
            Outbox(
                encode_from_manager,
                context.write,
                lambda why: self._end(number, "slow", grpc.StatusCode.DEADLINE_EXCEEDED, why),
                max_queued=self._limits.max_queued,
                stall_s=self._limits.stall_s,
            ),
        )
        try:
            async with session.limit:
                await self._converse(number, session, context)
        except TimeoutError:
            why = f"no Hello within {self._limits.hello_s:g} s"
            self._end(number, "silent", grpc.StatusCode.DEADLINE_EXCEEDED, why)
        finally:
            session.outbox.close()
            self._give_turn(session)
            del self._sessions[number]
            if session.is_open:
                self._handlers.closed(number)
        return session.ending

    async def _converse(self, number: int, session: _Session, context: Any) -> None:
        loop = asyncio.get_running_loop()
        identities = self._identities(context.auth_context())
        await context.send_initial_metadata(())  # so that the node knows that somebody is here
        await self._turns.acquire()
        session.is_beginning = True
        loop.call_later(self._limits.begin_s, self._give_turn, session)
        session.limit.reschedule(loop.time() + self._limits.hello_s)
        pace = Pace(self._limits.rate, self._limits.burst, loop.time())
        while session.ending is None:
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            message = decode_from_node(data)
            if isinstance(message, Malformed):
                self._end(number, "malformed", grpc.StatusCode.INVALID_ARGUMENT, message.why)
            elif isinstance(message, Hello) == session.is_open:
                why = "a second Hello" if session.is_open else "the first message is no Hello"
                self._end(number, "malformed", grpc.StatusCode.INVALID_ARGUMENT, why)
            elif isinstance(message, Hello):
                self._open(number, session, message, identities)
            else:
                self._handlers.heard(number, message)
            if wait_s := pace.charge(len(data), loop.time()):
                self.counts["paced"] += 1
                await asyncio.sleep(wait_s)

    def _give_turn(self, session: _Session) -> None:
        if session.is_beginning:
            session.is_beginning = False
            self._turns.release()

    def _open(self, number: int, session: _Session, hello: Hello, identities: tuple[str, ...] | None) -> None:
        session.node = hello.node.name
        identity = None
        if identities is not None:
            # the roles of a box are nodes of their own, and show its one certificate
            box = session.node.removesuffix(".point").removesuffix(".nve")
            identity = session.node if box in identities else ", ".join(identities)
        session.is_open = True  # it may be spoken to, and end, from within
        refusal = self._handlers.opened(number, hello, identity)
        if refusal is None:
            session.limit.reschedule(None)
        else:
            session.is_open = False
            self._end(number, "refused", grpc.StatusCode.FAILED_PRECONDITION, refusal)

    def _identities(self, shown: Mapping[str, Sequence[bytes]]) -> tuple[str, ...] | None:
        """Take the names of the peer's certificate: the DNS ones, else the common one. None without TLS."""
        if self._handshakes is None:
            return None
        found = shown.get("peer_dns") or shown.get("x509_common_name") or ()
        return tuple(name.decode(errors="replace") for name in found)

    # --- endings --------------------------------------------------------------------------------------------

    def _end(self, number: int, name: str, code: grpc.StatusCode, why: str) -> None:
        session = self._sessions.get(number)
        if session is not None and session.ending is None:
            self._tell(name, session.peer, session.node, why)
            self._stop(session, code, why)

    def _stop(self, session: _Session, code: grpc.StatusCode, why: str) -> None:
        if session.ending is None:
            session.ending = (code, why)
            session.outbox.close()
            with suppress(RuntimeError):  # its time runs out just now
                session.limit.reschedule(0)

    def _tell(self, name: str, peer: str, node: str, why: str) -> None:
        self.counts[name] += 1
        now_s = asyncio.get_running_loop().time()
        told = (peer.rpartition(":")[0], why)
        if now_s < self._quiet_until_s.get(told, 0):
            return
        if len(self._quiet_until_s) >= QUIET_MAX:
            self._quiet_until_s.clear()
        self._quiet_until_s[told] = now_s + QUIET_S
        LOG.warning("session %s peer=%s node=%s why=%s", name, peer, node or "unknown", json.dumps(why))

    async def _tell_of_handshakes(self) -> None:
        while self._handshakes:
            await asyncio.sleep(2 * self._limits.hello_s)
            n, hosts = self._handshakes.take_failed()
            if n:
                self.counts["handshake"] += n
                seen = ",".join(hosts[:8]) or "unknown"
                LOG.warning("handshakes failed n=%d from=%s: gRPC said why on stderr, each time", n, seen)


def _version(context: Any) -> str:
    return b"".join(context.auth_context().get("ssl_tls_version", ())).decode()


def _address(peer: str) -> str:
    """Read gRPC's name of a peer: ipv4:10.1.1.2:4711, or ipv6:%5Bfd00::2%5D:4711."""
    return unquote(peer.partition(":")[2])
