"""Ranges: checks 24 and 25."""

from __future__ import annotations

from ._case import StoreCase

__all__ = ["Ranges"]

_BOUNDS = [None, -(10**30), -27, -26, -25, -2, -1, 0, 1, 2, 25, 26, 27, 100, 10**30]


class Ranges(StoreCase):
    """A range is a slice."""

    def test_ranges_are_slices(self) -> None:
        """Ranges: exactly data[start:end], half open, negative numbers included, clipped, never an
        error."""
        contents = {"none": b"", "one": b"x", "many": b"abcdefghijklmnopqrstuvwxyz"}
        store = self.fill({key: (data, {}) for key, data in contents.items()})
        for key, data in contents.items():
            value = store.get(key)
            for start in _BOUNDS:
                for end in _BOUNDS:
                    with value.range(start, end) as stream:
                        self.assertEqual(
                            stream.read(), data[start:end], f"range({start}, {end}) of {data!r}"
                        )
                    with store.get_data_range(key, start, end) as stream:
                        self.assertEqual(
                            stream.read(),
                            data[start:end],
                            f"get_data_range({start}, {end}) of {data!r}",
                        )
            with value.range() as whole, store.get_data_range(key, end=1) as first:
                self.assertEqual(
                    (whole.read(), first.read()), (data, data[:1]), "bounds may be left out"
                )

    def test_bounds_are_ints(self) -> None:
        """Ranges: TypeError for non-ints."""
        store = self.fill({"key": (b"data", {})})
        value = store.get("key")
        for bad in ("1", b"1", 1.0, [1], object()):
            for call in (value.range, lambda *bounds: store.get_data_range("key", *bounds)):
                self.refused(TypeError, call, bad)
                self.refused(TypeError, call, None, bad)
                self.refused(TypeError, call, 0, bad)

    def test_ranges_of_a_missing_key_are_a_key_error(self) -> None:
        """Missing key: KeyError with the key as given, from get_data_range."""
        store = self.fill({"key": (b"data", {})})
        self.missing("no", store.get_data_range, "no")
        self.missing("no", store.get_data_range, "no", 5, 2)

    def test_many_ranges_of_many_keys(self) -> None:
        """Ranges of many keys can be opened one after another and be open together."""
        contents = {f"key{n}": bytes(range(n, n + 100)) for n in range(10)}
        store = self.fill({key: (data, {}) for key, data in contents.items()})
        asked = ((key, start, start + 7) for key in contents for start in range(0, 100, 13))
        streams = [
            (key, start, end, store.get_data_range(key, start, end)) for key, start, end in asked
        ]
        for key, start, end, stream in reversed(streams):
            with stream:
                self.assertEqual(stream.read(3), contents[key][start : min(end, start + 3)])
                self.assertEqual(stream.read(), contents[key][start + 3 : end])

    def test_ranges_of_a_large_value(self) -> None:
        """Ranges: exactly data[start:end]."""
        data = bytes(range(256)) * 1300
        store = self.fill({"large": (data, {})})
        size = len(data)
        for start, end in [
            (0, 1),
            (65535, 65537),
            (131071, 196609),
            (-5, None),
            (size - 5, size + 5),
            (-size, -size + 3),
            (262143, 262145),
            (1000, -1000),
            (size, None),
            (5, 4),
        ]:
            with store.get_data_range("large", start, end) as stream:
                self.assertEqual(stream.read(), data[start:end], f"({start}, {end})")
            with store.get("large").range(start, end) as stream:
                self.assertEqual(b"".join(iter(lambda: stream.read(1000), b"")), data[start:end])
