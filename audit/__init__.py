"""Find the inputs a classifier can't decide between two classes, and what would tip them.

The verbs of the command line, as functions. Importing this loads no heavy package; each verb
loads what it needs when it is called.
"""

from audit.ascend import ascend as ascend
from audit.ascent import Ascents as Ascents
from audit.ascent import load_ascents as load_ascents
from audit.check import CheckResult as CheckResult
from audit.check import GateResult as GateResult
from audit.check import check as check
from audit.diff import Diff as Diff
from audit.diff import diff as diff
from audit.errors import AuditError as AuditError
from audit.export import export as export
from audit.figure import figure as figure
from audit.findings import Findings as Findings
from audit.findings import load_findings as load_findings
from audit.history import History as History
from audit.history import history as history
from audit.log import log as log
from audit.report import report as report
from audit.scan import scan as scan
from audit.verify import Verification as Verification
from audit.verify import Verified as Verified
from audit.verify import verify as verify
from audit.view import view as view
