"""A CA of a test's own, and certificates by it, made with `openssl`."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A CA in a folder, and what it signed there."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, name
        self.certificate = folder / f"{name}.pem"
        _openssl("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={name}",
                 "-keyout", self._key(name), "-out", self.certificate)  # fmt: skip

    def _key(self, name: str) -> Path:
        return self._folder / f"{name}.key"

    def sign(self, name: str, *alternatives: str) -> None:
        """Make a key and a certificate of a name, and of alternatives like DNS:tor1 or IP:10.0.0.1."""
        request, more = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        _openssl(
            "req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", self._key(name), "-out", request
        )
        more.write_text(f"subjectAltName={','.join(alternatives or (f'DNS:{name}',))}\n")
        _openssl("x509", "-req", "-in", request, "-days", "2", "-extfile", more, "-CAcreateserial",
                 "-CA", self.certificate, "-CAkey", self._key(self._name),
                 "-out", self._folder / f"{name}.pem")  # fmt: skip

    def table(self, name: str) -> str:
        """The lines of [tls] of who shows the certificate of a name."""
        files = {"cert": f"{name}.pem", "key": f"{name}.key", "ca": self.certificate.name}
        return "".join(f'{key} = "{self._folder / file}"\n' for key, file in files.items())


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(("openssl", *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {words[0]}: {done.stderr}"
