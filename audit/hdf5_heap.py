"""Texts of variable length, read so that a damaged heap is an error.

They lie in *global heaps*, and HDF5 (2.0 and before) never comes back from a heap in which a piece
claims to take no room. So HDF5 reads them through a file that looks at every heap first.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html#GlobalHeap
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

import h5py

from audit.diskfile import DiskFile

SIGNATURE = b"GCOL"
HEADER = struct.Struct("<4sB3xQ")  # signature, version, size of the heap
PIECE = struct.Struct("<HH4xQ")  # number, references, size; number 0 is what is free
MAX_PIECES = 2**16  # of a heap; HDF5 begins another one long before


@contextmanager
def with_heaps_checked(file: h5py.File) -> Iterator[h5py.File]:
    """The same file, opened once more, for attributes that may be text of variable length."""
    descriptor = os.dup(file.id.get_vfd_handle())
    with closing(_HeapCheckedFile(descriptor)) as checked, h5py.File(checked, "r") as again:
        yield again


class _HeapCheckedFile(DiskFile):
    """Reads a file, but zeros in the place of a heap that HDF5 can't leave."""

    def readinto(self, buffer: memoryview) -> int:
        """As of any file."""
        start = self.tell()
        read = super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        content = bytes(view)
        at = content.find(SIGNATURE)
        while at >= 0:
            if self._is_endless(start + at):
                view[at : at + len(SIGNATURE)] = bytes(len(SIGNATURE))
            at = content.find(SIGNATURE, at + 1)
        return read

    def _is_endless(self, heap: int) -> bool:
        """Whether a piece of the heap there takes no room, so that the next one is itself."""
        header = self._bytes(heap, HEADER.size)
        if len(header) < HEADER.size:
            return False  # HDF5 sees that, too
        end = heap + HEADER.unpack(header)[2]
        at = heap + HEADER.size
        for _ in range(MAX_PIECES):
            piece = self._bytes(at, PIECE.size)
            if len(piece) < PIECE.size or at + PIECE.size > end:
                return False
            number, _, size = PIECE.unpack(piece)
            room = size if number == 0 else PIECE.size + -(-size // 8) * 8
            if room % 2**64 == 0:
                return True
            at += room
        return True

    def _bytes(self, at: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, at) if at < 2**63 else b""
