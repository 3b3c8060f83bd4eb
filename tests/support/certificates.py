"""Certificates that tests make with the command openssl, skipped where that is missing."""

from __future__ import annotations

import ssl
import subprocess

from peers import program

# What Python 3.13 and later insist on is in there too (RFC 5280).
_CONFIG = """
[ca]
default_ca = authority
[authority]
database = {folder}/{name}.index
rand_serial = yes
new_certs_dir = {folder}
certificate = {folder}/{name}.pem
private_key = {folder}/{name}.key
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
[req]
distinguished_name = asked
prompt = no
x509_extensions = root
[asked]
CN = {name}
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""

_LATER = "20491231235959Z"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]


class Authority:
    """Who issues certificates.

    Parameters
    ----------
    folder : Path
    name : str

    Attributes
    ----------
    path : Path
        Its own certificate.
    """

    def __init__(self, folder, name="authority"):
        self.openssl = program("openssl")
        self.folder = folder
        self.name = name
        self.path = self._self_signed(name, "root")
        (folder / f"{name}.index").write_text("")

    def _run(self, *arguments):
        subprocess.run(
            [self.openssl, *map(str, arguments)], check=True, capture_output=True, timeout=60
        )

    def _configured(self, name, names="DNS:localhost"):
        path = self.folder / f"{name}.conf"
        path.write_text(_CONFIG.format(folder=self.folder, name=name, names=names))
        return path

    def _self_signed(self, name, extensions):
        config = self._configured(name)
        path, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self._run(
            *("req", "-x509", "-config", config, "-extensions", extensions, "-days", 3000),
            *(*_NEW_KEY, "-keyout", key, "-out", path),
        )
        return path

    def self_signed(self, name="self"):
        """Return the context of a server whose certificate nobody but itself has signed."""
        self._self_signed(name, "server")
        return self._context(name)

    def issue(
        self, name, names="DNS:localhost, IP:127.0.0.1", ends=_LATER, starts="20200101000000Z"
    ):
        """Return the context of a server that has a certificate for these names, from then to then."""
        config = self._configured(self.name, names)
        request = self.folder / f"{name}.csr"
        self._run(
            *("req", "-new", "-config", config, "-subj", f"/CN={name}", *_NEW_KEY),
            *("-keyout", self.folder / f"{name}.key", "-out", request),
        )
        self._run(
            *("ca", "-batch", "-notext", "-config", config, "-extensions", "server"),
            *("-startdate", starts, "-enddate", ends),
            *("-in", request, "-out", self.folder / f"{name}.pem"),
        )
        return self._context(name)

    def _context(self, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def trusting(self):
        """Return the context of a client that trusts this authority, and nobody else."""
        return ssl.create_default_context(cafile=str(self.path))


class Certificate:
    """A certificate of an authority of its own.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    names : str
        As openssl writes them: ``DNS:localhost,IP:127.0.0.1``.
    start, end : str
        As ``20200101000000Z``.
    """

    def __init__(self, folder, names, start="20200101000000Z", end=_LATER):
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority(folder)
        self._context = self._authority.issue("server", names, end, start)

    def for_server(self):
        """Return the context of a server that has it."""
        return self._context

    def for_client(self):
        """Return the context of a client that trusts it."""
        return self._authority.trusting()
