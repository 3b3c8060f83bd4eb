"""Pages for people, read and filled in without a browser."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from urllib.parse import urlsplit

from wsgi_client import WSGIClient

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


class Page(HTMLParser):
    """What a page holds.

    Attributes
    ----------
    text : str
        Of the body, without the style.
    links, tags : list of str
    fields : dict of str to str
    """

    def __init__(self, answer):
        super().__init__()
        assert answer["content-type"] == "text/html; charset=utf-8"
        self.status = answer.status
        self.answer = answer
        self.links = []
        self.tags = []
        self.fields = {}
        self.forms = []
        self.cells = []
        self._pieces = []
        self._within = []
        self.feed(answer.body.decode())
        self.close()
        self.text = "".join(self._pieces)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self._within.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        elif tag == "form":
            self.forms.append(given)
        elif tag in ("input", "textarea") and "name" in given:
            self.fields[given["name"]] = given.get("value") or ""
        elif tag in ("th", "td"):
            self.cells.append("")
        if tag in ("input", "meta"):
            self._within.pop()

    def handle_endtag(self, tag):
        assert self._within.pop() == tag

    def handle_data(self, data):
        if "style" in self._within:
            return
        self._pieces.append(data)
        if self.cells and ("th" in self._within or "td" in self._within):
            self.cells[-1] += data


def multipart(fields, file=None, end="--\r\n", boundary=BOUNDARY):
    """Return the body of a form as a browser makes it; a file is (name, bytes)."""
    out = io.BytesIO()
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        out.write(f"{head}{value}\r\n".encode())
    if file is not None:
        name, data = file
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        kind = "Content-Type: application/octet-stream"
        out.write(f"--{boundary}\r\n{head}\r\n{kind}\r\n\r\n".encode() + data + b"\r\n")
    out.write(f"--{boundary}{end}".encode())
    return out.getvalue()


class PageClient(WSGIClient):
    """A browser in a few lines."""

    def page(self, target, headers=None, **environ):
        return Page(self.get(target, headers, **environ))

    def submit(self, target, fields, file=None, headers=None, **environ):
        """Send a form as it stands."""
        body = multipart(fields, file)
        return self.post(target, body, {"Content-Type": KIND, **(headers or {})}, **environ)

    def fill_in(self, target, fields=None, file=None, headers=None):
        """Fill in the form that changes something on a page, and send it."""
        page = self.page(target)
        assert page.status == 200, page.text
        (form,) = (form for form in page.forms if form["method"] == "post")
        assert form["enctype"] == "multipart/form-data"
        hidden = {name: page.fields[name] for name in ("token", "etag") if name in page.fields}
        url = urlsplit(form["action"])
        action = f"{url.path}?{url.query}" if url.query else url.path
        return self.submit(action, {**hidden, **(fields or {})}, file, headers)
