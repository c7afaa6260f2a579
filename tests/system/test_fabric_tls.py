"""A manager and devices with certificates: who has its own is served, who shows another's is refused."""

import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from ctrl.rpc.tls import TlsFiles
from tests.certificates import Authority
from tests.system.fabric import Fabric, Tor, expect_whole, group_of, lacking
from tests.system.fabric_truth import lists, settles, unresolved
from tests.system.lab import Lab, wait_for

pytestmark = pytest.mark.skipif(bool(lacking("openssl")), reason=lacking("openssl"))
VNI = 100


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("tls") as made:
        yield made


def table(files: TlsFiles) -> str:
    """The lines of [tls]."""
    return "".join(f'{key} = "{path}"\n' for key, path in asdict(files).items())


def sends(tor: Tor, to: Tor) -> bool:
    """Say whether one ToR sends copies to the other, which it then takes copies from, and to no more."""
    return dict(lists(tor)).get(group_of(VNI)) == [to.address] and not unresolved(tor)


def test_devices_with_certificates_are_served_and_one_with_anothers_name_is_not(lab: Lab):
    """tor3 has a certificate of the right CA, but tor2's: it may not speak for itself."""
    fabric = Fabric(lab, 3)
    ours = Authority(lab.directory)
    where = f"DNS:manager1,IP:{fabric.managers['manager1'].address}"
    tables = {name: table(ours.sign(name, names=f"DNS:{name}")) for name in ("tor1", "tor2")}
    tables |= {"manager1": table(ours.sign("manager1", names=where)), "tor3": tables["tor2"]}
    tors = [*fabric.tors.values()]
    for tor in tors:
        tor.host()
    nves = [tor.nve(VNI) for tor in tors]
    fabric.start('mode = "mesh"', security=tables)
    manager = fabric.managers["manager1"].fastpath
    wait_for(lambda: sends(tors[0], tors[1]) and sends(tors[1], tors[0]), "tor1 and tor2 are served")
    said = wait_for(
        lambda: [line for line in (manager.log + tors[2].fastpath.log).splitlines() if "refused" in line],
        "tor3 is refused",
    )
    assert any("tor2" in line and "tor3" in line for line in said), said
    with fabric.traffic(*nves[:2]) as data:
        time.sleep(0.3)
    expect_whole(data)
    assert all(not remote for group, remote in lists(tors[2]))

    ours.sign("tor3", names="DNS:tor3")
    file = tors[2].fastpath.file
    file.write_text(file.read_text().replace("tor2.", "tor3."))
    tors[2].kill()
    tors[2].start()
    wait_for(lambda: fabric.have_joined(nves), "its NVE has joined again")
    settles(fabric, 10.0)
    with fabric.traffic(*nves) as data:
        time.sleep(0.3)
    expect_whole(data)
