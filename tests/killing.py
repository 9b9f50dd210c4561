"""Runs the program, and at a chosen step kills it, cuts the power, or has the disk fail.

    python killing.py < lines of JSON

Each line is a run: a process is forked off this one, which has imported everything, calls what the
line says, and meets its fault at the step it says. A step is a call that changes the disk: what the
program writes, HDF5's writes among it, goes through these functions of `os`. Where the power is
cut, what wasn't synced is lost as well: files are empty that were written to since their last
fsync, and files have their old names that were renamed since the last fsync of the directory.
"""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import audit.dataset
from audit.errors import AuditError
from processes import running

STEPS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "rename", "unlink", "mkdir",
         "rmdir", "close")  # fmt: skip
HOW = ("before", "after", "half", "power")  # and the name of any error, such as ENOSPC
FINISHED, WRONG = 0, 2
HANG_S = 100  # after which a run says where it is, and ends with 1
IMPORTED = ("audit.cli", "audit.exporting", "audit.gradients", "audit.scanning", "numpy.random",
            "audit_kernels.numpy", "onnxruntime")  # fmt: skip
SAID = "stderr.txt"


class Outcome(NamedTuple):
    """Whether a run came to its end, how many steps it took, and what it said on stderr."""

    finished: bool
    steps: int
    said: str


class Zygote:
    """The process that runs are forked off; a context manager."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._running = running(
            [sys.executable, __file__], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip

    def __enter__(self) -> Zygote:
        self._process = self._running.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)

    def run(self, verb: str, *args: Any, kill: Any = None, **kwargs: Any) -> Outcome:
        """Call `audit.VERB`, or another of `VERBS`.

        Args:
            verb: The function.
            args: Its arguments.
            kill: {"step": n, "how": one of `HOW`, or an error}, or {"seconds": t}; None: never.
                With "of", a list of names, only these calls are counted; with "lasting", each from
                that step on fails.
            kwargs: Its keywords.
        """
        line = {"verb": verb, "args": args, "kwargs": kwargs, "kill": kill or {}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line, default=str) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        said = (self._cwd / SAID).read_text()
        assert answer, f"no answer: {line}\n{said}"
        status, steps = map(int, answer.split())
        assert status in (FINISHED, WRONG, -signal.SIGKILL), f"ended with {status}: {line}\n{said}"
        return Outcome(status == FINISHED, steps, said)


class _Disk:
    """Counts what changes the disk, and knows what of it a power cut would lose."""

    def __init__(
        self, step: int = 0, how: str = "", of: Sequence[str] = STEPS, lasting: bool = False
    ) -> None:
        self._last = step
        self._how = how
        self._lasting = lasting
        self._real = {name: getattr(_module(name), name) for name in of}
        self._paths: dict[int, str] = {}  # of open descriptors
        self._unsynced: set[str] = set()  # files
        self._renamed: list[tuple[str, str, str | None]] = []  # from, to, what was there before
        self.steps = 0
        for name in of:
            setattr(_module(name), name, self._wrapped(name))
        io.open = _opener(io.open)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps == self._last or (self._lasting and self.steps > self._last):
                self._fail(name, args, kwargs)
            result = self._real[name](*args, **kwargs)
            if self._how == "power":
                self._note(name, args, result)
            return result

        if name in ("replace", "rename"):
            return lambda *args, **kwargs: self._rename(call, *args, **kwargs)
        return call

    def _rename(self, call: Callable[..., Any], source: Any, target: Any, **kwargs: Any) -> None:
        before = None
        if self._how == "power" and os.path.isfile(target):
            before = (
                f"lost-{os.getpid()}-{self.steps}"  # in the current directory, where nobody looks
            )
            os.link(target, before)
        call(source, target, **kwargs)
        self._renamed.append((os.fspath(source), os.fspath(target), before))
        if os.fspath(source) in self._unsynced:
            self._unsynced.add(os.fspath(target))

    def _note(self, name: str, args: Any, result: Any) -> None:
        if name == "open":
            self._paths[result] = os.fspath(args[0])
        elif name in ("write", "pwrite", "ftruncate"):
            self._unsynced.add(self._paths[args[0]])
        elif name == "fsync":
            path = self._paths[args[0]]
            self._unsynced.discard(path)
            self._renamed = [each for each in self._renamed if os.path.dirname(each[1]) != path]

    def _fail(self, name: str, args: Any, kwargs: Any) -> None:
        if self._how == "EEXIST" and not os.path.lexists(args[1]):
            return  # where nothing is, a rename works everywhere
        if number := getattr(errno, self._how, 0):
            if name == "close":  # what it fails with, it has closed
                self._real[name](*args)
            raise OSError(number, os.strerror(number))
        if self._how == "half" and name in ("write", "pwrite"):
            descriptor, data, *offset = args
            self._real[name](descriptor, data[: len(data) // 2], *offset)
        elif self._how in ("after", "power"):
            self._real[name](*args, **kwargs)
        if self._how == "power":
            self._cut_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def _cut_power(self) -> None:
        for source, target, before in reversed(self._renamed):
            with suppress(FileNotFoundError):  # deleted since
                self._real["rename"](target, source)
                if before:
                    self._real["rename"](before, target)
        for path in self._unsynced:
            with suppress(FileNotFoundError):
                os.truncate(path, 0)


def _module(name: str) -> ModuleType:
    return fcntl if name == "flock" else os


class _Raw(io.RawIOBase):
    """A file that is written through `os`, so that its steps count."""

    def __init__(self, path: Any) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _opener(real: Callable[..., Any]) -> Callable[..., Any]:
    """What `Path.open` calls."""

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return io.BufferedWriter(_Raw(path)) if mode == "wb" else real(path, mode, *args, **kwargs)

    return opened


def _main_of(*argv: str) -> None:
    """The command line."""
    from audit.cli import main

    sys.argv[1:] = argv
    main()


def _export(target: str, source: str) -> None:
    """The end of an export, which is all of it that touches the disk."""
    from audit.bundle_writer import write_bundle

    write_bundle(Path(target), {each.name: each.read_bytes() for each in Path(source).iterdir()})


VERBS: dict[str, Callable[..., Any]] = {"audit": _main_of, "export": _export}


def _child(line: dict[str, Any], pipe: int) -> int:
    """The exit code."""
    verb = VERBS.get(line["verb"]) or getattr(audit, line["verb"])
    faulthandler.dump_traceback_later(HANG_S, exit=True, file=2)
    write = os.write
    disk = _Disk(**{name: value for name, value in line["kill"].items() if name != "seconds"})
    status = FINISHED
    try:
        verb(*line["args"], **line["kwargs"])
    except SystemExit as exc:
        status = int(exc.code or FINISHED)
    except AuditError as exc:  # of a verb that isn't called by the command line
        print(f"Error: {exc}", file=sys.stderr)
        status = exc.exit_code
    write(pipe, str(disk.steps).encode())
    return status


def _forked(line: dict[str, Any]) -> str:
    """Exit status, negative for a signal, and the number of steps."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            status = _child(line, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    if "seconds" in line["kill"]:
        time.sleep(line["kill"]["seconds"])
        os.kill(child, signal.SIGKILL)
    steps = os.read(reading, 100).decode() or "0"
    os.close(reading)
    return f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])} {steps}"


def _main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    audit.dataset.BLOCK_BYTES = 2**15  # so that few samples are many segments
    for text in sys.stdin:
        print(_forked(json.loads(text)), flush=True)


if __name__ == "__main__":
    _main()
