"""Runs the state machine that starts the project that posts results, in moto's interpreter, with responses of CodeBuild."""

import json
import time
import unittest
from unittest import mock

from templates import Stack

PROJECT = "build-agent-meta-x-pull-requests"
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


class PostResults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            import boto3
            from moto import mock_aws
            from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
                state_task_service_aws_sdk,
            )
        except ImportError as error:
            raise unittest.SkipTest(f"no moto with Step Functions (pip install 'moto[server]'): {error}")
        cls.integration, cls.aws, cls.boto3 = state_task_service_aws_sdk, staticmethod(mock_aws), boto3
        given = {"Name": "meta-x", "Repository": "example/meta-x", "ResultName": "meta-x scarthgap", "TokenSecret": "t"}
        machine = Stack("post_results", **given).properties("Machine")
        # Without waiting for the retries of calls that fail.
        cls.definition = machine["DefinitionString"].replace('"MaxAttempts": 4', '"MaxAttempts": 0')

    def run_for(self, codebuild):
        given = json.dumps({"build": f"arn:aws:codebuild:eu-west-1:123456789012:build/{PROJECT}:0a1b-2c"})
        integration = mock.patch.object(self.integration, "boto_client_for", lambda **_: codebuild)
        with integration, self.aws(config={"stepfunctions": {"execute_state_machine": True}}):
            keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
            states = self.boto3.client("stepfunctions", region_name="eu-west-1", **keys)
            role = "arn:aws:iam::123456789012:role/post"
            machine = states.create_state_machine(name="post", definition=self.definition, roleArn=role)
            execution = states.start_execution(stateMachineArn=machine["stateMachineArn"], input=given)
            end = time.monotonic() + 60
            while True:
                answer = states.describe_execution(executionArn=execution["executionArn"])
                if answer["status"] != "RUNNING":
                    break
                self.assertLess(time.monotonic(), end, "the state machine does not end")
                time.sleep(0.02)
        self.assertEqual(answer["status"], "SUCCEEDED", answer)
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
