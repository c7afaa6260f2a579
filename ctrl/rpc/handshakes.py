"""The manager's TLS: its credentials, its files read again when they changed, and which handshakes failed.

gRPC asks `_before` in front of every handshake, in a thread of its own, and tells no more. So what failed is
what had begun and came to no stream in due time; from whom, the kernel's table of connections tells at the
beginning.
"""

from __future__ import annotations

import logging
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from ctrl.rpc.tls import Certificate, TlsError, TlsFiles
from ctrl.rpc.transport import grpc

LOG = logging.getLogger("fastpath.rpc")
N_LOOKS = 16
"""How often, at most, the table is read from one `take_failed` to the next: it may be long."""
MAX_BEGUN = 1000


class Handshakes:
    """Of one server. TlsError if the files cannot be used at the start; later that is logged, once, and the
    last good ones stay."""

    def __init__(self, files: TlsFiles) -> None:
        self.port = 0
        """Where they come in, once that is known."""
        self._files = files
        self._first = files.read(of_manager=True)
        self._stamp = files.stamp()
        self._kept = ""  # why the last good files stay
        self._n_begun = self._n_due = self._n_failed = self._n_arrived = 0
        self._n_looks = N_LOOKS
        self._streams: set[str] = set()
        self._begun: set[str] = set()
        self._due: set[str] = set()

    def credentials(self) -> Any:
        """Make what a port of the server needs."""
        return grpc.dynamic_ssl_server_credentials(_configuration(self._first), self._before, True)

    def arrived(self, peer: str) -> None:
        """Note that a handshake of address:port came to a stream."""
        self._n_arrived += 1
        self._streams.add(peer)
        self._begun.discard(peer)
        self._due.discard(peer)

    def left(self, peer: str) -> None:
        """Note that the stream is over."""
        self._streams.discard(peer)

    def take_failed(self) -> tuple[int, list[str]]:
        """Count those that failed, of all that had begun when this was asked the last time, and name the
        addresses they came from as far as they were seen. To be asked less often than one may take."""
        n_failed = max(self._n_failed, self._n_due - self._n_arrived)
        n_new, self._n_failed, self._n_due = n_failed - self._n_failed, n_failed, self._n_begun
        hosts = sorted({peer.rpartition(":")[0] for peer in self._due})
        self._due, self._begun, self._n_looks = self._begun, set(), N_LOOKS
        return n_new, hosts if n_new else []

    def _before(self) -> Any:
        self._n_begun += 1
        if self._n_looks and len(self._begun) < MAX_BEGUN:
            self._n_looks -= 1
            self._begun |= connected(self.port) - self._streams
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            read = self._files.read(of_manager=True)
        except (OSError, TlsError) as error:
            why = str(error)
            if why != self._kept:
                self._kept = why
                LOG.warning("certificate kept: %s", why)
            return None
        self._kept = ""
        LOG.info("certificate read: %s", read)
        return _configuration(read)


def connected(port: int) -> set[str]:
    """List who is connected to a port of this host, as address:port (proc_net_tcp(5))."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, ours, theirs, state, *_ = line.split()
            if state == "01" and int(ours.rpartition(":")[2], 16) == port:
                address, _, their_port = theirs.partition(":")
                found.add(f"{_host(address)}:{int(their_port, 16)}")
    return found


def _host(words: str) -> str:
    """Read an address as the kernel prints it: words of 32 bits in the host's order."""
    data = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    if len(data) == 4:
        return str(IPv4Address(data))
    six = IPv6Address(data)
    return str(six.ipv4_mapped or f"[{six}]")


def _configuration(read: Certificate) -> Any:
    return grpc.ssl_server_certificate_configuration([(read.key, read.cert)], read.ca)
