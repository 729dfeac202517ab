"""Runs the state machine that starts the project that posts results, in moto's interpreter, with responses of CodeBuild."""

from state_machines import PROJECT, StateMachineTest
from templates import Stack

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class CodeBuild:
    """Answers like CodeBuild; a call that it does not know is an error."""

    def __init__(self, **build):
        self.build = {"Id": f"{PROJECT}:0a1b-2c", "BuildNumber": 3, "BuildStatus": "FAILED", **build}
        self.started = []

    def batch_get_builds(self, Ids):
        assert Ids == [f"{PROJECT}:0a1b-2c"], Ids
        return {"Builds": [self.build]}

    def start_build(self, **words):
        self.started.append(words)
        return {"Build": {"Id": "build-agent-meta-x-post:1"}}


class PostResults(StateMachineTest):
    @classmethod
    def machine(cls):
        given = {"Name": "meta-x", "Repository": "example/meta-x", "ResultName": "meta-x scarthgap", "TokenSecret": "t"}
        return Stack("post_results", **given).properties("Machine")

    def run_for(self, codebuild):
        self.execute(f"arn:aws:codebuild:eu-west-1:123456789012:build/{PROJECT}:0a1b-2c", codebuild)
        return codebuild.started

    def test_the_commit_that_codebuild_resolved_is_posted(self):
        for version in ("pr/7", f"pr/7^{{{'9' * 40}}}", "refs/pull/7/head", f"refs/pull/7/head^{{{'9' * 40}}}"):
            for status in ("SUCCEEDED", "FAILED", "TIMED_OUT"):
                codebuild = CodeBuild(SourceVersion=version, ResolvedSourceVersion=COMMIT, BuildStatus=status)
                [started] = self.run_for(codebuild)
                self.assertEqual(started["ProjectName"], "build-agent-meta-x-post")
                variables = {it["Name"]: it["Value"] for it in started["EnvironmentVariablesOverride"]}
                wanted = {"BUILD": "0a1b-2c", "COMMIT": COMMIT, "PULL_REQUEST": "7", "BUILD_STATUS": status}
                self.assertEqual(variables, wanted, version)

    def test_other_builds_are_not_posted(self):
        table = [{"SourceVersion": "main", "ResolvedSourceVersion": COMMIT}, {"ResolvedSourceVersion": COMMIT}]
        table += [{"SourceVersion": "pr/7"}, {"SourceVersion": "refs/heads/pr/7", "ResolvedSourceVersion": COMMIT}]
        for build in table:
            self.assertEqual(self.run_for(CodeBuild(**build)), [], build)
