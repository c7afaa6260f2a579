"""The manager's TLS: its credentials, its files read again when they changed, and how many handshakes failed.

gRPC asks `_before` in front of every handshake, in a thread of its own.
"""

from __future__ import annotations

import logging
from typing import Any

from ctrl.rpc.tls import Certificate, TlsError, TlsFiles
from ctrl.rpc.transport import grpc

LOG = logging.getLogger("fastpath.rpc")


class Handshakes:
    """Of one server. TlsError if the files cannot be used at the start; later that is logged, once, and the
    last good ones stay."""

    def __init__(self, files: TlsFiles) -> None:
        self.n_arrived = 0
        """Handshakes that came to a stream; whoever serves streams counts them."""
        self._files = files
        self._stamp = files.stamp()
        self._first = files.read(of_manager=True)
        self._n_begun = self._n_due = self._n_failed = 0

    def credentials(self) -> Any:
        """Make what a port of the server needs."""
        return grpc.dynamic_ssl_server_credentials(_configuration(self._first), self._before, True)

    def take_failed(self) -> int:
        """Count those that failed since this was asked the last time, of the ones that had begun by then."""
        n_failed = max(self._n_failed, self._n_due - self.n_arrived)
        new, self._n_failed, self._n_due = n_failed - self._n_failed, n_failed, self._n_begun
        return new

    def _before(self) -> Any:
        self._n_begun += 1
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            read = self._files.read(of_manager=True)
        except (OSError, TlsError) as error:
            if self._stamp:
                LOG.warning("certificate kept: %s", error)
            self._stamp = ()
            return None
        LOG.info("certificate read: %s", read)
        return _configuration(read)


def _configuration(read: Certificate) -> Any:
    return grpc.ssl_server_certificate_configuration([(read.key, read.cert)], read.ca)
