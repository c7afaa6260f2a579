"""Where a role meets its NVEs: a port, and who we are there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attachment:
    """A port that faces NVEs, and who we are there. `address`: the IPv4 source of our queries, 0 for none;
    those of MLD come from the link-local address that belongs to the MAC."""

    mac: bytes
    address: int = 0
    mtu: int = 0
    is_up: bool = True

    @property
    def link_local(self) -> int:
        """The modified EUI-64 address (RFC 4291 appendix A)."""
        mac = self.mac
        return int.from_bytes(
            bytes((0xFE, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:])), "big"
        )

    def source(self, bits: int) -> int:
        """The address that we speak from, in the family whose addresses have so many bits."""
        return self.address if bits == 32 else self.link_local
