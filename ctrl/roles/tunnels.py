"""The tunnels that a node was told to have, within its bounds, and whom it takes packets from by them.

1. Equal tuples of addresses are one object, counted: a thousand groups with the same peers cost one tuple and
   one check, and who is a sender is known without looking at every entry.
2. What is out of bounds is refused by its name, and what stood there before stays.
3. What tenants want goes along with the tunnels, and is none: nobody is taken packets from for it, it ends
   with its outer group, and what is refused of it is as if it had not been told, so it costs copies and no
   receiver. Of who wants all groups, too: then nobody counts as aware, until all is told again.
4. The tunnels of a point are its own; of a device those by a point turn to `backup` while its probes do not
   reach that point, without a word of the manager.

After US 9,838,462: TI(g), the unicast tunnel interface (CONFORMANCE D8, D11, D12, R1).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from ctrl.topology.entry import (
    ANY,
    AWARE,
    MESH,
    POINT,
    Address,
    Entry,
    Key,
    Node,
    is_tenant,
    outer_of,
    split_tenant,
)

REFUSALS = {
    "own_address_as_peer": "A tunnel that would lead to the node itself.",
    "not_a_peer": "A tunnel to what is no unicast address, or none of the node's own IP version.",
    "peer_not_allowed": "A tunnel to an address that is in none of peers_from.",
    "peer_twice": "A tunnel interface that names a peer twice: it would get two copies.",
    "peers_full": "max_peers_per_group: the group would have more tunnels than it may.",
    "tunnels_full": (
        "max_groups: the node has tunnels of as many groups, or was told as much of tenants, as it may."
    ),
    "unknown_via": "A tunnel of a kind that this version does not know, or one for what tenants want.",
    "older_instructions": "Instructions that are older than what the node holds.",
}
"""Why an entry of instructions (the last: instructions as a whole) is not in force, by name."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a node takes of its manager. `peers_from`: where tunnels may lead, () for anywhere."""

    peers_from: tuple[IPv4Network | IPv6Network, ...] = ()
    max_peers_per_group: int = 1024
    max_groups: int = 200_000
    shrink_hold_s: float = 30.0
    """How long a sudden loss of most tunnels is not believed; 0: it is at once."""


class Pool:
    """Tuples of addresses, each as often as it is held, and the addresses that are in any of them."""

    __slots__ = ("_counts", "_own", "_shared", "addresses", "is_changed")

    def __init__(self) -> None:
        self._counts: dict[tuple[Address, ...], int] = {}
        self._shared: dict[tuple[Address, ...], tuple[Address, ...]] = {}
        self._own: dict[Address, Address] = {}
        self.addresses: dict[Address, int] = {}
        """Each address, and in how many of the tuples it is."""
        self.is_changed = False
        """Some address came or went."""

    def __contains__(self, addresses: object) -> bool:
        return addresses in self._counts

    def hold(self, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Hold it once more; the one object that stands for all that are equal to it."""
        if not addresses:
            return ()
        if addresses in self._counts:
            self._counts[addresses] += 1
            return self._shared[addresses]
        shared = tuple([self._own.setdefault(address, address) for address in addresses])
        self._counts[shared] = 1
        self._shared[shared] = shared
        for address in shared:
            if address in self.addresses:
                self.addresses[address] += 1
            else:
                self.addresses[address] = 1
                self.is_changed = True
        return shared

    def release(self, addresses: tuple[Address, ...]) -> None:
        """Hold it once less."""
        if not addresses:
            return
        self._counts[addresses] -= 1
        if self._counts[addresses]:
            return
        del self._counts[addresses], self._shared[addresses]
        for address in addresses:
            if self.addresses[address] > 1:
                self.addresses[address] -= 1
            else:
                del self.addresses[address], self._own[address]
                self.is_changed = True


class Tunnels:
    """All entries of a node."""

    def __init__(self, node: Node, bounds: Bounds) -> None:
        self._bounds = bounds
        self._is_device = node.role == "device"
        self._own = frozenset({node.address, node.replicate} - {b""})
        self._size = len(node.address)
        self._prefixes = [
            (int(prefix.network_address), int(prefix.netmask))
            for prefix in bounds.peers_from
            if prefix.max_prefixlen == 8 * self._size
        ]
        self.entries: dict[Key, Entry] = {}
        self.n_with_peers = 0
        """Groups that have any; what tenants want is none."""
        self.down: set[Address] = set()
        """Points that the probes do not reach."""
        self.senders = Pool()
        self.points = Pool()
        self._wanting = Pool()
        """Who wants something of the tenants'."""
        self._tenants: dict[Key, dict[Key, None]] = {}
        """Tenants' keys by their outer group."""
        self.n_tenants = 0
        """How many keys are about tenants, which count apart."""
        self._unaware = ""
        """Why nobody counts as aware; "": as it was told."""
        self.changed: set[Key] = set()
        """Keys whose copies may differ."""
        self.unstored: set[Key] = set()
        """Keys whose entry differs from what is on disk."""

    def put(self, entry: Entry) -> str:
        """Set it, or say by which bound it is refused; "" where it is in force."""
        key = entry.key
        old = self.entries.get(key)
        if old == entry:
            return ""
        n_held = self.n_tenants if is_tenant(key) else len(self.entries) - self.n_tenants
        if old is None and n_held >= self._bounds.max_groups:
            refusal = "tunnels_full"
        else:
            refusal = self._refusal(entry)
        if not refusal:
            self._set(key, old, entry)
        elif is_tenant(key):
            self.drop(key)
            if split_tenant(key).inner == ANY:
                self.distrust(refusal)
        return refusal

    def drop(self, key: Key) -> None:
        """Remove it, if it is there, and of a group what its tenants want."""
        old = self.entries.get(key)
        if old is not None:
            self._set(key, old, None)
        for tenants in list(self._tenants.get(key, ())):
            self.drop(tenants)

    def distrust(self, why: str) -> None:
        """Take nobody for aware of its tenants: somebody may want all groups of whom it is not known."""
        self._unaware = why
        keys = [key for tenants in self._tenants.values() for key in tenants]
        for key in keys:
            if split_tenant(key).inner == AWARE:
                self.drop(key)

    def trust(self) -> None:
        """Believe what is told from now on, as it is all there is."""
        self._unaware = ""

    @property
    def is_trusted(self) -> bool:
        """True while who was told to be aware counts as such."""
        return not self._unaware

    def peers(self, key: Key) -> tuple[Address, ...]:
        """Where its copies go as of now."""
        entry = self.entries.get(key)
        if entry is None:
            return ()
        if self.down and self._is_by_point(entry) and entry.backup and not self.down.isdisjoint(entry.peers):
            return entry.backup
        return entry.peers

    def set_point_state(self, address: Address, is_up: bool) -> bool:
        """What the probes say; whether that is news."""
        if is_up == (address not in self.down) or (not is_up and address not in self.points.addresses):
            return False
        if is_up:
            self.down.discard(address)
        else:
            self.down.add(address)
        self.changed.update(
            key for key, entry in self.entries.items() if self._is_by_point(entry) and address in entry.peers
        )
        return True

    def _is_by_point(self, entry: Entry) -> bool:
        return self._is_device and entry.via == POINT

    def _set(self, key: Key, old: Entry | None, entry: Entry | None) -> None:
        is_of_tenants = is_tenant(key)
        pool = self._wanting if is_of_tenants else self.senders
        hold, release = pool.hold, pool.release
        if entry is not None:
            entry = Entry(
                old.key if old is not None else key,
                POINT if entry.via == POINT else MESH,
                hold(entry.peers),
                hold(entry.backup),
                hold(entry.accept),
                hold(entry.onward),
                entry.vnis,
                entry.vsids,
            )
            self.entries[entry.key] = entry
            self.n_with_peers += bool(entry.peers) and not is_of_tenants
            if self._is_by_point(entry):
                self.points.hold(entry.peers)
        else:
            del self.entries[key]
        if old is not None:
            for addresses in (old.peers, old.backup, old.accept, old.onward):
                release(addresses)
            self.n_with_peers -= bool(old.peers) and not is_of_tenants
            if self._is_by_point(old):
                self.points.release(old.peers)
                if self.down:
                    self.down &= self.points.addresses.keys()
        if is_of_tenants and (old is None or entry is None):
            self._note_tenants(key, is_there=entry is not None)
        self.unstored.add(key)
        if old is None or entry is None or _copies(old) != _copies(entry):
            self.changed.add(key)

    def _note_tenants(self, key: Key, *, is_there: bool) -> None:
        outer = outer_of(key)
        if is_there:
            self._tenants.setdefault(outer, {})[key] = None
            self.n_tenants += 1
            return
        self.n_tenants -= 1
        del self._tenants[outer][key]
        if not self._tenants[outer]:
            del self._tenants[outer]

    def _refusal(self, entry: Entry) -> str:
        most = self._bounds.max_peers_per_group
        if entry.via not in (MESH, POINT):
            return "unknown_via"
        pool = self.senders
        if is_tenant(entry.key):
            pool = self._wanting
            if entry.via != MESH or entry.backup or entry.accept or entry.onward:
                return "unknown_via"
            if self._unaware and split_tenant(entry.key).inner == AWARE:
                return self._unaware
        # while a group moves between mesh and point, packets are taken from both
        if max(len(entry.peers), len(entry.backup), len(entry.onward), len(entry.accept) - most) > most:
            return "peers_full"
        for addresses in (entry.peers, entry.backup, entry.accept, entry.onward):
            if addresses and addresses not in pool:
                refusal = self._refusal_of(addresses)
                if refusal:
                    return refusal
        return ""

    def _refusal_of(self, addresses: tuple[Address, ...]) -> str:
        if len(set(addresses)) < len(addresses):
            return "peer_twice"
        for address in addresses:
            if address in self.senders.addresses:
                continue
            if address in self._own:
                return "own_address_as_peer"
            if len(address) != self._size or not _is_unicast(address):
                return "not_a_peer"
            if self._bounds.peers_from:
                number = int.from_bytes(address, "big")
                if not any(number & mask == network for network, mask in self._prefixes):
                    return "peer_not_allowed"
        return ""


def _copies(entry: Entry) -> tuple[object, ...]:
    """All of it but whom packets are taken from."""
    return (entry.via, entry.peers, entry.backup, entry.onward, entry.vnis, entry.vsids)


def _is_unicast(address: Address) -> bool:
    if len(address) == 4:
        return 0 < address[0] < 0xE0
    return address[0] != 0xFF and any(address)
