"""Certificates for tests, made by openssl(1): a CA, and what it or another signs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ctrl.rpc.tls import TlsFiles

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl missing")
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A CA, with its files in one directory."""

    def __init__(self, where: Path, name: str = "ca") -> None:
        self.where = where
        self.name = name
        self.ca = where / f"{name}.pem"
        made = (*EC, "-keyout", f"{name}.key", "-out", f"{name}.pem")
        self._openssl("req", "-x509", *made, "-days", "30", "-subj", f"/CN={name}")

    def sign(self, file: str, *, cn: str = "", names: str = "", days: int = 30) -> TlsFiles:
        """Make FILE.pem, FILE.key; `names` as subjectAltName takes them: DNS:tor1,IP:127.0.0.1."""
        self._openssl(
            "req", "-new", *EC, "-keyout", f"{file}.key", "-out", f"{file}.csr", "-subj", f"/CN={cn}"
        )
        (self.where / f"{file}.ext").write_text(f"subjectAltName={names}\n" if names else "")
        signed = ("-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key", "-CAcreateserial")
        out = ("-in", f"{file}.csr", "-out", f"{file}.pem", "-extfile", f"{file}.ext")
        self._openssl("x509", "-req", *out, *signed, "-days", str(days))
        return TlsFiles(self.where / f"{file}.pem", self.where / f"{file}.key", self.ca)

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.where, check=True, capture_output=True)
