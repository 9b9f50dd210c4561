"""A process that reads mutated files in forks of itself, so that imports are paid once.

python -m fuzzing.worker KIND:FIRST:COUNT …: a line of JSON an input on standard output.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from fuzzing.kind import Kind, check_message
from fuzzing.mutate import mutated

HANG_S = 10  # of processor time
MOST_IDLE = 12  # times as long, of a process that only waits
HEADROOM = 2**30  # bytes of address space beyond what the imports take
MOST_RESIDENT = 2**29  # bytes of memory that a small file may make a reader touch
BATCH = 100  # inputs a fork
LOG_TAIL = 4000


def main(argv: list[str], kinds: Mapping[str, Kind]) -> None:
    """See the module."""
    for each in argv:
        name, first, count = each.split(":")
        kind = kinds[name]
        kind.seeds  # noqa: B018 - read once, before the forks
        numbers = list(range(int(first), int(first) + int(count)))
        while numbers:
            for result in _batch(kind, numbers[:BATCH]):
                print(json.dumps({"kind": name, **result}), flush=True)
                numbers.remove(result["number"])


def _batch(kind: Kind, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """Results of a fork, up to the input that ends it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        log = Path(folder) / "log"
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(kind, numbers, Path(folder), log, writing)
        os.close(writing)
        try:
            yield from _watched(child, reading, numbers, log)
        finally:
            os.close(reading)


def _watched(child: int, reading: int, numbers: list[int], log: Path) -> Iterator[dict[str, Any]]:
    waiting, buffer = list(numbers), b""
    hung, idle, spent = False, 0, _seconds(child)
    while waiting and not hung:
        if select.select([reading], [], [], HANG_S)[0]:
            data = os.read(reading, 2**16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                result = json.loads(line)
                waiting.remove(result["number"])
                yield result
            idle, spent = 0, _seconds(child)
        else:  # on a busy machine, time goes by without this process
            idle += 1
            hung = _seconds(child) - spent > HANG_S or idle > MOST_IDLE
    if hung:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if waiting:
        tail = log.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace") if log.exists() else ""
        outcome = f"no answer in {HANG_S} s" if hung else f"process ended with {status}"
        yield {"number": waiting[0], "outcome": "failure", "detail": f"{outcome}\n{tail}"}


def _seconds(process: int) -> float:
    """Of processor time that it has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(kind: Kind, numbers: list[int], folder: Path, log: Path, writing: int) -> None:
    """Never returns."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resident = _resident()
    for number in numbers:
        faulthandler.dump_traceback_later(HANG_S, repeat=True, file=output)
        place = folder / str(number)
        place.mkdir()
        result = _outcome(kind, number, place)
        if _resident() - resident > MOST_RESIDENT:
            result |= {"outcome": "failure", "detail": f"memory: {_resident() - resident} bytes"}
        os.write(writing, json.dumps({"number": number, **result}).encode() + b"\n")
    os._exit(0)


def _resident() -> int:
    """Most bytes that this process had in memory at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _outcome(kind: Kind, number: int, place: Path) -> dict[str, Any]:
    path = place / f"input{kind.suffix}"
    path.write_bytes(input_of(kind, number))
    started = time.perf_counter()
    try:
        kind.read(path, number)
    except AuditError as exc:
        try:
            check_message(exc)
        except AssertionError as wrong:
            return {"outcome": "failure", "detail": str(wrong)}
        return {"outcome": "refused", "seconds": time.perf_counter() - started}
    except BaseException:
        return {"outcome": "failure", "detail": traceback.format_exc()}
    return {"outcome": "read", "seconds": time.perf_counter() - started}


def input_of(kind: Kind, number: int) -> bytes:
    """The mutated file of that number."""
    seeds = kind.seeds
    return mutated(seeds[number % len(seeds)], seeds[(number + 1) % len(seeds)], number)


if __name__ == "__main__":
    from fuzzing.kinds import KINDS

    main(sys.argv[1:], KINDS)
