"""NVEs that managers tell of each other (framework 3.2): head-end replication without multicast and without a
device, in a mesh and by a point.

    vm1 -- v [n1] core ---+
    vm2 -- v [n2] core ---+--- a bridge that floods no multicast
    vm3 -- v [n3] core ---+
             [manager] ---+
              [point1] ---+
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from ctrl.lab.namespaces import Namespace, missing
from tests.system.fabric import PORT, attach
from tests.system.joins import Ear
from tests.system.lab import Fastpath, Lab, expect_once, has_carrier, wait_for
from tests.system.nves import Talker, core_port, expect_straight, introduce, lost_by, veth_vm, vm_port
from tests.system.tenants import Tenant, stream

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
GROUP, MANAGER, POINT = "239.1.1.100", "10.0.0.100", "10.0.0.110"
G = "239.77.0.1"
MANY = list(range(1, 51))


@dataclass
class Fabric:
    lab: Lab
    core: Namespace
    manager: Fastpath
    nves: dict[str, Fastpath] = field(default_factory=dict)
    vms: dict[str, Talker] = field(default_factory=dict)

    def node(self, role: str, address: str) -> str:
        return (
            f'[{role}]\naddress = "{address}"\nmanager = ["{MANAGER}:{PORT}"]\nplaintext = true\nstate = ""\n'
        )

    def box(self, name: str, address: str) -> Namespace:
        made = self.lab.box(name)
        attach(self.core, made, name, address)
        wait_for(partial(has_carrier, made, "core"), f"carrier of {name}")
        return made

    def add(self, n: int) -> None:
        """One more NVE, with a VM; it runs, and has not to be in force yet."""
        address = f"10.0.0.{n}"
        box = self.box(f"n{n}", address)
        self.vms[f"vm{n}"] = veth_vm(self.lab, box, "v", n)
        network = f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{GROUP}"\nsnoop = true\n'
        text = core_port("core") + vm_port("v") + network + self.node("nve", address)
        self.nves[f"n{n}"] = Fastpath(self.lab, box, text, name=f"n{n}", waits=False)

    def sends(self, *names: str, to: str = "") -> None:
        """Return when each of these NVEs sends to the others, or all to the same one."""
        for name in names:
            self.nves[name].answers()
        where = {name: f"10.0.0.{name[1:]}" for name in names}
        for name in names:
            wanted = [to] if to else sorted(one for other, one in where.items() if other != name)
            self._expect(name, wanted)

    def _expect(self, name: str, wanted: list[str]) -> None:
        wait_for(
            lambda: self.remote(name) == wanted,
            lambda: f"{name} sends to {self.remote(name)}, not {wanted}",
        )
        reaches(self.nves[name], *wanted)

    def remote(self, name: str) -> list[str]:
        """Whom an NVE sends what it has for several."""
        rows = self.nves[name].show("groups", role="nve", group="vxlan 100")
        return sorted(address for row in rows for address in row["remote"])


def reaches(one: Fastpath, *peers: str) -> None:
    """Return when the next hops of these are known."""
    states = lambda: {str(row["peer"]): row["state"] for row in one.show("tunnels")}  # noqa: E731
    wait_for(lambda: all(states().get(peer) == "up" for peer in peers), lambda: f"{one.name}: {states()}")


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with Lab("managed") as lab:
        core = lab.box("core")
        core.add_link("core", "bridge")
        box = lab.box("manager")
        attach(core, box, "manager", MANAGER)
        made = Fabric(lab, core, Fastpath(lab, box, manager_config(lab, "mesh"), name="manager", waits=False))
        for n in (1, 2, 3):
            made.add(n)
        made.manager.answers()
        yield made


def manager_config(lab: Lab, mode: str) -> str:
    where = f"sqlite://{lab.directory}/manager-store.db"
    role = f'[manager]\nlisten = "{MANAGER}:{PORT}"\nstore = "{where}"\nplaintext = true\n'
    return f'{role}mode = "{mode}"\nhold_s = 1\n'


def test_what_a_vm_sends_to_a_tenants_group_goes_to_the_nves_that_want_it(fabric: Fabric) -> None:
    """N13 (framework 3.2): not to those that are known not to; as soon as one joins, it is served as well."""
    fabric.sends("n1", "n2", "n3")
    vms = {f"vm{n}": Tenant(fabric.lab, fabric.vms[f"vm{n}"].box, "eth0", n) for n in (1, 2, 3)}
    nve = fabric.nves["n1"]

    def remote() -> list[list[str]]:
        return [list(row["remote"]) for row in nve.show("groups", role="nve") if G in str(row["group"])]

    vms["vm2"].join(G)
    wait_for(lambda: remote() == [["10.0.0.2"]], lambda: f"{remote()} {nve.show('groups')}")
    stream(vms, "vm1", G, range(1, 51), "vm2")
    vms["vm3"].join(G)
    wait_for(lambda: remote() == [["10.0.0.2", "10.0.0.3"]], lambda: f"{remote()} {nve.show('groups')}")
    stream(vms, "vm1", G, range(51, 101), "vm2", "vm3")


def test_nves_of_a_manager_reach_each_other_without_multicast_and_go_on_without_it(fabric: Fabric) -> None:
    """N1, N2 (framework 3.2): each broadcast is at each VM once; a fourth NVE comes and goes; the manager
    ends, and nothing else does. Nobody joins a group."""
    vms = fabric.vms
    fabric.sends("n1", "n2", "n3")
    ear = Ear(fabric.lab, fabric.core, "to-n1")
    vms["vm1"].send(*MANY)
    expect_once(vms, MANY, but=("vm1",))
    introduce(vms, *fabric.nves.values())
    expect_straight(vms, MANY, ("vm1", "vm3"))

    fabric.add(4)
    fabric.sends("n1", "n2", "n3", "n4")
    vms["vm2"].send(*MANY)
    expect_once(vms, MANY, but=("vm2",))
    fabric.nves["n4"].box.set_link("v", state="down")
    fabric.sends("n1", "n2", "n3")
    vms["vm1"].send(*MANY)
    expect_once(vms, MANY, but=("vm1", "vm4"))

    assert [row["state"] for row in fabric.nves["n1"].show("sessions", role="nve")] == ["up"]
    fabric.manager.process.kill()
    fabric.manager.process.wait()
    wait_for(lambda: fabric.nves["n1"].show("sessions", state="away"), "the session is away")
    vms["vm3"].send(*MANY)
    expect_once(vms, MANY, but=("vm3", "vm4"))
    sent = [frame for frame in ear.frames(outgoing=False) if frame[12:14] == b"\x08\x00"]
    assert {frame[30:34] for frame in sent} >= {bytes((10, 0, 0, n)) for n in (2, 3)}
    assert not any(frame[0] & 1 for frame in sent), "nothing to a group, and no IGMP"
    assert [lost_by(one) for one in fabric.nves.values()] == [{}] * 4


def test_nves_of_a_manager_send_one_copy_to_a_point_that_serves_their_network(fabric: Fabric) -> None:
    """M6, R3, R4: the point copies by the network's number, and keeps who sent it: stations are there."""
    vms = {name: fabric.vms[name] for name in ("vm1", "vm2", "vm3")}
    box = fabric.box("point1", POINT)
    text = core_port("core") + fabric.node("replicator", POINT) + 'source = "keep"\n'
    point = Fastpath(fabric.lab, box, text, name="point1", waits=False)
    if fabric.manager.process.poll() is None:
        fabric.manager.end()
    fabric.manager.configure(manager_config(fabric.lab, "point"))
    fabric.manager.start()
    point.answers()
    fabric.sends("n1", "n2", "n3", to=POINT)
    reaches(point, "10.0.0.1", "10.0.0.2", "10.0.0.3")
    roles = {str(row["node"]): row["role"] for row in fabric.manager.show("devices")}
    assert (roles["n1"], roles["point1"]) == ("nve", "replicator")
    for name, one in vms.items():
        one.send(*MANY)
        expect_once(vms, MANY, but=(name,))
    assert point.status()["copies_out"] >= 2 * 3 * len(MANY)
    introduce(vms, *(fabric.nves[name] for name in ("n1", "n2", "n3")))
    expect_straight(vms, MANY, ("vm1", "vm3"))
    assert lost_by(point) == {}
