"""The contract suites that prove a method or a task. `bench check` runs them; a plugin's own tests
can too.

>>> from harness.conformance import check_method
>>> failed = [check for check in check_method(MyMethod) if not check.holds]    # doctest: +SKIP
"""

from harness.conformance.method_checks import METHOD_CHECKS, check_method
from harness.conformance.problems import Check
from harness.conformance.task_checks import TASK_CHECKS, check_task

__all__ = ["METHOD_CHECKS", "TASK_CHECKS", "Check", "check_method", "check_task"]
