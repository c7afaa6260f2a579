"""etcd's JSON gateway over several endpoints: one is asked, and the next one after it fails.

1. A request has a short deadline. Whoever asked hears `Away` at each failure and decides whether to repeat:
   only he knows whether it may be done twice.
2. A stream lives on the endpoint that requests go to, and ends when that is given up. So whoever asks
   something every few seconds (the lease does) keeps a watch from waiting at a member that hangs, is cut off
   or has no leader.
3. Every answer comes from one cluster. An endpoint of another one counts as failed, and is asked for nothing
   else than who it is.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from ctrl.rpc.tls import TlsFiles
from ctrl.store.etcd_wire import PASSING, Json, Refused, read_answer
from ctrl.store.model import StoreError
from ctrl.store.opening import EtcdUrl

LOG = logging.getLogger("fastpath.store")

DEADLINE_S = 1.5
CONNECT_S = 1.0
MAX_PAUSE_S = 1.0
MAX_MESSAGE = 64 << 20
"""Of a watch, in bytes: etcd sends at most 1,000 revisions at once, in fragments of about 2 MB."""


class Away(Exception):
    """This endpoint did not do what was asked; the next one is now the one to ask.

    `is_doubtful`: it may have been done all the same, or be done yet.
    """

    def __init__(self, why: str, *, is_doubtful: bool) -> None:
        super().__init__(why)
        self.is_doubtful = is_doubtful


class Gateway:
    """For one loop. `failure`: why nothing more is to be asked; `why`: what went wrong last."""

    def __init__(self, url: EtcdUrl, tls: TlsFiles | None) -> None:
        self._url = url
        scheme = "https" if url.is_tls else "http"
        self._endpoints = [f"{scheme}://{host}/v3/" for host in url.hosts]
        context = _context(tls) if url.is_tls else False
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=context))
        self._current = 0
        self._failures = 0
        self._cluster = ""
        self._met = set[int]()
        self._token = ""
        self._streams: dict[aiohttp.ClientResponse, int] = {}
        self.failure: StoreError | None = None
        self.why = "no answer"

    def __str__(self) -> str:
        return str(self._url)

    async def ask(self, path: str, body: Json, deadline_s: float = DEADLINE_S) -> Json:
        """Ask until there is an answer: for what may be done twice. Refused, StoreError."""
        while True:
            try:
                return await self.post(path, body, deadline_s)
            except Away:
                continue

    async def post(self, path: str, body: Json, deadline_s: float = DEADLINE_S) -> Json:
        """Ask once, after a pause where all have failed of late. Away, Refused, StoreError."""
        endpoint = await self._begin()
        message = await self._exchange(endpoint, path, body, deadline_s, is_doubtful=True)
        self._succeeded(endpoint)
        return message

    async def follow(self, path: str, body: Json) -> AsyncIterator[Json]:
        """Ask for a stream and give its messages. Away at its end, Refused, StoreError."""
        endpoint = await self._begin()
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S)
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await self._session.post(
                    self._endpoints[endpoint] + path, timeout=timeout, **self._said(body)
                )
            self._streams[answer] = endpoint
            try:
                async for line in _lines(answer):
                    yield self._read(line)
            finally:
                self._streams.pop(answer, None)
                answer.close()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._give_up(endpoint, error) from None
        except Refused as refused:
            raise self._refused(endpoint, refused) from None
        raise self._give_up(endpoint, "the stream ended")

    def fail(self, failure: StoreError) -> None:
        """Answer all that is asked from here on with this."""
        self.failure = self.failure or failure
        self._drop_streams(None)

    def forget_login(self) -> None:
        self._token = ""

    async def close(self) -> None:
        await self._session.close()

    async def _begin(self) -> int:
        if self._failures >= len(self._endpoints):
            rounds = self._failures // len(self._endpoints)
            await asyncio.sleep(min(MAX_PAUSE_S, 0.05 * 2 ** min(rounds, 10)))
        if self.failure is not None:
            raise self.failure
        endpoint = self._current
        if endpoint not in self._met:
            await self._exchange(endpoint, "maintenance/status", {}, is_doubtful=False)
            self._met.add(endpoint)
        if self._url.user and not self._token:
            login = {"name": self._url.user, "password": self._url.password}
            answer = await self._exchange(endpoint, "auth/authenticate", login, is_doubtful=False)
            self._token = str(answer.get("token", ""))
        return endpoint

    async def _exchange(
        self, endpoint: int, path: str, body: Json, deadline_s: float = DEADLINE_S, *, is_doubtful: bool
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=CONNECT_S)
        url = self._endpoints[endpoint] + path
        try:
            async with self._session.post(url, timeout=timeout, **self._said(body)) as answer:
                return self._read(await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._give_up(endpoint, error, is_doubtful=is_doubtful) from None
        except Refused as refused:
            raise self._refused(endpoint, refused, is_doubtful=is_doubtful) from None

    def _said(self, body: Json) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = self._token
        return {"data": io.BytesIO(json.dumps(body).encode()), "headers": headers}  # of a size sent in parts

    def _read(self, body: bytes) -> Json:
        message = read_answer(body)
        cluster = str(message["header"]["cluster_id"])
        self._cluster = self._cluster or cluster
        if cluster != self._cluster:
            raise ValueError(f"it is of another cluster: {cluster}, the others of {self._cluster}")
        return message

    def _refused(self, endpoint: int, refused: Refused, *, is_doubtful: bool = True) -> Exception:
        if refused.is_login_needed and self._url.user:
            self._token = ""  # refused before anything was done
            return self._give_up(endpoint, refused, is_doubtful=False)
        if refused.code in PASSING:
            return self._give_up(endpoint, refused, is_doubtful=is_doubtful)
        return refused

    def _give_up(self, endpoint: int, error: Exception | str, *, is_doubtful: bool = True) -> Away:
        if isinstance(error, aiohttp.ClientConnectorError):
            is_doubtful = False
        why = self.why = f"{self._endpoints[endpoint]}: {str(error) or type(error).__name__}"
        if endpoint == self._current:  # else another request has moved on already
            self._current = (endpoint + 1) % len(self._endpoints)
            self._failures += 1
            if self._failures == 1:
                LOG.warning("store=%s state=failing why=%s", self, why)
            self._drop_streams(endpoint)
        return Away(why, is_doubtful=is_doubtful)

    def _succeeded(self, endpoint: int) -> None:
        if self._failures and endpoint == self._current:
            LOG.warning("store=%s state=works endpoint=%s", self, self._endpoints[endpoint])
            self._failures = 0

    def _drop_streams(self, endpoint: int | None) -> None:
        for stream, where in list(self._streams.items()):
            if endpoint in {None, where}:
                stream.close()


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for data in answer.content.iter_any():
        *lines, last = data.split(b"\n")
        for line in lines:
            rest += line
            if rest:
                yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > MAX_MESSAGE:
            raise ValueError("a message of more than 64 MiB")
    if rest:
        yield bytes(rest)


def _context(tls: TlsFiles | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls else None)
        if tls:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(f"[tls] of the store: {error}") from None
    return context
