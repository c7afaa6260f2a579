"""What a role and its managers speak by on this box: gRPC, certificates, probes. Imported late: it takes a
tenth of a second, in which a box that starts anew forwards already."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from ctrl.config import Config
from ctrl.config.schema_roles import NodeTable, ReplicatorTable, TlsTable
from ctrl.daemon.instructing import Instructing
from ctrl.daemon.probing import Prober, Responder
from ctrl.rpc.client import Client
from ctrl.rpc.tls import TlsFiles

LOG = logging.getLogger("fastpath.fabric")


def client_of(side: Instructing, table: NodeTable, config: Config, folder: Path) -> Client:
    """The session of a role with its managers; `folder`: where the paths of [tls] begin."""
    tls = tls_files(config.tls_of(table), folder)
    return Client([str(address) for address in table.manager], side, tls)


def tls_files(table: TlsTable | None, folder: Path) -> TlsFiles | None:
    """Where the files of [tls] are."""
    if table is None:
        return None
    return TlsFiles(folder / table.cert, folder / table.key, folder / table.ca)


def probes_of(stack: ExitStack, side: Instructing, table: NodeTable) -> Prober | Responder | None:
    """What probes the points of a device, or answers probes at a point, while the context lasts.

    None, with a warning, where the kernel does not own the address: then points count as up.
    """
    if not table.probe_interval_ms:
        return None
    interval_s = table.probe_interval_ms / 1000
    try:
        probes: Prober | Responder
        if isinstance(table, ReplicatorTable):  # it is probed where it is sent to
            own = (table.replicate or table.address).packed
            is_allowed = side.instructed.senders().__contains__
            probes = Responder(own, is_allowed, interval_s, table.probe_multiplier, table.max_probers)
        else:
            own = table.address.packed
            probes = Prober(own, interval_s, table.probe_multiplier, side.probed)
    except OSError as error:
        LOG.warning("points are not probed, and count as up why=%s", error)
        return None
    stack.callback(probes.close)
    return probes
