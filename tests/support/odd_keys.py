"""Keys that mean something else to some program on the way to a store."""

# They can be names of files.
NAMES = [
    *("a b", " a ", "a.", "...", ".hidden", "A", "index.html", "index.json", "data/index.json"),
    *("%", "%2E", "%2e%2e", "a%2Fb", "%00", "?", "a?b=c", "#", "a#b", "+", "a+b", "&", "=", ";"),
    *("a;b", ":", "@", "!", "$", "'", '"', "(*)", "[a]", "{a}", "\\", "^", "`", "|", "~", "<a>"),
    *("\n", "a\r\nb", "\t", "\x01", "\x7f", "\x80", "\u2028", "\ufffe"),
    *("\u00e9", "e\u0301", "\u05d0/\u4e2d", "\U0001f600", "-", "*", "a/data", "metadata"),
]

# They cannot.
PATHS = [
    *(".", "..", "./a", "a/.", "a/..", "../x", "a/../a", "a/b/c/../../.."),
    *("/", "//", "/a", "a/", "a//b", "a///b", "//a/b", "http://host/a", "data"),
]

# Even after "/keys/" they lead above the root, or have what is in no path of most servers.
UNREACHABLE = ["../..", "\0", "a\0b"]

KEYS = [*NAMES, *PATHS, *UNREACHABLE]
