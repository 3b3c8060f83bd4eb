"""A server of the kind that programs of EnCore 0.8 talk to, as a WSGI application."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl


class ClassicServer:
    """Keys under ``/keys``, a query under ``/query``; nothing else, and no condition is looked at.

    Parameters
    ----------
    statuses : {'right', 'plain', 'empty'}
        What a write is answered with: 201 for a new key and 200 else, always 200, or always 204.
    metadata_makes_keys : bool
        Whether metadata can be written before there are data.
    has_etags : bool
        Whether data have an ETag; otherwise they have a Last-Modified that never changes.
    """

    def __init__(self, *, statuses="right", metadata_makes_keys=True, has_etags=True):
        self.statuses = statuses
        self.metadata_makes_keys = metadata_makes_keys
        self.has_etags = has_etags
        #: Key -> [data, metadata, permissions]; data are None where there are only metadata.
        self.content = {}
        #: What was asked for: method and target.
        self.log = []
        #: Answers to come instead of those that are right: (method, part) -> list of statuses.
        self.failures = {}

    def __call__(self, environ, start_response):
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"].encode("latin-1").decode()
        query = environ["QUERY_STRING"]
        self.log.append(f"{method} {path}" + (f"?{query}" if query else ""))
        status, headers, body = self._answer(method, path, query, environ)
        headers = [("Content-Length", str(len(body))), *headers]
        start_response(f"{status} -", headers)
        return [] if method == "HEAD" or status == 204 else [body]

    def _answer(self, method, path, query, environ):
        body = self._body(environ) if method in ("PUT", "POST") else b""
        if path == "/query":
            return self._query(query) if method == "GET" else (405, [], b"")
        key = path.removeprefix("/keys/")
        part = None
        if method != "DELETE":
            key, _, part = key.rpartition("/")
        planned = self.failures.get((method, part))
        if planned:
            return planned.pop(0), [], b""
        respond = getattr(self, f"_{method.lower()}_{part or 'key'}", None)
        return (405, [], b"") if respond is None else respond(key, body)

    @staticmethod
    def _body(environ):
        if environ.get("CONTENT_LENGTH"):
            length = int(environ["CONTENT_LENGTH"])
            body = b""
            while len(body) < length:
                piece = environ["wsgi.input"].read(length - len(body))
                if not piece:
                    raise EOFError
                body += piece
            return body
        body = b""
        while piece := environ["wsgi.input"].read(1 << 16):
            body += piece
        return body

    def _query(self, query):
        wanted = {name: json.loads(text) for name, text in parse_qsl(query)}
        found = [
            key
            for key, (_, metadata, _) in self.content.items()
            if all(name in metadata and metadata[name] == wanted[name] for name in wanted)
        ]
        return 200, [("Content-Type", "text/plain")], "\n".join(found).encode()

    def _written(self, is_new):
        if self.statuses == "right":
            return (201 if is_new else 200), [], b""
        return (200 if self.statuses == "plain" else 204), [], b""

    def _head_data(self, key, body):
        return self._get_data(key, body)

    def _get_data(self, key, body):
        data = self.content.get(key, [None])[0]
        if data is None:
            return 404, [], b""
        if self.has_etags:
            return 200, [("ETag", f'"{hash(data):x}"')], data
        return 200, [("Last-Modified", "Sat, 01 Jan 2022 00:00:00 GMT")], data

    def _put_data(self, key, body):
        is_new = key not in self.content
        self.content.setdefault(key, [None, {}, {"owned": ["me"]}])[0] = body
        return self._written(is_new)

    def _get_metadata(self, key, body):
        if key not in self.content:
            return 404, [], b""
        return 200, [], json.dumps(self.content[key][1]).encode()

    def _put_metadata(self, key, body):
        is_new = key not in self.content
        if is_new and not self.metadata_makes_keys:
            return 404, [], b""
        self.content.setdefault(key, [b"", {}, {"owned": ["me"]}])[1] = json.loads(body)
        return self._written(is_new)

    def _post_metadata(self, key, body):
        if key not in self.content:
            return 404, [], b""
        self.content[key][1].update(json.loads(body))
        return self._written(False)

    def _get_auth(self, key, body):
        if key not in self.content:
            return 404, [], b""
        if "me" not in self.content[key][2]["owned"]:
            return 403, [], b""
        return 200, [], json.dumps(self.content[key][2]).encode()

    def _put_auth(self, key, body):
        if key not in self.content:
            return 404, [], b""
        self.content[key][2] = json.loads(body)
        return self._written(False)

    def _post_auth(self, key, body):
        if key not in self.content:
            return 404, [], b""
        for name, tags in json.loads(body).items():
            known = self.content[key][2].setdefault(name, [])
            known += [tag for tag in tags if tag not in known]
        return self._written(False)

    def _delete_key(self, key, body):
        if self.content.pop(key, None) is None:
            return 404, [], b""
        return self._written(False)
