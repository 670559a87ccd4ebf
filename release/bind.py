"""Binds a library's calls to the oldest versions that glibc has of them, so that it loads there.

glibc gave some functions new versions when they moved from libdl and libpthread into libc (2.34),
and `exp` one that leaves errno alone (2.29). It still has the old ones, which do the same; a linker
takes the newest.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.hash import ELFHashTable

FIRST = {"EM_X86_64": "GLIBC_2.2.5", "EM_AARCH64": "GLIBC_2.17"}  # glibc's first on a machine
HOMES = ("libc.so.6", "libm.so.6")
ANY = 1  # index of "whichever version the library has"


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.removeprefix("GLIBC_").split(".")))


def _symbols(elf: ELFFile) -> dict[int, list[tuple[str, int]]]:
    """Index of a version -> the symbols that want it: their names, and the place that says so."""
    versions, wanted = elf.get_section_by_name(".gnu.version"), {}
    assert isinstance(versions, GNUVerSymSection)
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
            place = versions["sh_offset"] + 2 * index
            wanted.setdefault(versions.get_symbol(index)["ndx"], []).append((symbol.name, place))
    return wanted


def newer(elf: ELFFile, newest: str) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Places of the versions of glibc above `newest` that a library needs, and what needs them."""
    needs, symbols = elf.get_section_by_name(".gnu.version_r"), _symbols(elf)
    assert isinstance(needs, GNUVerNeedSection)
    place = needs["sh_offset"]
    for need, entries in needs.iter_versions():
        at = place + need["vn_aux"]
        for entry in entries:
            if entry.name.startswith("GLIBC_") and _number(entry.name) > _number(newest):
                yield at, symbols.get(entry["vna_other"], [])
            at += entry["vna_next"]
        place += need["vn_next"]


def _has(name: str, version: str) -> bool:
    """Whether this system's glibc has that version of the function."""
    libc = ctypes.CDLL(None)
    libc.dlvsym.restype = ctypes.c_void_p
    libc.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    homes = (ctypes.CDLL(home) for home in HOMES)
    return any(libc.dlvsym(h._handle, name.encode(), version.encode()) for h in homes)


def _is_older(name: str, newest: str) -> bool:
    """Whether glibc had the function in `newest` or before."""
    versions = [f"2.3.{patch}" for patch in (2, 3, 4)]
    versions += [f"2.{minor}" for minor in range(3, _number(newest)[1] + 1)]
    return any(_has(name, f"GLIBC_{version}") for version in versions)


def bind(library: Path, newest: str) -> list[str]:
    """Rewrites the library in its place.

    Args:
        library: an ELF library for this machine.
        newest: the newest version that it may need, such as "GLIBC_2.28".

    Returns:
        the functions that were bound to older versions.

    Raises:
        ValueError: it needs something of which glibc has no older version.
    """
    content, bound = bytearray(library.read_bytes()), []
    with library.open("rb") as file:
        elf = ELFFile(file)
        first = FIRST[elf["e_machine"]]
        strings = elf.get_section_by_name(".dynstr").data()
        for place, symbols in newer(elf, newest):
            # struct Elf64_Vernaux: hash, flags, index; offset of the name, of the next entry
            struct.pack_into("<I", content, place, ELFHashTable.elf_hash(first))
            struct.pack_into("<I", content, place + 8, strings.index(f"{first}\0".encode()))
            for name, own in symbols:
                if not _has(name, first):
                    if not _is_older(name, newest):
                        raise ValueError(f"{library}: {name} is newer than {newest}")
                    struct.pack_into("<H", content, own, ANY)
                bound.append(name)
    library.write_bytes(content)
    return bound
