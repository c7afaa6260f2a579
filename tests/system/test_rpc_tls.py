"""Certificates on the wire: TLS 1.3 on both sides, and whoever shows the wrong one is refused and logged."""

import asyncio
import re
import shutil
from dataclasses import replace

import pytest

from ctrl.rpc.handshakes import connected
from ctrl.rpc.server import Limits
from ctrl.rpc.tls import TlsFiles
from ctrl.rpc.transport import grpc
from tests.certificates import Authority, needs_openssl
from tests.system.rpc import Device, Manager, at, calling, ending, hello, running, say, serving, until

pytestmark = [pytest.mark.asyncio, needs_openssl]
BRISK = Limits(hello_s=0.5)
"""A handshake that came to nothing is told of within two periods of a second."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give the files by name."""
    where = tmp_path_factory.mktemp("tls")
    ca = Authority(where)
    other = Authority(where, "other")
    both = where / "both.pem"
    both.write_bytes(ca.ca.read_bytes() + other.ca.read_bytes())
    return {
        "manager": ca.sign("manager", cn="m1", names="DNS:m1,IP:127.0.0.1"),
        "elsewhere": ca.sign("elsewhere", cn="m1", names="DNS:m1,IP:127.0.0.2"),
        "old manager": ca.sign("oldmanager", cn="m1", names="IP:127.0.0.1", days=-1),
        "tor1": ca.sign("tor1", cn="rack", names="DNS:tor1,DNS:tor1.example"),
        "plain": ca.sign("plain", cn="tor1"),
        "tor2": ca.sign("tor2", cn="tor2"),
        "sly": ca.sign("sly", cn="tor2, tor1"),
        "expired": ca.sign("expired", cn="tor1", days=-1),
        "foreign": other.sign("foreign", cn="tor1"),
        "foreign manager": other.sign("foreignmanager", cn="m1", names="IP:127.0.0.1"),
        "none": TlsFiles(where / "none", where / "none", ca.ca),
        "both": TlsFiles(where / "none", where / "none", both),
    }


class Strict(Manager):
    """Takes a node only for the name that its certificate shows."""

    def opened(self, session, hello, identity):
        if identity != hello.node.name:
            self.refusal = f"{hello.node.name} given; its certificate is of {identity or 'nobody'}"
        return super().opened(session, hello, identity)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ("tor1", "tor1"),
        ("tor1", "tor1.example"),
        ("plain", "tor1"),
        ("tor1", "tor1.point"),
        ("tor1", "tor1.nve"),
    ],
    ids=["name", "another of its names", "common name", "the point beside it", "the NVE beside it"],
)
async def test_a_node_is_who_its_certificate_says(made, files, name):
    async with (
        serving(Strict(), made["manager"]) as manager,
        running(at(manager), device=Device(name), tls=made[files]) as device,
    ):
        await until(lambda: device.told)
        assert manager.opened_by == [(1, device.hello, name)]


@pytest.mark.parametrize(("files", "names"), [("tor2", "tor2"), ("sly", "tor2, tor1")])
async def test_a_node_with_the_certificate_of_another_is_refused_on_both_sides_log(
    made, caplog, files, names
):
    why = f"tor1 given; its certificate is of {names}"
    async with (
        serving(Strict(), made["manager"]) as manager,
        running(at(manager), tls=made[files]) as device,
    ):
        await until(lambda: device.client.problems == {at(manager): why})
        (line,) = [line for line in caplog.messages if line.startswith("session refused")]
        assert re.fullmatch(rf'session refused peer=127\.0\.0\.1:\d+ node=tor1 why="{why}"', line)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ("expired", "certificate has expired"),
        ("foreign", "unable to get local issuer certificate"),
        ("none", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    ],
)
async def test_a_node_without_a_valid_certificate_comes_to_no_stream(made, files, reason, caplog, capfd):
    async with serving(Manager(), made["manager"], limits=BRISK) as manager:
        async with calling(manager, replace(made[files], ca=made["tor1"].ca)) as call:
            code, _ = await ending(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        await until(lambda: manager.server.counts["handshake"])
        assert manager.opened_by == []
        line = r"handshakes failed n=\d+ from=127\.0\.0\.1: gRPC said why on stderr, each time"
        assert any(re.fullmatch(line, message) for message in caplog.messages)
    said = capfd.readouterr().err
    assert "Handshake failed with error SSL_ERROR_SSL" in said
    assert reason in said


async def test_a_node_whose_certificate_the_manager_does_not_take_says_which(made):
    files = replace(made["foreign"], ca=made["both"].ca)
    own = files.read(of_manager=False)
    why = f"it ended the handshake: it may not take our certificate {own}"
    async with serving(Manager(), made["manager"]) as manager, running(at(manager), tls=files) as device:
        await until(lambda: device.client.problems == {at(manager): why})


async def test_a_node_whose_own_files_are_of_no_use_says_so_and_tries_nothing(made, caplog):
    why = (
        f"tls.cert: {made['expired'].cert} does not stand up to {made['expired'].ca}: certificate has expired"
    )
    async with (
        serving(Manager(), made["manager"], limits=BRISK) as manager,
        running(at(manager), tls=made["expired"]) as device,
    ):
        await until(lambda: device.client.problems == {at(manager): why})
        assert f'manager lost address={at(manager)} why="{why}"' in caplog.messages


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ("elsewhere", "its certificate is not for 127.0.0.1"),
        ("tor2", "its certificate is not for 127.0.0.1"),
        (
            "foreign manager",
            "its certificate does not stand up to our CA: unable to get local issuer certificate",
        ),
    ],
)
async def test_a_manager_that_is_none_is_not_told_anything(made, files, why, caplog):
    async with serving(Manager(), made[files]) as manager, running(at(manager), tls=made["tor1"]) as device:
        await until(lambda: device.client.problems.get(at(manager), "").startswith(why))
        assert f'manager lost address={at(manager)} why="{why}' in caplog.text
        assert manager.opened_by == []
        assert device.addresses == []


@pytest.mark.parametrize(("version", "is_taken"), [("-tls1_3", True), ("-tls1_2", False)])
async def test_nothing_older_than_tls_1_3_is_spoken(made, version, is_taken):
    files = made["tor1"]
    async with serving(Manager(), made["manager"]) as manager:
        openssl = await asyncio.create_subprocess_exec(
            "openssl",
            *("s_client", version, "-alpn", "h2", "-connect", at(manager)),
            *("-cert", files.cert, "-key", files.key, "-CAfile", files.ca),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await openssl.communicate()
        assert (b"Cipher is (NONE)" not in said) == is_taken


async def test_a_renewed_certificate_counts_from_the_next_handshake_on(made, tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("manager", "tor1"):
        for path in (made[name].cert, made[name].key):
            shutil.copy(path, tmp_path)
    files = TlsFiles(tmp_path / "manager.pem", tmp_path / "manager.key", made["tor1"].ca)
    async with serving(Manager(), files) as manager:
        async with running(at(manager), tls=made["tor1"]) as device:
            await until(lambda: device.told)
        files.key.write_text("-----BEGIN PRIVATE KEY-----\n")
        async with running(at(manager), tls=made["tor1"]) as device:
            await until(lambda: device.told)
        assert f"certificate kept: tls.key: {files.key} holds no key that can be read" in caplog.messages
        shutil.copy(made["elsewhere"].key, files.key)
        shutil.copy(made["elsewhere"].cert, files.cert)
        async with running(at(manager), tls=made["tor1"]) as device:
            await until(
                lambda: device.client.problems == {at(manager): "its certificate is not for 127.0.0.1"}
            )
        assert f"certificate read: {files.cert} (m1; valid until" in caplog.text


async def test_a_node_that_speaks_no_tls_is_not_heard(made):
    async with serving(Manager(), made["manager"], limits=BRISK) as manager:
        async with calling(manager) as call:
            code, _ = await ending(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert manager.opened_by == []


async def test_a_handshake_that_does_not_go_on_is_closed(made):
    async with serving(Manager(), made["manager"], limits=BRISK) as manager:
        reader, writer = await asyncio.open_connection("127.0.0.1", manager.server.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a ClientHello
        async with asyncio.timeout(8):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_the_kernel_tells_who_is_connected():
    async with serving() as manager, calling(manager) as call:
        await say(call, hello())
        await until(lambda: manager.opened_by)
        assert connected(manager.server.port) == {manager.server._sessions[1].peer}
