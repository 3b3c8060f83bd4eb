"""``serve``."""

from __future__ import annotations

from contextlib import contextmanager

from . import FAILED, WrongUse, complain
from .stores import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Iterator

    from encore.storage.abstract_store import AbstractReadOnlyStore

__all__ = ["add_arguments", "serve"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``, but for the store and its options."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="the address to listen at: this computer alone; 0.0.0.0 is all of its addresses",
    )
    add("--port", type=int, default=8080, help="0 takes one that is free; 8080 otherwise")
    add("--readonly", action="store_true", help="let nobody change anything")
    add("--static", action="store_true", help="only index.json and data/, to be read")
    add("--browse", action="store_true", help="show pages to people with a browser")
    add("--users", metavar="FILE", help="who may log in, as the command user writes it")
    add("--certificate", metavar="FILE", help="for HTTPS: the chain of certificates, in PEM")
    add("--key", metavar="FILE", help="the key of the certificate, unless it is in its file")
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        help="answer requests for this name; may be repeated",
    )
    add("--max-connections", metavar="N", type=int, default=100, help="at a time; 100")
    add("--timeout", metavar="S", type=float, default=30.0, help="seconds a client may take; 30")
    add("--quiet", action="store_true", help="log no requests, only what is wrong")


def serve(arguments: argparse.Namespace) -> int:
    from encore.storage.server import UsersFile
    from encore.storage.server import serve as serve_store

    if arguments.static and arguments.browse:
        raise WrongUse("--browse does not go with --static, which serves files alone")
    context = _ssl_context(arguments)
    authenticate = UsersFile(arguments.users) if arguments.users is not None else None
    with opened(arguments.store, arguments.option) as store, _logging(arguments.quiet):

        def ready(url: str) -> None:
            _warn(arguments, store)
            everywhere = ", and at all addresses of this computer"
            print(f"Serving at {url}{everywhere if _is_any(arguments.host) else ''}", flush=True)

        try:
            cut = serve_store(
                store,
                arguments.host,
                arguments.port,
                authenticate=authenticate,
                readonly=arguments.readonly,
                static=arguments.static,
                browse=arguments.browse,
                hosts=arguments.allow_host,
                max_connections=arguments.max_connections,
                timeout=arguments.timeout,
                ssl_context=context,
                ready=ready,
            )
        except ValueError as error:
            raise WrongUse(error) from error
    if cut:
        complain(f"requests that were cut: {cut}")
    return FAILED if cut else 0


def _ssl_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    certificate, key = arguments.certificate, arguments.key
    if certificate is None:
        if key is not None:
            raise WrongUse("--key goes with --certificate")
        return None
    import ssl

    from encore.storage.errors import StoreError

    for path in filter(None, (certificate, key)):
        # With its name in the message, which that of ssl lacks.
        with open(path, "rb"):
            pass
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        files = repr(certificate) if key is None else f"{certificate!r} and {key!r}"
        raise StoreError(f"no certificate with its key in {files}: {error}") from error
    return context


def _is_any(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return not host or ip_address(host).is_unspecified
    except ValueError:
        return False


def _warn(arguments: argparse.Namespace, store: AbstractReadOnlyStore) -> None:
    from encore.storage._http_server_address import is_loopback

    if is_loopback(arguments.host):
        return
    is_readonly = arguments.readonly or arguments.static or store.info()["readonly"]
    if arguments.users is None and not is_readonly:
        complain("warning: anyone who reaches this server can write; see --users, --readonly")
    if arguments.users is not None and arguments.certificate is None:
        complain("warning: passwords can be read on the way; see --certificate")


@contextmanager
def _logging(quiet: bool) -> Iterator[None]:
    """Send what the package logs to standard error, requests too unless they are not wanted."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package, server = logging.getLogger("encore"), logging.getLogger("encore.storage.server")
    level = server.level
    package.addHandler(handler)
    server.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        server.setLevel(level)
        package.removeHandler(handler)
