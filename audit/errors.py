"""What can go wrong, as a tree.

Every error that a user can cause is an `AuditError`: one line that says what was got, what was
expected and what to do, and the exit code that the command line answers with. Each also is the
built-in that a caller of the library would catch. Anything else that is raised is a bug of ours
and keeps its traceback.

AuditError                 exit code 2
├── OptionError            ValueError         an option or argument is out of range
├── DatasetError           ValueError         the dataset can't be read, or doesn't fit the bundle
│   └── DatasetNotFoundError  FileNotFoundError
├── BundleError            ValueError         the bundle is incomplete, changed or malformed
│   ├── BundleNotFoundError   FileNotFoundError
│   └── UntrustedError        PermissionError  loading it can run code, and nobody vouches for it
├── TrustStoreError        RuntimeError       what this machine trusts can't be told or changed
├── FindingsError          ValueError         the file is not a complete findings file
│   └── NotRecordedError   LookupError        the scan was told not to record this array
├── AscentError            ValueError         the file is not a complete ascent file
├── ModelError             ValueError         the model can't be exported or audited
│   └── ParityError                           its exports disagree with it (exit code 1)
├── OutputError            OSError            the result can't be written
├── DeviceError            RuntimeError       the requested device can't be had
└── InstallationError      ImportError        a package is missing or in conflict
"""

from __future__ import annotations


class AuditError(Exception):
    """Base of all errors that have a cause outside this program."""

    exit_code = 2


class OptionError(AuditError, ValueError):
    """An option or argument is out of range or contradicts another."""


class DatasetError(AuditError, ValueError):
    """The dataset can't be read, or doesn't fit the bundle."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """There is no such dataset file."""


class BundleError(AuditError, ValueError):
    """The bundle is incomplete, changed or malformed."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no such bundle, or none was named."""


class UntrustedError(BundleError, PermissionError):
    """Loading the bundle can run code, and nobody vouches for it."""


class TrustStoreError(AuditError, RuntimeError):
    """What this machine trusts can't be told or changed: its store is broken, or not private."""


class FindingsError(AuditError, ValueError):
    """The file is not a complete findings file."""


class NotRecordedError(FindingsError, LookupError):
    """The array is absent because the scan was told not to record it."""


class AscentError(AuditError, ValueError):
    """The file is not a complete ascent file."""


class ModelError(AuditError, ValueError):
    """The model can't be exported or can't be audited; the message says how to mend it."""


class ParityError(ModelError):
    """The exported graphs disagree with the model beyond what rounding explains."""

    exit_code = 1


class OutputError(AuditError, OSError):
    """The result can't be written where it was asked for."""


class DeviceError(AuditError, RuntimeError):
    """The requested device can't be had."""


class InstallationError(AuditError, ImportError):
    """A package that is needed is missing, or two that exclude each other are installed."""


def last_line(exc: BaseException) -> str:
    """The last line of a foreign exception: torch puts the reason there, after pages of trace."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
