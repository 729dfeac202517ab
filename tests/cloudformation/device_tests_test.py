"""Runs the state machine that waits for a device, in moto's interpreter, with responses of a stand-in for CodeBuild."""

import json
import threading

from state_machines import PROJECT, StateMachineTest
from templates import Stack

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BUILDS = "build-agent-meta-x-builds"


class CodeBuild:
    """Answers like CodeBuild. The build that requests a test gives its token to the lab, which answers a moment later."""

    def __init__(self, answer, **build):
        self.build = {"Id": f"{PROJECT}:0a1b-2c", "BuildNumber": 3, "BuildStatus": "SUCCEEDED", "ProjectName": PROJECT, **build}
        self.answer, self.started, self.states = answer, [], None

    def batch_get_builds(self, Ids):
        return {"Builds": [self.build]}

    def start_build(self, **words):
        self.started.append(words)
        variables = {it["Name"]: it["Value"] for it in words["EnvironmentVariablesOverride"]}
        if "BUILD_AGENT_TASK_TOKEN" in variables:
            threading.Timer(0.2, self.resume, [variables["BUILD_AGENT_TASK_TOKEN"]]).start()
        return {"Build": {"Id": "build-agent-meta-x-device:1"}}

    def resume(self, token):
        if isinstance(self.answer, str):
            self.states.send_task_failure(taskToken=token, error="NoDeviceRequest", cause=self.answer)
        else:
            self.states.send_task_success(taskToken=token, output=json.dumps(self.answer))


class DeviceTests(StateMachineTest):
    @classmethod
    def machine(cls):
        given = {"Name": "meta-x", "Repository": "example/meta-x", "ResultName": "meta-x scarthgap", "TokenSecret": "t"}
        return Stack("device_tests", **given).properties("Machine")

    def run_for(self, codebuild, status="SUCCEEDED"):
        self.execute(f"arn:aws:codebuild:eu-west-1:123456789012:build/{PROJECT}:0a1b-2c", codebuild, status)
        return [
            (words["SourceVersion"], {it["Name"]: it["Value"] for it in words["EnvironmentVariablesOverride"]})
            for words in codebuild.started
        ]

    def test_the_verdict_of_the_lab_is_posted(self):
        verdict = {"requested": True, "request": "2026-x", "exit": "failed", "outcome": "failed"}
        for version in ("pr/7", f"pr/7^{{{'9' * 40}}}", "refs/pull/7/head", f"refs/pull/7/head^{{{'9' * 40}}}"):
            codebuild = CodeBuild(verdict, SourceVersion=version, ResolvedSourceVersion=COMMIT)
            [(base, request), (_, post)] = self.run_for(codebuild)
            self.assertEqual(base, "refs/heads/main", "the manifest of the base")
            self.assertTrue(request.pop("BUILD_AGENT_TASK_TOKEN"))
            wanted = {"ACTION": "request", "KIND": "pull-requests", "BUILD": "0a1b-2c", "COMMIT": COMMIT, "PULL_REQUEST": "7"}
            self.assertEqual(request, wanted, version)
            wanted = {"ACTION": "post", "COMMIT": COMMIT, "PULL_REQUEST": "7", "DEVICE_REQUEST": "2026-x"}
            self.assertEqual(post, wanted, version)

    def test_an_accepted_commit_has_its_own_manifest(self):
        build = {"Id": f"{BUILDS}:0a1b-2c", "ProjectName": BUILDS, "SourceVersion": "scarthgap"}
        codebuild = CodeBuild({"requested": True, "request": "2026-x"}, ResolvedSourceVersion=COMMIT, **build)
        [(version, request), _] = self.run_for(codebuild)
        self.assertEqual((version, request["KIND"], request["PULL_REQUEST"]), (COMMIT, "builds", ""))

    def test_nothing_is_posted_of_what_was_not_requested(self):
        codebuild = CodeBuild({"requested": False, "reason": "no"}, SourceVersion="pr/7", ResolvedSourceVersion=COMMIT)
        self.assertEqual(len(self.run_for(codebuild)), 1)

    def test_a_request_that_cannot_be_made_fails_the_execution(self):
        codebuild = CodeBuild("damaged", SourceVersion="pr/7", ResolvedSourceVersion=COMMIT)
        self.assertEqual(len(self.run_for(codebuild, "FAILED")), 1)

    def test_other_builds_are_not_tested(self):
        for build in ({"SourceVersion": "main", "ResolvedSourceVersion": COMMIT}, {"SourceVersion": "pr/7"}):
            self.assertEqual(self.run_for(CodeBuild({}, **build)), [], build)
