"""Gates: what a nightly scan must keep to, each PASS, WARN, FAIL or ERROR. See `docs/gates.md`."""

from audit.gates.kinds import DEFAULTS as DEFAULTS
from audit.gates.kinds import GATES as GATES
from audit.gates.kinds import LEVEL as LEVEL

KNOWN = (*GATES, LEVEL)  # keys of the table of gates
