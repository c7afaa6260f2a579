"""A network that swallows what is sent: the session is given up, and is back soon after the network is."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from ctrl.rpc.client import Patience
from tests.system.rpc import running, serving, until

pytestmark = pytest.mark.asyncio


class Wire:
    """Passes bytes on between whoever connects and one port, or swallows all of them."""

    def __init__(self, port):
        self._port = port
        self._pumps = set()
        self.is_cut = False
        self.there = ""

    async def _joined(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            async with asyncio.TaskGroup() as both:
                self._pumps.add(both.create_task(self._pump(reader, far_writer)))
                self._pumps.add(both.create_task(self._pump(far_reader, writer)))
        finally:
            writer.transport.abort()

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                if not self.is_cut:
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def open(self):
        async with await asyncio.start_server(self._joined, "127.0.0.1", 0) as listening:
            self.there = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            yield self
            for pump in self._pumps:
                pump.cancel()


async def test_a_session_is_given_up_in_a_partition_and_is_back_soon_after_it():
    patience = Patience(ping_s=0.5, connect_s=0.5, busy_s=0.5)
    async with (
        serving() as manager,
        Wire(manager.server.port).open() as wire,
        running(wire.there, patience=patience) as device,
    ):
        await until(lambda: device.told)
        wire.is_cut = True
        await until(lambda: device.n_ended == 1)
        assert device.client.problems == {wire.there: "Stream removed (ping timeout)"}
        await until(lambda: device.client.problems == {wire.there: "no answer in time"})
        wire.is_cut = False
        await until(lambda: len(device.addresses) == 2)
        await until(lambda: device.client.problems == {})
