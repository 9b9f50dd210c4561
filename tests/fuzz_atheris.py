"""Mutation guided by coverage: PYTHONPATH=tests python tests/fuzz_atheris.py --help.

Atheris isn't among the dependencies: it has no wheels for every Python. Where it can't be imported,
a line says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from fuzzing.campaign import environment

TARGETS = ("manifest", "config", "findings", "dataset")
HANG_S = 60  # on the clock, which runs on while a busy machine does other things
MOST_RESIDENT_MB = 2048
FAILED = Path("fuzz-failures")


def main() -> None:
    """Exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=TARGETS, default=TARGETS, help="Only these.")
    parser.add_argument("--seconds", type=int, default=60, help="For each kind.")
    parser.add_argument("--corpus", type=Path, help="Keep what reached something new here.")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzz_atheris: skipped, since there is no atheris; pip install atheris")
        return
    if options.in_this_process:
        _fuzz(options.only[0], options.corpus, options.seconds)  # never comes back
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        failed = [
            kind
            for kind in options.only
            if not _passes(kind, (options.corpus or Path(folder)) / kind, options.seconds)
        ]
    sys.exit(1 if failed else 0)


def _passes(kind: str, corpus: Path, seconds: int) -> bool:
    """A process for each, since libFuzzer ends the one that it runs in."""
    corpus.mkdir(parents=True, exist_ok=True)
    FAILED.mkdir(exist_ok=True)
    before = _found(corpus)
    command = [sys.executable, __file__, "--in-this-process", "--only", kind]
    command += ["--seconds", str(seconds), "--corpus", str(corpus)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment(), check=False
    )
    ran = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    if done.returncode or ran is None:
        print(f"FAILED {kind}: see {FAILED}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return False
    new = _found(corpus) - before
    print(f"{kind:12} {int(ran[1]):9,} inputs, {new:,} of them reached something new", flush=True)
    return True


def _found(corpus: Path) -> int:
    return sum(not path.name.startswith("seed-") for path in corpus.iterdir())


def _fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["audit"]):
        from audit.errors import AuditError
        from fuzzing.kind import check_message
        from fuzzing.kinds import KINDS

    kind = KINDS[name]
    for number, seed in enumerate(kind.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / f"input{kind.suffix}"
            path.write_bytes(data)
            try:
                kind.read(path, zlib.crc32(data) | 1)  # odd: no reports and pictures
            except AuditError as exc:
                check_message(exc)

    flags = {
        "max_total_time": seconds,
        "timeout": HANG_S,
        "rss_limit_mb": MOST_RESIDENT_MB,
        "artifact_prefix": f"{FAILED}/{name}-",
        "print_final_stats": 1,
    }
    argv = [sys.argv[0], *(f"-{key}={value}" for key, value in flags.items()), str(corpus)]
    atheris.Setup(argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
