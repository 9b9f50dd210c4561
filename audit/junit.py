"""JUnit XML as Jenkins, GitLab and others read it: a case a gate.

Valid under the schema of Jenkins' xunit plugin, junit-10.xsd, which tests check.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from importlib.metadata import version
from typing import TYPE_CHECKING

from audit.check_text import explained
from audit.gates.condense import condensed

if TYPE_CHECKING:
    from audit.gates.result import CheckResult, GateResult, Status

# What XML 1.0 has no place for, escaped or not: https://www.w3.org/TR/xml/#charsets
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MOST_CASES = 1000  # of one gate's classes or pairs: servers choke on more
ELEMENTS: dict[Status, str] = {"FAIL": "failure", "ERROR": "error", "WARN": "system-out"}


def junit_from_check(result: CheckResult, *, warn_as_fail: bool = False) -> bytes:
    """The document in UTF-8.

    Args:
        result: Of the check. Of classes and pairs all that pass are one case, each other is one.
        warn_as_fail: Whether a warning is a failure; else its case passes and its text is output.
    """
    cases = condensed(result.results, MOST_CASES)
    elements = ELEMENTS | ({"WARN": "failure"} if warn_as_fail else {})
    found = [elements.get(case.status) for case in cases]
    numbers = {
        "tests": str(len(cases)),
        "failures": str(found.count("failure")),
        "errors": str(found.count("error")),
    }
    root = ET.Element("testsuites", {"name": "audit check", **numbers})
    suite = ET.SubElement(
        root,
        "testsuite",
        {"name": _legal(f"audit check {result.findings.path.name}"), **numbers, "skipped": "0"},
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(result).items():
        ET.SubElement(properties, "property", {"name": name, "value": _legal(value)})
    # Jenkins groups by class, and takes what is before the last dot for a package.
    where = "audit.check." + re.sub(r"\W+", "_", result.findings.path.stem)
    for case, element in zip(cases, found, strict=True):
        _add_case(suite, case, element, where)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _properties(result: CheckResult) -> dict[str, str]:
    findings = result.findings
    return {
        "findings": str(findings.path),
        "baseline": "" if result.baseline is None else str(result.baseline.path),
        "created": findings.created,
        "eps": f"{findings.eps:g}",
        "level": f"{result.level:g}",
        "version": version("near-tie-audit"),
    }


def _add_case(suite: ET.Element, case: GateResult, element: str | None, where: str) -> None:
    node = ET.SubElement(
        suite, "testcase", {"name": _legal(case.name), "classname": where, "time": "0"}
    )
    if element is None:
        return
    text = _legal(explained(case))
    if element == "system-out":
        ET.SubElement(node, element).text = f"{case.status}: {text}"
    else:
        ET.SubElement(node, element, {"type": case.status, "message": text}).text = text


def _legal(text: str) -> str:
    return ILLEGAL.sub("�", text)
