"""The files of [tls]: what is wrong with them is said in a sentence that names the file."""

import pytest

from ctrl.rpc.tls import TlsError, TlsFiles, names
from tests.certificates import Authority, needs_openssl

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    where = tmp_path_factory.mktemp("tls")
    ca = Authority(where)
    ca.sign("tor1", cn="first rack", names="DNS:tor1,DNS:tor1.example,IP:10.0.0.1")
    ca.sign("tor2", cn="tor2")
    ca.sign("expired", cn="tor1", days=-1)
    Authority(where, "other").sign("foreign", cn="tor1")
    (where / "text.pem").write_text("hello")
    (where / "empty.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    key = (where / "tor1.key").read_text()
    (where / "locked.key").write_text(key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"))
    return where


def _files(where, cert, key, ca="ca.pem"):
    return TlsFiles(where / cert, where / key, where / ca)


@pytest.mark.parametrize("of_manager", [True, False])
def test_sound_files_are_read_with_the_names_they_are_for(made, of_manager):
    read = _files(made, "tor1.pem", "tor1.key").read(of_manager=of_manager)
    assert read.names == ("tor1", "tor1.example")
    assert read.key == (made / "tor1.key").read_bytes()
    assert str(read).startswith(f"{made / 'tor1.pem'} (tor1, tor1.example; valid until ")
    assert _files(made, "tor2.pem", "tor2.key").read(of_manager=of_manager).names == ("tor2",)


def test_a_certificate_without_a_name_is_for_nobody():
    assert (
        names({"subject": ((("organizationName", "x"),),), "subjectAltName": (("IP Address", "::1"),)}) == ()
    )


@pytest.mark.parametrize("of_manager", [True, False])
@pytest.mark.parametrize(
    ("cert", "key", "ca", "why"),
    [
        ("none.pem", "tor1.key", "ca.pem", "tls.cert: {0} cannot be read: No such file or directory"),
        ("tor1.pem", "none.key", "ca.pem", "tls.key: {1} cannot be read: No such file or directory"),
        ("tor1.pem", "tor1.key", "none.pem", "tls.ca: {2} cannot be read: No such file or directory"),
        (".", "tor1.key", "ca.pem", "tls.cert: {0} cannot be read: Is a directory"),
        (
            "text.pem",
            "tor1.key",
            "ca.pem",
            "tls.cert: {0} is no PEM file; expected one with -----BEGIN ...-----",
        ),
        ("empty.pem", "tor1.key", "ca.pem", "tls.cert: {0} holds no certificate that can be read"),
        ("tor1.key", "tor1.key", "ca.pem", "tls.cert: {0} holds no certificate that can be read"),
        ("tor1.pem", "tor1.pem", "ca.pem", "tls.key: {1} holds no key that can be read"),
        ("tor1.pem", "tor2.key", "ca.pem", "tls.key: {1} does not belong to the certificate {0}"),
        ("tor1.pem", "locked.key", "ca.pem", "tls.key: {1} is encrypted; expected a key without a password"),
        ("tor1.pem", "tor1.key", "empty.pem", "tls.ca: {2} holds no certificate that can be read"),
        ("tor1.pem", "tor1.key", "tor1.key", "tls.ca: {2} holds no certificate that can be read"),
        (
            "expired.pem",
            "expired.key",
            "ca.pem",
            "tls.cert: {0} does not stand up to {2}: certificate has expired",
        ),
        (
            "foreign.pem",
            "foreign.key",
            "ca.pem",
            "tls.cert: {0} does not stand up to {2}: unable to get local issuer certificate",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(made, of_manager, cert, key, ca, why):
    with pytest.raises(TlsError) as caught:
        _files(made, cert, key, ca).read(of_manager=of_manager)
    assert str(caught.value).startswith(why.format(made / cert, made / key, made / ca))
