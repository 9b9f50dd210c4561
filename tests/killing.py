"""Kills a call of the program at a chosen step, as often as it takes, and cuts the power at one.

    python killing.py < lines of JSON

Each line is a run: a process is forked off this one, which has imported everything, calls what the
line says, and dies by SIGKILL at the step it says. A step is a call that changes the disk: what the
program writes, HDF5's writes among it, goes through these functions of `os`. Where the power is
cut, what wasn't synced is lost as well: files are empty that were written to since their last
fsync, and files have their old names that were renamed since the last fsync of the directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

STEPS = ("open", "pwrite", "ftruncate", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir",
         "close")  # fmt: skip
HOW = ("before", "after", "half", "power")
FINISHED = 0


class Outcome(NamedTuple):
    """Whether a run came to its end, and how many steps it took."""

    finished: bool
    steps: int


class Zygote:
    """The process that runs are forked off; a context manager."""

    def __init__(self, cwd: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def run(self, verb: str, *args: Any, kill: Any = None, **kwargs: Any) -> Outcome:
        """Call `audit.VERB`.

        Args:
            verb: The function.
            args: Its arguments.
            kill: {"step": n, "how": one of `HOW`}, or {"seconds": t}; None: never.
            kwargs: Its keywords.
        """
        line = {"verb": verb, "args": args, "kwargs": kwargs, "kill": kill or {}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line, default=str) + "\n")
        self._process.stdin.flush()
        status, steps = map(int, self._process.stdout.readline().split())
        assert status in (FINISHED, -signal.SIGKILL), f"ended with {status}: {line}"
        return Outcome(status == FINISHED, steps)


class _Disk:
    """Counts what changes the disk, and knows what of it a power cut would lose."""

    def __init__(self, step: int, how: str) -> None:
        self._last = step
        self._how = how
        self._real = {name: getattr(os, name) for name in STEPS}
        self._paths: dict[int, str] = {}  # of open descriptors
        self._unsynced: set[str] = set()  # files
        self._renamed: list[tuple[str, str, str | None]] = []  # from, to, what was there before
        self.steps = 0
        for name in STEPS:
            setattr(os, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps == self._last:
                self._die(name, args, kwargs)
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
        elif name in ("pwrite", "ftruncate"):
            self._unsynced.add(self._paths[args[0]])
        elif name == "fsync":
            path = self._paths[args[0]]
            self._unsynced.discard(path)
            self._renamed = [each for each in self._renamed if os.path.dirname(each[1]) != path]

    def _die(self, name: str, args: Any, kwargs: Any) -> None:
        if self._how == "half" and name == "pwrite":
            descriptor, data, offset = args
            self._real["pwrite"](descriptor, data[: len(data) // 2], offset)
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


def _child(line: dict[str, Any], pipe: int) -> None:
    import audit

    kill = line["kill"]
    disk = _Disk(kill.get("step", 0), kill.get("how", ""))
    getattr(audit, line["verb"])(*line["args"], **line["kwargs"])
    os.write(pipe, str(disk.steps).encode())


def _forked(line: dict[str, Any]) -> str:
    """Exit status, negative for a signal, and the number of steps."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _child(line, writing)
            status = FINISHED
        except Exception:
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
    import audit.dataset
    import audit.exporting
    import audit.gradients
    import audit.scanning

    audit.dataset.BLOCK_BYTES = 2**15  # so that few samples are many segments
    for text in sys.stdin:
        print(_forked(json.loads(text)), flush=True)


if __name__ == "__main__":
    _main()
