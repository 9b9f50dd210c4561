"""A file for HDF5 to write into that never fails.

HDF5 crashes the process at its end where a write into an open file failed (a full disk, a quota, a
limit on the size). So a failure is kept from it: what can't be written is held in memory, and the
writer asks for the error, gives up, and closes a file that is whole as far as HDF5 knows.
"""

from __future__ import annotations

import contextlib
import os

from audit.output_file import failing_as


class DiskFile:
    """What h5py's driver "fileobj" needs of a file, over a file descriptor that it owns.

    Attributes:
        error: The first failure, or None.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._size = os.fstat(descriptor).st_size
        self._unwritten: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise what a write failed with, if one did."""
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def read(self, size: int) -> bytes:
        """As of any file."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def readinto(self, buffer: memoryview) -> int:
        """As of any file; what couldn't be written is read back all the same."""
        view, start = memoryview(buffer).cast("B"), self._position
        view[:] = os.pread(self._descriptor, len(view), start).ljust(len(view), b"\0")
        for at, data in self._unwritten:
            first, last = max(at, start), min(at + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - at : last - at]
        self._position += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:
        """As of any file, but a failure goes to `error`, and what it concerns to memory."""
        content = bytes(data)
        if self.error is None:
            try:
                done = 0
                while done < len(content):
                    done += os.pwrite(self._descriptor, content[done:], self._position + done)
            except OSError as exc:
                self.error = exc
        if self.error is not None:
            self._unwritten.append((self._position, content))
        self._position += len(content)
        self._size = max(self._size, self._position)
        return len(content)

    def truncate(self, size: int) -> int:
        """As of any file, but a failure goes to `error`."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as exc:
            self.error = self.error or exc
        self._size = size
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def sync(self) -> None:
        """Have it on the disk."""
        try:
            with failing_as("fsync"):
                os.fsync(self._descriptor)
        except OSError as exc:
            self.error = self.error or exc

    def close(self) -> None:
        """Close the descriptor; what matters of the file was synced, and failed there if at all."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
