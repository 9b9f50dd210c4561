"""Which model a scan uses when several places name one."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.config import find_model
from audit.errors import BundleNotFoundError, OptionError

PLACES = ("argument", "variable", "audit.toml", "pyproject.toml", "attribute")


def found(places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The model, where each of `places` names a bundle called as itself."""
    monkeypatch.delenv("AUDIT_MODEL", raising=False)
    if "variable" in places:
        monkeypatch.setenv("AUDIT_MODEL", "variable")
    if "audit.toml" in places:
        Path("audit.toml").write_text('model = "audit.toml"')
    if "pyproject.toml" in places:
        Path("pyproject.toml").write_text('[tool.audit]\nmodel = "pyproject.toml"')
    argument = "argument" if "argument" in places else None
    return find_model(argument, "data.h5", "attribute" if "attribute" in places else None)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_MODEL", raising=False)


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_precedence(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(PLACES[first:], monkeypatch) == PLACES[first]


@pytest.mark.parametrize("place", PLACES)
def test_each_is_enough(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found((place,), monkeypatch) == place


def test_none_says_every_way() -> None:
    with pytest.raises(BundleNotFoundError) as caught:
        find_model(None, "data.h5", None)
    for way in ("data.h5", "--model", "AUDIT_MODEL", "audit.toml", "audit_bundle"):
        assert way in str(caught.value)


def test_path_objects_and_empty_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_MODEL", "")
    Path("audit.toml").write_text("other = 1")
    Path("pyproject.toml").write_text("[project]\nname = 'x'")
    assert find_model(None, "data.h5", "mnist") == "mnist"
    assert find_model(Path("a/b"), "data.h5", "mnist") == "a/b"


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("mnist", "mnist"),
        ("mine", "/data/mine"),
        ("sub/mine", "/data/sub/mine"),
        ("./mine", "/data/mine"),
        ("..mine", "/data/..mine"),
        ("../mine", None),
        ("sub/../../mine", None),
        ("/data/mine", None),
        ("/etc", None),
        ("", None),
    ],
)
def test_attribute_stays_in_the_folder_of_the_dataset(attribute: str, expected: str | None) -> None:
    if expected is not None:
        assert find_model(None, "/data/x.h5", attribute) == expected
        return
    with pytest.raises(BundleNotFoundError, match=r"/data/x\.h5.*--model"):
        find_model(None, "/data/x.h5", attribute)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("audit.toml", "model =", "audit.toml: not TOML"),
        ("audit.toml", "model = ['a']", "audit.toml: model is"),
        ("pyproject.toml", "[tool.audit", "pyproject.toml: not TOML"),
        ("pyproject.toml", "tool = 3", "pyproject.toml: tool.audit"),
        ("pyproject.toml", "tool.audit = 3", "pyproject.toml: tool.audit"),
        ("pyproject.toml", "tool.audit.model = 3", "pyproject.toml: model is 3"),
    ],
)
def test_unreadable_configuration(file: str, text: str, message: str) -> None:
    Path(file).write_text(text)
    with pytest.raises(OptionError, match=message):
        find_model(None, "data.h5", "mnist")


def test_configuration_that_is_not_utf8() -> None:
    Path("audit.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(OptionError, match=r"audit\.toml: not TOML"):
        find_model(None, "data.h5", "mnist")
