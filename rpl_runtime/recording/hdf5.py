"""Numbers and names out of HDF5 files that strangers made.

HDF5 can lead a reader out of its file, by external links, external storage and virtual data sets, and a few bytes can
declare a data set of any size. All of these are refused.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.files import opened

if TYPE_CHECKING:
    import h5py

_MOST_FILE = 4 << 30  # [bytes]
_MOST_NUMBERS = 1 << 30  # [bytes] of one data set
_HEAP = b"GCOL\1\0\0\0"  # a global heap, and a free or used object in it: index, count of uses, size
_OBJECT = struct.Struct("<HH4xQ")
_PACKING = 1100  # numbers take at most so many times their place in the file: zlib packs 1032 to 1
_MOST_TEXTS, _MOST_CHARACTERS = 100_000, 64 << 20  # of one data set


@contextmanager
def opened_hdf5(path: Path, extra: str) -> Iterator["h5py.File"]:
    """An HDF5 file, open to be read with the functions below.

    Args:
        extra: the optional dependencies that h5py is part of.

    Raises:
        OSError: it cannot be read, or is not HDF5.
        ValueError: HDF5 would not come to an end with it.
        MissingExtra: h5py is not installed.
    """
    h5py = require("h5py", extra)
    with opened(path, _MOST_FILE) as raw:
        _check_heaps(raw)
        with h5py.File(raw, "r") as file:
            yield file


def numbers(group: "h5py.Group", name: str) -> np.ndarray:
    """A data set of numbers, whole.

    Raises:
        KeyError: there is none of that name.
        ValueError: it does not lie in this file, does not hold numbers, or is too large.
    """
    found = _data_set(group, name)
    # Numbers that were never written take no place, and any size.
    most = min(_MOST_NUMBERS, _PACKING * found.id.get_storage_size())
    if found.dtype.kind not in "biuf" or found.nbytes > most:
        raise ValueError(f"{name} holds {found.nbytes:,} bytes of {found.dtype}; must be {most:,} of numbers or less")
    return np.asarray(found[()])


def texts(group: "h5py.Group", name: str, most: int) -> list[str]:
    """A data set of at most so many texts of a fixed length: with others a spoiled file sends HDF5 round for ever.

    Raises:
        KeyError, ValueError: as `numbers`.
    """
    found = _data_set(group, name)
    most = min(most, _MOST_TEXTS)
    if found.ndim != 1 or len(found) > most or found.dtype.kind != "S" or found.nbytes > _MOST_CHARACTERS:
        raise ValueError(f"{name} is {found.dtype} {found.shape}; must be ({most},) or shorter, of short texts")
    return [_text(name, value) for value in found[()].tolist()]


def text_attribute(group: "h5py.Group", name: str) -> str | None:
    """An attribute that is one text; None if there is none of that name.

    Raises:
        ValueError: it is something else.
    """
    value = group.attrs.get(name)
    return None if value is None else _text(name, value)


def within(group: "h5py.Group", names: Sequence[str]) -> Any:
    """What lies at the end of a path of names, in this file.

    Raises:
        KeyError: nothing does.
        ValueError: a link leads out of the file.
    """
    h5py = require("h5py", "record")
    found: Any = group
    for name in names:
        if not isinstance(found, h5py.Group) or name not in found:
            raise KeyError(f"there is no {'/'.join(names)}")
        if not isinstance(found.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link; must be part of the file")
        found = found[name]
    return found


def _check_heaps(raw: BinaryIO) -> None:
    """Check the global heaps, which hold texts: an object without a size sends HDF5 1.14 round for ever."""
    if not os.fstat(raw.fileno()).st_size:
        return
    with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_HEAP)
        while at >= 0:
            end = at + int.from_bytes(content[at + 8 : at + 16], "little")
            place = at + 16
            while place + _OBJECT.size <= min(end, len(content)):
                index, _, size = _OBJECT.unpack_from(content, place)
                step = size if index == 0 else _OBJECT.size + (size + 7) // 8 * 8
                if step < _OBJECT.size:
                    raise ValueError("a heap of texts has an object without a size")
                place += step
            at = content.find(_HEAP, at + 1)


def _data_set(group: "h5py.Group", name: str) -> "h5py.Dataset":
    h5py = require("h5py", "record")
    found = within(group, name.split("/"))
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external or found.shape is None:
        raise ValueError(f"{name} is not a data set whose numbers lie in the file")
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}; must be text")
    return value
