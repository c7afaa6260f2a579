"""The store over an etcd that lets in only whom it knows: by password, by certificate, by both."""

import asyncio

import pytest

from ctrl.store import etcd
from ctrl.store.etcd import EtcdStore
from ctrl.store.model import Store, StoreError, Write
from ctrl.store.opening import open_store
from tests.certificates import Authority, needs_openssl
from tests.system.etcds import Cluster, cluster, needs_etcd
from tests.unit.store_laws import follow

pytestmark = [needs_etcd, needs_openssl]


def with_users(server: Cluster) -> Cluster:
    """Root, and who may use the keys below fabric/ (p@ss:word/) or those below other/ (x)."""
    for user, prefix, password in (("fabric", "fabric/", "p@ss:word/"), ("other", "other/", "x")):
        server.ctl("role", "add", user)
        server.ctl("role", "grant-permission", user, "--prefix=true", "readwrite", prefix)
        server.ctl("user", "add", f"{user}:{password}")
        server.ctl("user", "grant-role", user, user)
    server.ctl("user", "add", "root:secret")
    server.ctl("user", "grant-role", "root", "root")
    server.ctl("auth", "enable")
    server.environment = {**server.environment, "ETCDCTL_USER": "root:secret"}
    return server


@pytest.fixture(scope="module")
def passworded():
    with cluster() as server:
        server.start()
        yield with_users(server)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def certified(certificates):
    own = certificates.sign("etcd", names="IP:127.0.0.1")
    options = ["--client-cert-auth", "--trusted-ca-file", str(own.ca)]
    options += ["--cert-file", str(own.cert), "--key-file", str(own.key)]
    with cluster(1, options, "https") as server:
        server.environment = {"ETCDCTL_CACERT": str(own.ca), "ETCDCTL_CERT": str(own.cert)}
        server.environment["ETCDCTL_KEY"] = str(own.key)
        server.start()
        yield server


async def works(store: Store) -> None:
    """Write, compare, lease, watch and list."""
    reader = await follow(store)
    await store.commit([Write(dict.fromkeys(reader.items))])
    await reader.until(lambda: not reader.items)
    leased = Write({"live/a": b"1"}, is_leased=True)
    assert await store.commit([Write({"node/a": b"1"}, when={"node/a": 0}), leased]) == [True, True]
    assert await store.commit([Write({"node/a": b"2"}, when={"node/a": 0})]) == [False]
    await reader.until(lambda: len(reader.items) == 2)
    assert (await follow(store)).values() == {"node/a": b"1", "live/a": b"1"}


@pytest.mark.asyncio
async def test_a_user_with_a_password_writes_and_reads(passworded):
    store = await open_store(passworded.url.replace("//", "//fabric:p%40ss%3aword%2f@"))
    await works(store)
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("login", "says"),
    [
        ("", "user name is empty"),
        ("fabric:wrong@", "invalid user ID or password"),
        ("nobody:wrong@", "invalid user ID or password"),
        ("other:x@", "permission denied"),
    ],
)
async def test_who_may_not_is_refused_in_etcds_own_words(passworded, login, says):
    with pytest.raises(StoreError, match=rf"^etcd://127\.0\.0\.1:\d+/fabric: etcdserver: .*{says}"):
        await open_store(passworded.url.replace("//", f"//{login}"))


@pytest.mark.asyncio
async def test_a_login_that_a_restarted_server_forgot_is_made_again(passworded):
    store = await open_store(passworded.url.replace("//", "//fabric:p%40ss%3aword%2f@"))
    reader = await follow(store)
    await store.commit([Write({"node/b": b"1"})])
    await reader.until(lambda: "node/b" in reader.items)
    passworded.kill()
    await asyncio.to_thread(passworded.start)
    stepping = asyncio.create_task(reader.until(lambda: "node/c" in reader.items))
    assert await store.commit([Write({"node/c": b"1"})]) == [True]
    await stepping
    assert reader.lists == 1
    await works(store)
    await store.close()


@pytest.mark.asyncio
async def test_a_change_of_users_does_not_stop_who_is_logged_in(passworded):
    store = await open_store(passworded.url.replace("//", "//fabric:p%40ss%3aword%2f@"))
    passworded.ctl("user", "add", "one-more:x")
    await works(store)
    await store.close()


@pytest.mark.asyncio
async def test_who_loses_its_rights_is_told_and_not_left_waiting(passworded):
    store = await open_store(passworded.url.replace("//", "//other:x@").replace("/fabric", "/other"))
    reader = await follow(store)
    passworded.ctl("user", "revoke-role", "other", "other")
    try:
        with pytest.raises(StoreError, match="permission denied"):
            await store.commit([Write({"node/c": b"1"})])
        assert isinstance(store, EtcdStore)
        store._gateway._drop_streams(None)
        with pytest.raises(StoreError, match="permission denied"):
            await reader.step()
    finally:
        passworded.ctl("user", "grant-role", "other", "other")
    await store.close()


@pytest.mark.asyncio
async def test_a_client_certificate_opens_and_none_or_anothers_does_not(
    certified, certificates, tmp_path, monkeypatch
):
    manager = certificates.sign("manager", cn="m1", names="DNS:m1")
    store = await open_store(certified.url, manager)
    await works(store)
    await store.close()
    monkeypatch.setattr(etcd, "OPEN_S", 0.5)
    stranger = Authority(tmp_path, "strangers").sign("m2", names="DNS:m2")
    with pytest.raises(StoreError, match=r"not reached .*certificate verify failed"):
        await open_store(certified.url, stranger)
    with pytest.raises(StoreError, match="not reached"):
        await open_store(certified.url)
    with pytest.raises(StoreError, match=r"not reached"):
        await open_store(certified.url.replace("etcds", "etcd"), manager)
    (tmp_path / "m2.key").unlink()
    with pytest.raises(StoreError, match=r"\[tls\] of the store"):
        await open_store(certified.url, stranger)


@pytest.mark.asyncio
async def test_certificate_and_password_together(certified, certificates):
    manager = certificates.sign("both", names="DNS:m1")
    with_users(certified)
    store = await open_store(certified.url.replace("//", "//fabric:p%40ss%3aword%2f@"), manager)
    await works(store)
    await store.close()
