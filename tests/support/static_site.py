"""A server of plain files in this process, which can be told to behave badly."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import http.server
import json
import threading
from urllib.parse import unquote_to_bytes

PATIENCE = 20.0

#: data_path and query_path of a store on a site.
PATHS = ("data/", "index.json")


def wait(event):
    assert event.wait(PATIENCE), "waited in vain"


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def join(*threads):
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def polling_threads():
    return [thread for thread in threading.enumerate() if thread.name == "encore-_poll"]


class Site:
    """What the server has.

    Attributes
    ----------
    index : dict
        Metadata by key.
    data : dict
        Bytes by key.
    modified : float
        Of all of it.
    seen : list of (method, path, headers)
        What was asked.
    """

    def __init__(self, contents=None):
        self.index = {}
        self.data = {}
        self.modified = 1_700_000_000.0
        self.seen = []
        self.index_bytes = None
        for key, (data, metadata) in (contents or {}).items():
            self.set(key, data, metadata)

    def set(self, key, data, metadata):
        self.data[key] = data
        self.index[key] = metadata

    def find(self, path):
        """Return the bytes at a path, None if there are none."""
        path = unquote_to_bytes(path).decode()
        if path == "/index.json":
            if self.index_bytes is not None:
                return self.index_bytes
            return json.dumps(self.index).encode()
        return self.data.get(path.removeprefix("/data/")) if path.startswith("/data/") else None


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site
    options: dict
    # With Nagle's algorithm a second write waits for an acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        site, options = self.site, self.options
        site.seen.append((self.command, self.path, dict(self.headers)))
        hook = options.get("hook")
        if hook is not None and hook(self):
            return
        if not with_body and not options.get("head", True):
            self.send_error(405)
            return
        body = site.find(self.path)
        if body is None:
            self.send_error(404)
            return
        headers = {}
        if options.get("dates", True):
            headers["Last-Modified"] = email.utils.formatdate(site.modified, usegmt=True)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if options.get("etags", True):
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag:
                self.reply(304, headers, b"", False)
                return
        elif options.get("dates", True) and "If-Modified-Since" in self.headers:
            since = email.utils.parsedate_to_datetime(self.headers["If-Modified-Since"])
            if int(site.modified) <= since.timestamp():
                self.reply(304, headers, b"", False)
                return
        if options.get("gzip") and "gzip" in self.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        status, wanted = 200, self.headers.get("Range")
        if wanted is not None and options.get("ranges", True):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size = len(body)
            begin = int(first) if first else max(0, size - int(last))
            end = min(int(last), size - 1) if first and last else size - 1
            if begin > end:
                headers["Content-Range"] = f"bytes */{size}"
                self.reply(416, headers, b"", with_body)
                return
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
            body = body[begin : end + 1]
        self.reply(status, headers, body, with_body)

    def reply(self, status, headers, body, with_body):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        lengths = self.options.get("lengths", True)
        if status != 304 and (lengths is True or (lengths == "head" and not with_body)):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, site, options):
        kind = type("SiteHandler", (Handler,), {"site": site, "options": options})
        if options.get("keep_alive", True):
            kind.protocol_version = "HTTP/1.1"
        self.sockets = set()
        super().__init__(("127.0.0.1", 0), kind)

    def get_request(self):
        found = super().get_request()
        self.sockets.add(found[0])
        return found

    def shutdown_request(self, request):
        self.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        # Clients may go away at any time.
        pass


@contextlib.contextmanager
def serving(site, **options):
    """Serve a site, give its URL.

    Parameters
    ----------
    site : Site
    keep_alive, ranges, etags, dates, head, lengths, gzip : bool
        What the server can do. ``lengths='head'``: only for HEAD.
    hook : callable, optional
        Called with the handler before each answer; if it returns a true value, that was the answer.
    """
    server = Server(site, options)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
        for connection in list(server.sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(2)
