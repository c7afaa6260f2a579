"""Where a MAC is, and the table that says so."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fastpath.model import Encap, IPAddress

Row = tuple[int, bytes, int]
"""VNI, MAC and station of an entry."""


class Vtep(NamedTuple):
    """Another tunnel end, and what it speaks."""

    address: IPAddress
    encap: Encap


Place = int | Vtep
"""Where a MAC is: at a VM port, by its place, or behind a VTEP."""


class Table(Protocol):
    """The table of the data path (`fastpath.Forwarder.macs`). The station of a VM port is its place."""

    def put(self, vni: int, mac: bytes, station: int, static: bool = False) -> bool:
        """Have an entry, another one of the MAC goes; False: there is no room."""

    def remove(self, vni: int, mac: bytes) -> bool:
        """Forget an entry; False: there was none."""

    def find(self, vni: int, mac: bytes) -> tuple[int, int, bool] | None:
        """Station, when it was seen last, whether it is static; None: there is none."""

    def expire(self, before: int) -> list[Row]:
        """Forget the entries that were not seen since, static ones excepted."""

    def clear_station(self, station: int) -> list[tuple[int, bytes]]:
        """Forget the entries of a station, static ones excepted; VNI and MAC of each."""

    @property
    def n_buckets(self) -> int:
        """How many parts it has."""

    def rows(self, first: int = 0, n: int | None = None) -> list[tuple[int, bytes, int, int, bool]]:
        """All entries, or those of `n` parts from `first` on: VNI, MAC, station, seen, static."""

    def __len__(self) -> int: ...


class Stations(Protocol):
    """Who gives VTEPs their stations."""

    def open(self, vtep: Vtep, free: int | None) -> int:
        """The station of a VTEP from now on: `free`, one that nobody has any more, or a new one."""
