"""Certificates of the sessions: read, and found fit before anything relies on them.

1. Both sides show a certificate of the one CA. A node's name is a DNS name of its own, or its common name
   where it has none; a manager's certificate is valid for the address that nodes find it at, which no node's
   is: so a node cannot pass for a manager.
2. TLS 1.3 alone. gRPC's Python API has no minimum version, but its environment chooses the cipher suites of
   TLS 1.2 (those of 1.3 are fixed): one that needs a shared key, which no peer of ours has, leaves 1.2
   without any. The server looks at the version besides.
3. What is wrong with our own files is found here, by a handshake with ourselves, since gRPC would not say:
   a server with a bad key comes up and refuses everyone.
4. Files are read again where they are used again: a renewed certificate counts from the next session on.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CIPHERS_OF_TLS_1_2 = "ECDHE-PSK-AES128-CBC-SHA"
"""See 2."""


class TlsError(Exception):
    """A certificate, key or CA that cannot be used: one sentence with the file and the reason."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate (with its chain), key and CA are: PEM files."""

    cert: Path
    key: Path
    ca: Path

    def read(self, *, of_manager: bool) -> Certificate:
        """Read the files, as a manager or as a node would use them. Takes milliseconds; TlsError."""
        cert, key, ca = _read(self.cert, "cert"), _read(self.key, "key"), _read(self.ca, "ca")
        shown = _show(self, of_manager)
        return Certificate(cert, key, ca, str(self.cert), names(shown), str(shown.get("notAfter", "")))

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Tell whether the files are still the same: their times and inodes. OSError."""
        stats = (path.stat() for path in (self.cert, self.key, self.ca))
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the files hold, in PEM, and what the certificate says."""

    cert: bytes
    key: bytes
    ca: bytes
    path: str
    names: tuple[str, ...]
    until: str

    def __str__(self) -> str:
        return f"{self.path} ({', '.join(self.names) or 'no name'}; valid until {self.until})"


def names(shown: Mapping[str, Any]) -> tuple[str, ...]:
    """List whom a certificate (as `ssl` shows it) is for: its DNS names, else its common name."""
    dns = tuple(value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS")
    common = (value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName")
    return dns or tuple(common)


def grpc_environment() -> None:
    """Have gRPC speak TLS 1.3 alone. Before its first credentials are made."""
    os.environ["GRPC_SSL_CIPHER_SUITES"] = CIPHERS_OF_TLS_1_2


def _read(path: Path, what: str) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TlsError(f"tls.{what}: {path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in text:
        raise TlsError(f"tls.{what}: {path} is no PEM file; expected one with -----BEGIN ...-----")
    return text


def _show(files: TlsFiles, of_manager: bool) -> Mapping[str, Any]:
    """Shake hands with ourselves, and return what our certificate says."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if of_manager else ssl.PROTOCOL_TLS_CLIENT)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if of_manager else ssl.PROTOCOL_TLS_SERVER)
    _load(ours, files)
    if not of_manager:  # a server has to have a certificate: ours does, nobody looks at it
        _load(other, files)
    for context in (ours, other):
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    ours.verify_mode = ssl.CERT_NONE
    other.verify_mode = ssl.CERT_REQUIRED
    try:
        other.load_verify_locations(files.ca)
    except ssl.SSLError:
        raise TlsError(f"tls.ca: {files.ca} holds no certificate that can be read") from None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    us = ours.wrap_bio(there, back, server_side=of_manager)
    them = other.wrap_bio(back, there, server_side=not of_manager)
    waiting = {us, them}
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                raise TlsError(_unfit(files, error)) from None
            waiting.discard(side)
    return them.getpeercert() or {}


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    if b"ENCRYPTED" in files.key.read_bytes():
        raise TlsError(f"tls.key: {files.key} is encrypted; expected a key without a password")
    try:
        context.load_cert_chain(files.cert, files.key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"tls.key: {files.key} does not belong to the certificate {files.cert}") from None
        try:
            context.load_verify_locations(files.cert)
        except ssl.SSLError:
            raise TlsError(f"tls.cert: {files.cert} holds no certificate that can be read") from None
        raise TlsError(f"tls.key: {files.key} holds no key that can be read") from None


def _unfit(files: TlsFiles, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls.cert: {files.cert} does not stand up to {files.ca}: {error.verify_message}"
    return f"tls.cert: {files.cert} is of no use: {error.reason or error}"
