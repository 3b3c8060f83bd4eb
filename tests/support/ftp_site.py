"""A small FTP server in this process (RFC 959, passive mode), which can be told to behave badly."""

from __future__ import annotations

import contextlib
import posixpath
import socket
import socketserver
import threading


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.connections.append(self.client_address)
        self.folder = "/"
        self.begin = 0
        self.user = ""
        self.is_in = False
        self.data = None
        self.say("220 ready")
        for line in self.rfile:
            text = line.decode().rstrip("\r\n")
            self.server.seen.append(text)
            name, _, argument = text.partition(" ")
            if name == "QUIT":
                self.say("221 bye")
                return
            if not self.is_in and name not in ("USER", "PASS"):
                self.say("530 log in first")
                continue
            method = getattr(self, f"do_{name}", None)
            if method is None or name in self.server.unknown:
                self.say("502 not known")
            else:
                method(argument)

    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def find(self, name):
        return self.server.files.get(posixpath.join(self.folder, name))

    def do_USER(self, name):
        self.user = name
        self.say("331 password")

    def do_PASS(self, password):
        self.is_in = self.server.users.get(self.user, None) in (password, "")
        self.say("230 in" if self.is_in else "530 wrong")

    def do_TYPE(self, kind):
        self.say("200 as you like" if kind == "I" else "504 no")

    def do_CWD(self, name):
        folder = posixpath.join(self.folder, name)
        if any(path.startswith(folder.rstrip("/") + "/") for path in self.server.files):
            self.folder = folder
            self.say("250 there")
        else:
            self.say("550 no such folder")

    def do_SIZE(self, name):
        data = self.find(name)
        self.say("550 no such file" if data is None else f"213 {len(data)}")

    def do_MDTM(self, name):
        self.say("550 no such file" if self.find(name) is None else "213 20231114221320.500")

    def do_REST(self, position):
        self.begin = int(position)
        self.say("350 from there")

    def do_PASV(self, _):
        self.data = socket.create_server(("127.0.0.1", 0))
        self.data.settimeout(20)
        port = self.data.getsockname()[1]
        self.say(f"227 entering (127,0,0,1,{port >> 8},{port & 255})")

    def do_EPSV(self, _):
        self.say("502 no")

    def do_LIST(self, name):
        raise AssertionError("nobody wants a list")

    def do_RETR(self, name):
        found = self.find(name)
        begin, self.begin = self.begin, 0
        with self.data:
            if found is None:
                self.say("550 no such file")
                return
            # Without the number of bytes, which some servers say here.
            self.say("150 here it comes")
            connection, _ = self.data.accept()
            with connection, contextlib.suppress(ConnectionError):
                cut = self.server.cut
                connection.sendall(found[begin : len(found) if cut is None else cut])
        self.say("226 done" if self.server.cut is None else "426 cut off")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # Clients may go away at any time.
        pass


@contextlib.contextmanager
def serving_ftp(files, users=None):
    """Serve bytes by path; give the server, which has a `url`.

    Its attributes can be set: `cut`, how many bytes of a file are sent before the connection breaks;
    `unknown`, commands that it does not know. `seen` has the commands.
    """
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files = files
        server.users = {"anonymous": ""} if users is None else users
        server.seen = []
        server.connections = []
        server.cut = None
        server.unknown = set()
        server.url = f"ftp://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(20)
