"""What takes too long for `make test`: PYTHONPATH=tests python tests/soak.py --help."""

from __future__ import annotations

import argparse
import sys
import time

from fuzzing.campaign import ROUND, Campaign, run, spans


def main() -> None:
    """Exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="Number of the first mutation.")
    parser.add_argument("--only", nargs="*", metavar="KIND:FIRST:COUNT", help="Only these.")
    options = parser.parse_args()
    started = time.monotonic()

    def progress(campaign: Campaign) -> None:
        done = campaign.counts.total()
        if done % ROUND == 0:
            print(f"{done:,} mutations, {time.monotonic() - started:.0f} s", flush=True)

    campaign = run(options.only or spans(options.mutations, options.seed), progress, failed=_failed)
    print(campaign.table())
    print(f"{time.monotonic() - started:.0f} s, {len(campaign.failures)} failures")
    sys.exit(1 if campaign.failures else 0)


def _failed(failure: str) -> None:
    """At once: a run that is cut short has told what it found."""
    print(f"FAILED {failure}\n", flush=True)


if __name__ == "__main__":
    main()
