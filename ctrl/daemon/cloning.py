"""The private devices by which the kernel makes copies: one a worker, which all of its ports share.

They are made at the start alone, for they take a capability that the daemon then gives up. Ports that open
later stand on the same ones.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from ctrl.netlink.clones import attach_clones
from fastpath import bpf
from fastpath.clones import Clones
from fastpath.ports import ClonePort, PacketPort, XdpPort

LOG = logging.getLogger("fastpath.ports")


class Cloning:
    """The devices of all workers, or `why` there are none."""

    def __init__(self) -> None:
        self.why = "clones are turned off"
        self._devices: list[Clones] = []

    def open(self, n_workers: int) -> None:
        """Make a device for each worker; where the system refuses, there are no clones."""
        self.why = ""
        try:
            for _ in range(n_workers):
                self._devices.append(Clones(attach_clones))
        except OSError as error:
            self.close()
            said = str(error.strerror).splitlines()  # of a program, with the last words of the verifier
            self.why = f"no clones: {said[0]}"
            if bpf.available() is None:  # else `ctrl.privileges` says so
                LOG.info("copies are not cloned why=%s", " | ".join(said))

    @property
    def counts(self) -> dict[int, tuple[int, int]]:
        """Of each worker: what it handed over to be cloned, and the clones that were made of it."""
        return {worker: (device.sends, device.cloned) for worker, device in enumerate(self._devices)}

    def over(self, port: PacketPort | XdpPort, worker: int, device: str) -> ClonePort | None:
        """Stand on a port, if there are clones."""
        with suppress(OSError):  # the interface has gone: who opened the port will see it
            if worker < len(self._devices):
                singles = port.transmits != "xdp zero copy"
                return ClonePort(port, self._devices[worker], device, singles=singles)
        return None

    def close(self) -> None:
        """Take them away, behind all ports that stand on them."""
        for device in self._devices:
            device.close()
        self._devices.clear()
