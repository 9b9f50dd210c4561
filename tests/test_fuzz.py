"""Mutated files, a few hundred: `make soak` reads 20,000. And the harness sees what is bad."""

from __future__ import annotations

from fuzzing.bad import BAD
from fuzzing.campaign import SHARES, run, spans
from fuzzing.kinds import KINDS
from fuzzing.mutate import mutated


def test_a_few_hundred_mutations() -> None:
    campaign = run(spans(240, first=1))  # none of those that are reported and drawn, too
    assert campaign.failures == []
    for kind in KINDS:
        assert campaign.counts[kind, "refused"] > 0, campaign.table()
    assert sum(campaign.counts[kind, "read"] for kind in KINDS) > 40, campaign.table()


def test_shares_are_of_every_kind() -> None:
    assert SHARES.keys() == KINDS.keys()
    assert sum(SHARES.values()) == 100


def test_mutations_are_repeatable_and_change_something() -> None:
    data, other = bytes(range(256)) * 8, bytes(2000)
    found = [mutated(data, other, number) for number in range(200)]
    assert found == [mutated(data, other, number) for number in range(200)]
    assert sum(each == data for each in found) < 10
    assert len(set(found)) > 180


def test_what_is_bad_is_seen() -> None:
    """And the input behind the bad one is read all the same."""
    campaign = run([f"{read.__name__}:0:2" for read in BAD], module="fuzzing.bad")
    for read, words in BAD.items():
        found = [each for each in campaign.failures if each.startswith(f"{read.__name__}:")]
        assert len(found) == (2 if words else 0), campaign.failures
        assert all(words in each for each in found), found
    assert campaign.counts["_refuse", "refused"] == 2
