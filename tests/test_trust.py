"""Who vouches for a bundle, and that nothing of another one is loaded."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import audit
from audit import signature, trust, trust_store
from audit.bundle import MANIFEST, ONNX, PT2, SHIPPED, TORCHSCRIPT, Bundle, load_bundle
from audit.bundle_writer import check_target
from audit.cli import cli
from audit.errors import BundleError, OptionError, OutputError, TrustStoreError, UntrustedError
from audit.signature import KEY_VARIABLE, SIGNATURE
from audit.summary import summary_from_findings, text_from_summary
from audit.torchscript import profiling_execution
from audit.trust_store import TrustRecord, TrustStore
from conftest import Run
from networks import linear
from processes import running

KEY = "k" * 32
ANOTHER_KEY = "another key of more than 32 characters"
CANARY = "canary"
RECORD = TrustRecord(manifest_sha256="a" * 64, name="n", path="/p", trusted="2026-01-01T00:00:00")


class RunsCode(nn.Module):
    """TorchScript that writes a file while it is loaded: `__setstate__` is run by the reader."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * 0 + torch.arange(10, dtype=x.dtype)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save(self.weight, "canary")


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user who has trusted nothing yet, and started in an empty folder."""
    home = tmp_path / "data home"
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def store(data_home: Path) -> Path:
    """Where that user's trust is kept."""
    return data_home / "near-tie-audit"


@pytest.fixture
def stranger(mnist_bundle: Bundle) -> Path:
    """A sound bundle, made nobody knows where."""
    return bundle_from(mnist_bundle, Path("stranger"))


def bundle_from(bundle: Bundle, out: Path, **files: bytes) -> Path:
    """A copy under another name, with other files that its manifest vouches for."""
    shutil.copytree(bundle.path, out)
    records = dict(bundle.manifest.files)
    for name, data in files.items():
        (out / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        records[name] = replace(records[name], sha256=digest, size=len(data))
    manifest = replace(bundle.manifest, name=out.name, files=records)
    (out / MANIFEST).write_text(manifest.to_json())
    return out


@pytest.fixture(scope="session")
def hostile_torchscript() -> bytes:
    buffer = io.BytesIO()
    with profiling_execution():
        torch.jit.save(torch.jit.script(RunsCode()), buffer)
    return buffer.getvalue()


@pytest.fixture
def hostile(mnist_bundle: Bundle, hostile_torchscript: bytes) -> Path:
    """A bundle whose `model.ts` runs code when it is loaded."""
    return bundle_from(mnist_bundle, Path("hostile"), **{TORCHSCRIPT: hostile_torchscript})


def trusted_by(bundle: Path) -> str | None:
    return trust.judge(load_bundle(bundle)).by


def refusal(bundle: Path) -> str:
    with pytest.raises(UntrustedError) as caught:
        load_bundle(bundle).read(TORCHSCRIPT)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{bundle}: not trusted on this machine, and its TorchScript can run")
    assert caught.value.exit_code == 2
    return message


def add(path: Path) -> None:
    trust.trust_bundle(load_bundle(path))


def command(*args: object) -> None:
    """`audit ARGS…` in this process; what is wrong is raised."""
    cli.main(list(map(str, args)), standalone_mode=False)


# What is refused, and what isn't


def test_what_can_run_code_is_refused(stranger: Path, store: Path) -> None:
    bundle = load_bundle(stranger)
    assert not bundle.trusted
    for name in (TORCHSCRIPT, PT2):
        with pytest.raises(UntrustedError):
            bundle.read(name)
    assert bundle.read(ONNX)
    assert not store.exists()  # to look takes no key


def test_the_refusal_says_what_to_do(mnist_bundle: Bundle) -> None:
    message = refusal(bundle_from(mnist_bundle, Path("a b")))
    assert "run 'audit trust 'a b'' once, or add --trust" in message
    assert message.endswith(" ('audit scan --no-gradients' needs neither)")


def test_a_damaged_bundle_is_refused_for_the_damage(stranger: Path) -> None:
    (stranger / ONNX).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx: not the file that was exported") as caught:
        load_bundle(stranger).require_trust()
    assert not isinstance(caught.value, UntrustedError)


def test_a_caller_may_vouch(stranger: Path) -> None:
    bundle = load_bundle(stranger, trust=True)
    assert bundle.trusted
    bundle.require_trust()
    assert bundle.read(TORCHSCRIPT)
    assert not load_bundle(stranger).trusted


def test_shipped_bundles_are_pinned(mnist_bundle: Bundle) -> None:
    found = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SHIPPED.glob(f"*/{MANIFEST}")
    }
    assert found == trust.SHIPPED_SHA256
    assert trusted_by(mnist_bundle.path) == "shipped"
    shutil.copytree(mnist_bundle.path, "copy")
    assert trusted_by(Path("copy")) == "shipped"


def change_producer(bundle: Path) -> None:
    """The least that a manifest can be changed in; its own SHA-256 fits again."""
    manifest = load_bundle(bundle.absolute()).manifest
    changed = replace(manifest, producer={**manifest.producer, "by": "a stranger"})
    (bundle / MANIFEST).write_text(changed.to_json())


def test_the_name_of_a_shipped_bundle_is_worth_nothing(mnist_bundle: Bundle) -> None:
    path = bundle_from(mnist_bundle, Path("mnist"))
    change_producer(path)
    refusal(path.absolute())


def test_only_two_modules_load_what_can_run_code() -> None:
    """Of a bundle, both get what `Bundle.read` gave; of an export, what it made itself."""
    found = {
        path.name
        for path in Path(audit.__file__).parent.rglob("*.py")
        if re.search(r"\b(jit|export)\.load\(", path.read_text())
    }
    assert found == {"torchscript.py", "exporting.py"}


# A bundle that would run code


def test_that_the_hostile_bundle_is_hostile(hostile: Path, mnist_h5: Path) -> None:
    with pytest.raises(BundleError, match="aten::save"):
        audit.scan(mnist_h5, eps=0.1, model=hostile, limit=2000, trust=True)
    assert Path(CANARY).exists()


def test_a_scan_refuses_before_it_begins(hostile: Path, mnist_h5: Path) -> None:
    steps = []
    with pytest.raises(UntrustedError):
        audit.scan(mnist_h5, eps=0.1, model=hostile, progress=lambda *step: steps.append(step))
    assert steps == []
    assert os.listdir() == ["hostile"]


def test_an_ascent_refuses(hostile: Path, mnist_h5: Path) -> None:
    with pytest.raises(UntrustedError):
        audit.ascend(mnist_h5, index=18, model=hostile)
    assert os.listdir() == ["hostile"]
    with pytest.raises(BundleError, match="aten::save"):
        audit.ascend(mnist_h5, index=18, model=hostile, trust=True)
    assert Path(CANARY).exists()


def test_to_trust_loads_nothing(hostile: Path) -> None:
    for args in (("info", hostile), ("trust", hostile), ("trust", hostile, "--remove")):
        command(*args)
    assert os.listdir() == ["hostile"]


def test_the_command_line_asks_for_trust(stranger: Path, mnist_h5: Path, run_audit: Run) -> None:
    scan = ("scan", mnist_h5, "--eps", "0.1", "--limit", "1", "--model", stranger, "--quiet")
    ascend = ("ascend", mnist_h5, "--index", "18", "--model", stranger, "--quiet")
    done = run_audit(*scan, cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {refusal(stranger)}\n"
    for args in (scan, ascend):
        with pytest.raises(UntrustedError):
            command(*args)
        command(*args, "--trust")


def test_verify_computes_nothing_by_a_bundle_that_nobody_vouches_for(
    stranger: Path, mnist_h5: Path
) -> None:
    (stranger / SIGNATURE).write_text("{}")  # which any bundle may have
    assert audit.verify(stranger).passed
    audit.scan(mnist_h5, eps=0.1, model=stranger, limit=1100, trust=True)
    assert audit.verify("mnist.findings.h5", bundle=stranger).passed
    with pytest.raises(UntrustedError):
        audit.verify("mnist.findings.h5", dataset=mnist_h5, samples=1)
    assert audit.verify("mnist.findings.h5", dataset=mnist_h5, samples=1, trust=True).passed


def test_findings_name_a_bundle_and_vouch_for_none(stranger: Path, mnist_h5: Path) -> None:
    audit.scan(mnist_h5, eps=0.1, model=stranger, limit=1100, trust=True)
    with pytest.raises(UntrustedError, match="stranger: not trusted on this machine"):
        audit.ascend("mnist.findings.h5")
    assert audit.ascend("mnist.findings.h5", trust=True).succeeded


def test_no_configuration_can_trust() -> None:
    Path("audit.toml").write_text("trust = true\n")
    with pytest.raises(OptionError, match=r"audit\.toml: unknown key 'trust'"):
        command("scan", "nothing.h5", "--eps", "1")


# This machine's store


def test_trust_goes_with_the_content(stranger: Path) -> None:
    add(stranger)
    assert trusted_by(stranger) == "this machine"
    assert load_bundle(stranger).read(TORCHSCRIPT)
    shutil.copytree(stranger, "copy")
    assert trusted_by(Path("copy")) == "this machine"
    stranger.rename("moved")
    assert trusted_by(Path("moved")) == "this machine"
    change_producer(Path("moved"))
    refusal(Path("moved"))
    assert trusted_by(Path("copy")) == "this machine"


def test_a_file_changed_after_it_was_trusted(stranger: Path) -> None:
    add(stranger)
    data = bytearray((stranger / TORCHSCRIPT).read_bytes())
    data[len(data) // 2] ^= 1
    (stranger / TORCHSCRIPT).write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.ts: not the file that was exported"):
        load_bundle(stranger).read(TORCHSCRIPT)


def test_what_is_damaged_is_not_trusted(stranger: Path, store: Path) -> None:
    (stranger / PT2).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.pt2: not the file that was exported"):
        add(stranger)
    assert not store.exists()


def test_the_store_is_private(stranger: Path, store: Path) -> None:
    before = os.umask(0)
    try:
        add(stranger)
    finally:
        os.umask(before)
    assert store.stat().st_mode & 0o777 == 0o700
    assert (store / "key").stat().st_mode & 0o777 == 0o600
    assert (store / "key").stat().st_size == 32
    assert sorted(each.name for each in store.iterdir()) == ["key", "trusted"]


def signed(record: bytes, key: bytes) -> bytes:
    return trust_store._mac(record, key) + b"\n" + record


FORGERIES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "another key": lambda genuine, key: signed(genuine.split(b"\n", 1)[1], bytes(32)),
    "an empty key": lambda genuine, key: signed(genuine.split(b"\n", 1)[1], b""),
    "no signature": lambda genuine, key: genuine.split(b"\n", 1)[1],
    "an empty signature": lambda genuine, key: b"\n" + genuine.split(b"\n", 1)[1],
    "half a signature": lambda genuine, key: genuine[32:],
    "another path": lambda genuine, key: genuine.replace(b"stranger", b"strangex"),
    "empty": lambda genuine, key: b"",
    "not text": lambda genuine, key: b"\xff\xfe\n\x80",
    "another format": lambda genuine, key: (
        signature.sign("a" * 64, key) + b"\n" + genuine.split(b"\n", 1)[1]
    ),
    "huge": lambda genuine, key: genuine + b" " * 2**20,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_record_counts_for_nothing(name: str, stranger: Path, store: Path) -> None:
    add(stranger)
    (path,) = (store / "trusted").iterdir()
    genuine = path.read_bytes()
    path.write_bytes(FORGERIES[name](genuine, (store / "key").read_bytes()))
    refusal(stranger)
    assert TrustStore(store).list() == ([], 1)
    path.write_bytes(genuine)
    assert trusted_by(stranger) == "this machine"


def test_a_record_holds_for_its_own_bundle(stranger: Path, mnist_bundle: Bundle) -> None:
    other = bundle_from(mnist_bundle, Path("other"))
    add(stranger)
    store = TrustStore(Path(os.environ["XDG_DATA_HOME"]) / "near-tie-audit")
    path = store._path(load_bundle(stranger).manifest_sha256)
    shutil.copy(path, store._path(load_bundle(other).manifest_sha256))
    refusal(other)
    assert [each.name for each in store.list().records] == ["stranger"]
    assert store.list().ignored == 1


def test_records_that_are_no_files(stranger: Path, store: Path) -> None:
    add(stranger)
    (path,) = (store / "trusted").iterdir()
    path.rename(store / "elsewhere")
    path.symlink_to(store / "elsewhere")
    refusal(stranger)
    path.unlink()
    os.mkfifo(path)
    refusal(stranger)  # and isn't waited for
    path.unlink()
    path.mkdir()
    refusal(stranger)
    assert TrustStore(store).list() == ([], 1)


def test_another_users_key(stranger: Path, store: Path) -> None:
    add(stranger)
    (store / "key").write_bytes(os.urandom(32))
    refusal(stranger)
    add(stranger)
    assert trusted_by(stranger) == "this machine"


def loose_key(store: Path) -> None:
    (store / "key").chmod(0o640)


def writable_key(store: Path) -> None:
    (store / "key").chmod(0o602)


def short_key(store: Path) -> None:
    (store / "key").write_bytes(bytes(31))


def long_key(store: Path) -> None:
    (store / "key").write_bytes(bytes(33))


def empty_key(store: Path) -> None:
    (store / "key").write_bytes(b"")


def linked_key(store: Path) -> None:
    (store / "key").rename(store / "elsewhere")
    (store / "key").symlink_to(store / "elsewhere")


def key_is_a_pipe(store: Path) -> None:
    (store / "key").unlink()
    os.mkfifo(store / "key", 0o600)


def key_is_a_folder(store: Path) -> None:
    (store / "key").unlink()
    (store / "key").mkdir()


def writable_store(store: Path) -> None:
    store.chmod(0o770)


def linked_store(store: Path) -> None:
    store.rename(store.with_name("elsewhere"))
    store.symlink_to("elsewhere")


def store_is_a_file(store: Path) -> None:
    shutil.rmtree(store)
    store.write_bytes(b"")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "loose key": (loose_key, "key: others can read or write it (mode 640)"),
    "writable key": (writable_key, "key: others can read or write it (mode 602)"),
    "short key": (short_key, "key: not a key of 32 bytes"),
    "long key": (long_key, "key: not a key of 32 bytes"),
    "empty key": (empty_key, "key: not a key of 32 bytes"),
    "linked key": (linked_key, "key: can't be used to keep trust in (a symbolic link)"),
    "a pipe": (key_is_a_pipe, "key: not a file"),
    "a folder": (key_is_a_folder, "key: not a file"),
    "writable store": (writable_store, "near-tie-audit: others can write into it (mode 770)"),
    "linked store": (linked_store, "near-tie-audit: a symbolic link"),
    "a file": (store_is_a_file, "near-tie-audit: not a folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_store_that_proves_nothing(name: str, stranger: Path, store: Path) -> None:
    change, expected = BROKEN[name]
    add(stranger)
    change(store)
    assert expected in refusal(stranger)  # it is no crash, and says what to mend
    before = listing(store)
    with pytest.raises(TrustStoreError, match=re.escape(expected)):
        add(stranger)
    assert listing(store) == before


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mode for path in folder.rglob("*")}


def test_somebody_elses_store(stranger: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(stranger)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert f"belongs to user {other - 1}; expected yours, {other}" in refusal(stranger)


def test_a_linked_data_home_will_do(stranger: Path, data_home: Path) -> None:
    """Homes lie behind links; only what is ours mustn't be one."""
    data_home.with_name("real").mkdir()
    data_home.symlink_to("real")
    add(stranger)
    assert trusted_by(stranger) == "this machine"


def test_a_store_that_cannot_be_written(
    stranger: Path, data_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_home.write_bytes(b"")  # nothing can be made under a file, not even by root
    with pytest.raises(TrustStoreError, match=r"^/.*/near-tie-audit.* \(Not a directory\)$"):
        command("trust", stranger)
    with caplog.at_level(logging.WARNING, "audit"):
        bundle = audit.export(linear(12, 3).eval(), "made", input_shape=12)
    (record,) = [each for each in caplog.records if each.name == "audit"]
    assert record.getMessage().startswith(
        "the bundle is written, but not trusted on this machine: "
    )
    assert "\n" not in record.getMessage()
    assert not bundle.trusted
    assert load_bundle("made", trust=True).read(TORCHSCRIPT)


def test_a_record_that_cannot_be_written(stranger: Path, store: Path) -> None:
    add(stranger)
    shutil.rmtree(store / "trusted")
    (store / "trusted").write_bytes(b"")
    with pytest.raises(TrustStoreError, match="trusted: can't be used to keep trust in"):
        add(stranger)


def test_where_the_store_is(
    stranger: Path, data_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for elsewhere in (None, "", "relative"):
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        if elsewhere is None:
            monkeypatch.delenv("XDG_DATA_HOME")
        else:
            monkeypatch.setenv("XDG_DATA_HOME", elsewhere)
        add(stranger)
        assert (tmp_path / "home/.local/share/near-tie-audit/key").is_file()
    assert not data_home.exists()
    assert os.listdir() == ["stranger"]


def test_no_home(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started as a user whom it doesn't know."""

    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert refusal(stranger).endswith(
        ". no home directory to keep trust in; set HOME or XDG_DATA_HOME"
    )
    with pytest.raises(TrustStoreError, match="no home directory"):
        add(stranger)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (stranger / SIGNATURE).write_bytes(
        signature.sign(load_bundle(stranger).manifest_sha256, KEY.encode())
    )
    assert trusted_by(stranger) == "shared key"


FIRST_USE = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from audit.trust_store import TrustRecord, TrustStore

folder, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
record = TrustRecord(manifest_sha256=me * 64, name=me, path=me, trusted=me)
for number in range(rounds):
    ready = folder / f"ready-{number}-"
    Path(f"{ready}{me}").touch()
    while not all(os.path.exists(f"{ready}{each}") for each in "ab"):
        time.sleep(0)
    TrustStore(folder / str(number)).add(record)
"""


def test_two_processes_make_one_key(tmp_path: Path) -> None:
    rounds = 30
    commands = [[sys.executable, "-c", FIRST_USE, str(tmp_path), me, str(rounds)] for me in "ab"]
    with ExitStack() as stack:
        processes = [stack.enter_context(running(command)) for command in commands]
        assert [process.wait(60) for process in processes] == [0, 0]
    for number in range(rounds):
        found = TrustStore(tmp_path / str(number)).list()
        assert ([each.name for each in found.records], found.ignored) == (["a", "b"], 0)
        assert sorted(os.listdir(tmp_path / str(number))) == ["key", "trusted"]


# audit trust


def test_trust_command(stranger: Path, run_audit: Run) -> None:
    here = Path.cwd()
    sha256 = load_bundle(stranger).manifest_sha256
    done = run_audit("trust", stranger, cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"trusted   stranger (stranger)\nmanifest  {sha256}\nby        this machine\n"
    )
    (record,) = trust_store.default_store().list().records
    done = run_audit("trust", "--list", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{sha256[:16]}  {record.trusted}  stranger ({here / 'stranger'})\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.trusted)
    done = run_audit("trust", stranger, "--remove", cwd=here)
    assert (done.returncode, done.stdout) == (0, "removed   stranger (stranger)\n")
    refusal(stranger)
    done = run_audit("trust", "--list", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_to_remove_what_is_not_there(stranger: Path) -> None:
    for bundle in (stranger, "0123456789abcdef"):
        with pytest.raises(OptionError, match=f"^{bundle}: not a bundle that this machine trusts"):
            command("trust", bundle, "--remove")


def test_to_remove_what_is_gone(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(stranger)
    sha256 = load_bundle(stranger).manifest_sha256
    shutil.rmtree(stranger)
    command("trust", sha256[:16], "--remove")
    assert capsys.readouterr().out == f"removed   stranger ({stranger.absolute()})\n"
    assert trust_store.default_store().list() == ([], 0)


def test_a_folder_may_be_called_like_a_number(mnist_bundle: Bundle) -> None:
    assert trust.is_bundle_id("0123456789abcdef")
    assert not trust.is_bundle_id("0123456789abcde")
    assert not trust.is_bundle_id("a" * 65)
    bundle_from(mnist_bundle, Path("0123456789abcdef"))
    assert not trust.is_bundle_id("0123456789abcdef")


@pytest.mark.parametrize("args", [(), ("--remove",), ("b", "--list"), ("--list", "--remove")])
def test_wrong_use(args: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="Expected a BUNDLE, or --list alone"):
        command("trust", *args)


def test_a_shipped_bundle_needs_no_trust(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("trust", "mnist")
    assert capsys.readouterr().out.endswith("\nby        shipped\n")
    with pytest.raises(OptionError, match="ships with this program"):
        command("trust", "mnist", "--remove")
    assert not store.exists()


def test_hostile_names_stay_in_their_line(
    mnist_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_from(mnist_bundle, Path("hostile"))
    name = "x\nremoved   everything\x1b[2J"
    manifest = replace(load_bundle(path).manifest, name=name)
    (path / MANIFEST).write_text(manifest.to_json())
    for args, lines in ((("hostile",), 3), (("--list",), 1), (("hostile", "--remove"), 1)):
        command("trust", *args)
        shown = capsys.readouterr().out
        assert shown.count("\n") == lines
        assert all(line.isprintable() for line in shown.splitlines())


def test_records_that_are_ignored_are_counted(
    stranger: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(stranger)
    (store / "trusted" / ("a" * 64)).write_bytes(b"forged")
    command("trust", "--list")
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:] == ["ignored   1 that this machine's key hasn't signed"]


def test_info_says_who_vouches(
    stranger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit_info("mnist") == "shipped"
    assert audit_info(stranger) == "no"
    add(stranger)
    assert audit_info(stranger) == "this machine"
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert audit_info(stranger) == "this machine"
    add(stranger)
    assert audit_info(stranger) == "shared key"
    command("info", stranger)
    assert "\ntrusted     shared key\n" in capsys.readouterr().out
    assert audit_info("mnist") == "shipped"


def audit_info(path: str | Path) -> str:
    from audit.info import info

    return str(info(path)["trusted"])


# A key that machines share


@pytest.fixture
def signed_elsewhere(stranger: Path, monkeypatch: pytest.MonkeyPatch, data_home: Path) -> Path:
    """Signed by a machine with the key; this one has none, and has trusted nothing."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    add(stranger)
    monkeypatch.delenv(KEY_VARIABLE)
    shutil.rmtree(data_home)
    return stranger


def test_the_same_key(signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    refusal(signed_elsewhere)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert trusted_by(signed_elsewhere) == "shared key"
    assert load_bundle(signed_elsewhere).read(TORCHSCRIPT)
    assert not store.exists()
    shutil.copytree(signed_elsewhere, "copy")
    assert trusted_by(Path("copy")) == "shared key"


def test_another_key(signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, ANOTHER_KEY)
    key_id = signature.key_id(ANOTHER_KEY.encode())
    expected = f"is by another key than {KEY_VARIABLE} (which is {key_id})"
    assert refusal(signed_elsewhere).endswith(f". {signed_elsewhere / SIGNATURE} {expected}")


def test_an_empty_key_is_none(signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    refusal(signed_elsewhere)


def test_a_short_key_is_an_error(signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "short" * 6)
    message = (
        f"{KEY_VARIABLE}: 30 characters; expected 32 or more, such as 'openssl rand -hex 32' prints"
    )
    for use in (
        lambda: load_bundle(signed_elsewhere).read(TORCHSCRIPT),
        lambda: add(signed_elsewhere),
        lambda: audit.export(linear(12, 3).eval(), "made", input_shape=12),
    ):
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            use()
    assert not Path("made").exists()


def test_a_key_of_any_characters(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, KEY_VARIABLE.encode(), b"\xff\xfe" * 16)
    add(stranger)
    assert trusted_by(stranger) == "shared key"


def test_a_manifest_changed_after_it_was_signed(
    signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    change_producer(signed_elsewhere)
    assert "signature.json is not of this manifest" in refusal(signed_elsewhere)


def change(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, **fields}


SIGNATURES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda document: [document], "has another schema"),
    "another schema": (change(schema="audit-signature/2"), "has another schema"),
    "schema a list": (change(schema=["audit-signature/1"]), "has another schema"),
    "no key": (change(key_id=None), "is by another key"),
    "no signature": (change(signature=None), "has no signature of 64"),
    "empty": (change(signature=""), "has no signature of 64"),
    "short": (change(signature="0" * 63), "has no signature of 64"),
    "not text": (change(signature="é" * 64), "has no signature of 64"),
    "a line more": (change(signature="0" * 64 + "\n"), "has no signature of 64"),
    "wrong": (change(signature="0" * 64), "is not of this manifest"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_that_are_none(
    name: str, signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    path = signed_elsewhere / SIGNATURE
    alter, expected = SIGNATURES[name]
    path.write_text(json.dumps(alter(json.loads(path.read_text()))))
    assert f"{path} {expected}" in refusal(signed_elsewhere)


def test_signatures_that_cannot_be_read(
    signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    path = signed_elsewhere / SIGNATURE
    for text in (b"", b"\xff", b"[" * 60_000, b" " * 2**17 + path.read_bytes()):
        path.write_bytes(text)
        assert f"{path} is not JSON" in refusal(signed_elsewhere)
    path.unlink()
    assert f"{path}: missing" in refusal(signed_elsewhere)
    os.mkfifo(path)
    assert f"{path}: missing" in refusal(signed_elsewhere)


def test_a_signature_does_not_tell_the_key(signed_elsewhere: Path) -> None:
    document = json.loads((signed_elsewhere / SIGNATURE).read_text())
    assert document.keys() == {"schema", "key_id", "signature"}
    assert document["schema"] == "audit-signature/1"
    assert re.fullmatch("[0-9a-f]{16}", document["key_id"])
    assert KEY not in (signed_elsewhere / SIGNATURE).read_text()


def test_signing_again_replaces_a_link(
    signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger's link leads to isn't written to."""
    Path("precious").write_text("precious")
    (signed_elsewhere / SIGNATURE).unlink()
    (signed_elsewhere / SIGNATURE).symlink_to(Path("precious").absolute())
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    add(signed_elsewhere)
    assert Path("precious").read_text() == "precious"
    assert trusted_by(signed_elsewhere) == "shared key"


def test_to_remove_takes_the_signature_away(
    signed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = signed_elsewhere / SIGNATURE
    with pytest.raises(OptionError, match="not a bundle that this machine trusts"):
        trust.distrust_bundle(load_bundle(signed_elsewhere))
    monkeypatch.setenv(KEY_VARIABLE, ANOTHER_KEY)
    with pytest.raises(OptionError, match="not a bundle that this machine trusts"):
        trust.distrust_bundle(load_bundle(signed_elsewhere))
    assert path.exists()
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    trust.distrust_bundle(load_bundle(signed_elsewhere))
    assert not path.exists()
    refusal(signed_elsewhere)


def test_an_export_is_trusted_here_and_by_all_who_have_the_key(
    monkeypatch: pytest.MonkeyPatch, data_home: Path
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    bundle = audit.export(linear(12, 3).eval(), "made", input_shape=12)
    assert sorted(os.listdir("made")) == [MANIFEST, ONNX, TORCHSCRIPT, SIGNATURE]
    assert SIGNATURE not in bundle.manifest.files
    monkeypatch.delenv(KEY_VARIABLE)
    assert trust.judge(bundle).by == "this machine"
    shutil.rmtree(data_home)
    refusal(Path("made"))
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert trust.judge(bundle).by == "shared key"
    assert check_target(bundle.path)  # with a signature it is a bundle still, to be replaced


def test_a_signature_that_cannot_be_written(
    stranger: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (stranger / SIGNATURE).mkdir()
    with pytest.raises(OutputError, match=r"signature\.json: can't be written"):
        add(stranger)
    assert not store.exists()


# Without gradients, and without trust


def test_the_graph_alone_finds_what_torchscript_does(
    stranger: Path, mnist_h5: Path, tmp_path: Path
) -> None:
    """All of MNIST: no sample is so near to ε that the graph's rounding matters."""
    options: dict[str, Any] = {"model": stranger, "eps": 0.1, "no_gradients": True}
    alone = audit.scan(mnist_h5, out=tmp_path / "alone.h5", **options)
    vouched = audit.scan(mnist_h5, out=tmp_path / "vouched.h5", trust=True, **options)
    assert (alone.engine["decided_by"], alone.engine["undecided"]) == ("onnx", 0)
    assert (alone.engine["checked"], alone.engine["miss_rate_bound"]) == (0, None)
    assert vouched.engine["decided_by"] == "torchscript"
    assert alone.index.tolist() == vouched.index.tolist()
    assert alone.classes.tolist() == vouched.classes.tolist()
    np.testing.assert_allclose(alone.logits, vouched.logits, rtol=0, atol=alone.engine["guard"])


def test_what_the_graph_cannot_decide_is_counted(
    stranger: Path, mnist_h5: Path, tmp_path: Path
) -> None:
    """ε is the margin of a sample, to the last bit."""
    vouched = audit.scan(mnist_h5, model=stranger, eps=0.1, trust=True, out=tmp_path / "v.h5")
    eps = float(vouched.margin[0])
    alone = audit.scan(
        mnist_h5, model=stranger, eps=eps, no_gradients=True, out=tmp_path / "alone.h5"
    )
    assert alone.engine["undecided"] == 1
    text = text_from_summary(summary_from_findings(alone))
    assert "samples that its rounding leaves open: 1\n" in text
