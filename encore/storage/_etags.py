"""Etags of values as entity tags of HTTP (RFC 9110, section 8.8.3): quoted, percent-encoded where they have to be."""

from __future__ import annotations

__all__ = ["format_etag", "parse_etag"]

# What stands in an entity tag, but for what is not in ASCII, and the percent sign, by which the rest is
# written.
_PLAIN = frozenset(chr(code) for code in range(0x21, 0x7F)) - {'"', "%"}


def format_etag(etag: str) -> str:
    """Return the entity tag that stands for the etag of a value."""
    if _PLAIN.issuperset(etag):
        return f'"{etag}"'
    from urllib.parse import quote

    # An etag of a stranger's store may be any text.
    return f'"{quote(etag, "".join(_PLAIN), errors="surrogatepass")}"'


def parse_etag(text: str | None) -> str | None:
    """Return the etag of a value that an entity tag stands for; None if there is none, or a weak one."""
    if text is None:
        return None
    text = text.strip()
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return None
    etag = text[1:-1]
    if "%" not in etag:
        return etag
    from urllib.parse import unquote

    try:
        return unquote(etag, errors="surrogatepass")
    except UnicodeDecodeError:
        # It is none of ours.
        return None
