"""Runs the suite for ptests without OE-Core. usage: run.py CODE PLAN RESULTS

RESULTS gets what the suite adds to the results, and whether it passed.
"""

import importlib.util
import json
import logging
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Target:
    ssh = [os.path.join(HERE, "ssh")]
    ip = "guest"


class Context:
    pass


def main():
    code, plan, results = sys.argv[1:]
    sys.path.insert(0, HERE)
    os.environ["BUILD_AGENT_PTEST_PLAN"] = plan
    spec = importlib.util.spec_from_file_location("build_agent_ptest", code)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    case = module.PtestTest("test_ptests")
    case.target, case.tc, case.td, case.logger = Target(), Context(), {"libdir": "/usr/lib"}, logging.getLogger()
    outcome = unittest.TestResult()
    case.run(outcome)
    said = [text for _, text in outcome.failures + outcome.errors]
    answer = {"passed": outcome.wasSuccessful(), "skipped": len(outcome.skipped), "said": said}
    answer["results"] = getattr(case.tc, "extraresults", {})
    with open(results, "w") as file:
        json.dump(answer, file)


main()
