"""Keep the frames that are ours away from the kernel's own stack, on a port that receives by AF_PACKET.

The kernel shows a frame to packet sockets first and to the `ingress` hook of nf_tables next. A rule there
that drops what `fastpath.claims.is_consumed` claims leaves our ports everything and the stack nothing: no
ICMP unreachable, no second delivery, and no time spent on it (LIMITS trap 7). The table has an owner, our
socket: nobody else can change it, and it goes when the process goes, however it goes.

Each rule hangs on what came before it, so that a frame that is not ours leaves after a few comparisons:

    ingress:           VLAN id other than 0 -> accept; IPv4 -> ipv4; IPv6 -> ipv6
    ipv4, ipv6:        UDP to a port of ours, or GRE with Ethernet inside -> destination4, destination6
    destination4, 6:   a group, or an address of ours -> consumed
    consumed:          counter, drop

Plain comparisons, no sets: some kernels miss an element for a moment while another of its set is replaced,
and claims hold 64 addresses at most. The rules of a chain, on the other hand, are exchanged in one instant.

One exception to "exactly what `is_consumed` says": an IPv4 packet shorter than its header claims has no
transport header here. The stack drops those itself, in silence.

Where VMs are behind the interface, everything is ours: without claims, `ingress` leads to `consumed` at once.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ctrl import nftables as nft
from ctrl.nftables import Base, Message, NftSocket
from fastpath.claims import Claims

__all__ = ["ConsumeError", "ConsumeUnsupportedError", "Consumer"]

_PRIORITY = -500
"""Before the chains of others, whose counters and sets would otherwise see traffic that is not the host's."""

_INGRESS, _IPV4, _IPV6, _CONSUMED = "ingress", "ipv4", "ipv6", "consumed"
_DESTINATION4, _DESTINATION6 = "destination4", "destination6"
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6, _VLAN_TAGS = 0x0800, 0x86DD, (b"\x81\x00", b"\x88\xa8")
_UDP, _GRE, _BRIDGED = b"\x11", b"\x2f", b"\x65\x58"
_KIND_AT = 2
"""A UDP destination port and the protocol of GRE both stand at the third byte of their headers."""
_IPV6_SIZE = 40

_NO_SOCKET = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})
_NO_NF_TABLES = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
_TOO_OLD = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT})
"""What kernels answer that lack owners (before Linux 5.12), the ingress hook, or a kind of expression."""


class ConsumeError(OSError):
    """Frames that are ours cannot be kept from the kernel's stack; `device` says where."""

    def __init__(self, code: int, device: str, message: str) -> None:
        super().__init__(code, message)
        self.device = device

    def __str__(self) -> str:
        return f"{self.device}: {self.strerror}"


class ConsumeUnsupportedError(ConsumeError):
    """This kernel has no nf_tables, or not enough of it; without, frames reach us and the kernel's stack."""


class Consumer:
    """The filter of one interface, from here until `close`, or until the process ends.

    Works in the network namespace of the thread that makes it. Takes CAP_NET_ADMIN, when made and when used.
    An interface that vanishes, or gets another name, takes the filter along: close it, and make another when
    the interface is back. (Linux 6.18 brings it back with the name, older ones do not.) For one thread
    at a time. ConsumeError says what the system refused. Takes milliseconds, `close` some 20 of them: the
    kernel waits until no frame is among the rules.
    """

    def __init__(self, device: str, claims: Claims | None) -> None:
        """Keep what is claimed, everything without claims, from the stack."""
        self._device = device
        self._table = f"fastpath-{device}"
        self._expect_device()
        try:
            self._socket = NftSocket()
        except OSError as error:
            raise self._refused(error, _NO_SOCKET) from error
        try:
            self._begin(claims)
        except BaseException:
            self._socket.close()
            raise

    @property
    def dropped(self) -> int:
        """Frames kept from the stack since the filter was made, super-frames as one; asks the kernel."""
        try:
            return nft.packets(self._socket.ask(nft.get_rules(self._table, _CONSUMED)))
        except OSError as error:
            raise self._refused(error) from error

    def update(self, claims: Claims) -> None:
        """Claim this from now on. Each frame meets either the old rules or the new ones, complete."""
        chains = (_INGRESS, _IPV4, _IPV6, _DESTINATION4, _DESTINATION6)
        try:
            self._socket.commit(
                [*(nft.no_rules(self._table, chain) for chain in chains), *_rules(self._table, claims)]
            )
        except FileNotFoundError as error:
            message = "the interface vanished and took the filter along; it needs a new one"
            raise ConsumeError(errno.ENODEV, self._device, message) from error
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Take the filter away."""
        self._socket.close()

    def _begin(self, claims: Claims | None) -> None:
        table = self._table
        chains = (_IPV4, _IPV6, _DESTINATION4, _DESTINATION6, _CONSUMED)
        messages = [
            nft.new_table(table),
            *(nft.new_chain(table, chain) for chain in chains),
            nft.new_ingress_chain(table, _INGRESS, self._device, _PRIORITY),
            nft.new_rule(table, _CONSUMED, nft.count(), nft.drop()),
            *_rules(table, claims),
        ]
        self._refuse_another()
        try:
            self._socket.commit(messages)
        except OSError as error:
            self._expect_device()  # it may have gone, and another process come, since we looked
            self._refuse_another()
            raise self._refused(error, _TOO_OLD) from error

    def _expect_device(self) -> None:
        try:
            socket.if_nametoindex(self._device)
        except OSError:
            raise ConsumeError(errno.ENODEV, self._device, "there is no such interface") from None

    def _refuse_another(self) -> None:
        """Raise if there is a table of our name."""
        try:
            (found,) = self._socket.ask(nft.get_table(self._table))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(error, _NO_NF_TABLES) from error
        address = nft.owner(found)
        if address is None:
            message = (
                f"a table without an owner is in the way; remove it: nft delete table netdev {self._table}"
            )
            raise ConsumeError(errno.EEXIST, self._device, message)
        process = _process_behind(address)
        who = f"process {process}" if process else "another process"
        if process == os.getpid():
            who = "this process"
        raise ConsumeError(
            errno.EBUSY, self._device, f"{who} already receives for fastpath on this interface"
        )

    def _refused(self, error: OSError, unsupported: frozenset[int] = frozenset()) -> ConsumeError:
        code = error.errno or errno.EIO
        if code in unsupported:
            message = f"no nf_tables with netdev ingress and owners in this kernel ({error.strerror})"
            return ConsumeUnsupportedError(code, self._device, message)
        if code in (errno.EPERM, errno.EACCES):
            return ConsumeError(code, self._device, "a filter takes CAP_NET_ADMIN, which this process lacks")
        return ConsumeError(code, self._device, f"nf_tables refused the filter: {error.strerror}")


def _rules(table: str, claims: Claims | None) -> Iterator[Message]:
    """Make all rules but the one that counts and drops: that one stays, and its count with it."""

    def rule(chain: str, *expressions: bytes) -> Message:
        return nft.new_rule(table, chain, *expressions)

    if claims is None:
        yield rule(_INGRESS, nft.go_to(_CONSUMED))
        return
    network, transport = Base.NETWORK, Base.TRANSPORT
    for tag in _VLAN_TAGS:  # the kernel shows a tag that it took out where it was
        another_id = nft.matches(Base.LINK, 14, b"\0\0", b"\x0f\xff", equal=False)
        yield rule(_INGRESS, nft.matches(Base.LINK, 12, tag), another_id, nft.accept())
    version4 = nft.matches(network, 0, b"\x40", b"\xf0")
    version6 = nft.matches(network, 0, b"\x60", b"\xf0")
    first_fragment = nft.matches(network, 6, b"\0\0", b"\x1f\xff")
    yield rule(_INGRESS, nft.ethertype_is(_ETHERTYPE_IPV4), version4, first_fragment, nft.go_to(_IPV4))
    yield rule(_INGRESS, nft.ethertype_is(_ETHERTYPE_IPV6), version6, nft.go_to(_IPV6))

    kinds = [(_UDP, port.to_bytes(2, "big")) for port in claims.ports] + [(_GRE, _BRIDGED)]
    for protocol, kind in kinds:
        yield rule(
            _IPV4,
            nft.matches(network, 9, protocol),
            nft.matches(transport, _KIND_AT, kind),
            nft.go_to(_DESTINATION4),
        )
        # Behind the fixed header; what nf_tables takes for the transport may be behind extension headers.
        yield rule(
            _IPV6,
            nft.matches(network, 6, protocol),
            nft.matches(network, _IPV6_SIZE + _KIND_AT, kind),
            nft.go_to(_DESTINATION6),
        )

    yield rule(_DESTINATION4, nft.matches(network, 16, b"\xe0", b"\xf0"), nft.go_to(_CONSUMED))
    yield rule(_DESTINATION6, nft.matches(network, 24, b"\xff"), nft.go_to(_CONSUMED))
    for address in claims.addresses:
        chain, at = (_DESTINATION4, 16) if address.version == 4 else (_DESTINATION6, 24)
        yield rule(chain, nft.matches(network, at, address.packed), nft.go_to(_CONSUMED))


def _process_behind(address: int) -> int | None:
    """Find the process with a netlink address of nf_tables: among those whose descriptors we may list."""
    inodes = set()
    for line in Path("/proc/thread-self/net/netlink").read_text(encoding="utf-8").splitlines()[1:]:
        words = line.split()
        if int(words[1]) == nft.NETLINK_NETFILTER and int(words[2]) == address:
            inodes.add(f"socket:[{words[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(descriptor.readlink()) in inodes for descriptor in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # it ended meanwhile, or is none of our business
            continue
    return None
