"""`audit trust`."""

from __future__ import annotations

import os

import click

from audit.cli.completion import BUNDLE
from audit.cli.output import echo_lines, printable


@click.command()
@click.argument("bundle", type=BUNDLE, required=False)
@click.option("--remove", is_flag=True, help="Trust it no longer; ID, as --list shows it, will do.")
@click.option("--list", "listed", is_flag=True, help="Say which bundles this machine trusts.")
@click.pass_context
def trust(ctx: click.Context, /, bundle: str | None, remove: bool, listed: bool) -> None:
    """Trust a bundle that somebody else made: its TorchScript can run code when it is loaded.

    Its files are compared with its manifest first. It stays trusted when it is copied or moved, and
    ends to be when it changes. With AUDIT_TRUST_KEY set, it is signed, too, for all who have that
    key. What 'audit export' makes is trusted where it was made.
    """
    if listed == (bundle is not None) or (listed and remove):
        raise click.UsageError("Expected a BUNDLE, or --list alone.", ctx)
    if bundle is None:
        _show_all()
    elif remove:
        _remove(bundle)
    else:
        _add(bundle)


def _add(path: str) -> None:
    from audit.bundle import load_bundle
    from audit.trust import trust_bundle

    bundle = load_bundle(path)
    by = trust_bundle(bundle)
    echo_lines(
        f"trusted   {_shown(bundle.manifest.name, bundle.path)}\n"
        f"manifest  {bundle.manifest_sha256}\n"
        f"by        {', '.join(by)}"
    )


def _remove(bundle: str) -> None:
    from audit.bundle import load_bundle
    from audit.trust import distrust_bundle, forget, is_bundle_id

    if is_bundle_id(bundle):
        record = forget(bundle)
        echo_lines(f"removed   {_shown(record.name, record.path)}")
    else:
        opened = load_bundle(bundle)
        distrust_bundle(opened)
        echo_lines(f"removed   {_shown(opened.manifest.name, opened.path)}")


def _show_all() -> None:
    from audit.trust import ID_DIGITS
    from audit.trust_store import default_store

    listing = default_store().list()
    for each in listing.records:
        bundle = _shown(each.name, each.path)
        echo_lines(f"{each.manifest_sha256[:ID_DIGITS]}  {each.trusted}  {bundle}")
    if listing.ignored:
        echo_lines(f"ignored   {listing.ignored} that this machine's key hasn't signed")


def _shown(name: str, path: str | os.PathLike[str]) -> str:
    """In one line: a line break in a stranger's name must not make a line of its own."""
    return printable(f"{name} ({os.fspath(path)})")
