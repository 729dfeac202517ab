"""Runs state machines of the templates in moto's interpreter, with responses of a stand-in for CodeBuild."""

import json
import time
import unittest
from unittest import mock

# The project whose builds the state machines are about.
PROJECT = "build-agent-meta-x-pull-requests"


class StateMachineTest(unittest.TestCase):
    """A class of tests gives `definition`, the text of the state machine."""

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
        # Without waiting for the retries of calls that fail.
        cls.definition = cls.machine()["DefinitionString"].replace('"MaxAttempts": 4', '"MaxAttempts": 0')

    def execute(self, build, codebuild, status="SUCCEEDED"):
        """Starts it for the ARN of a build, and waits for its end."""
        integration = mock.patch.object(self.integration, "boto_client_for", lambda **_: codebuild)
        # A new account for each execution: moto cannot start a second one.
        with integration, self.aws(config={"stepfunctions": {"execute_state_machine": True}}):
            keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
            states = self.boto3.client("stepfunctions", region_name="eu-west-1", **keys)
            # For stand-ins that answer later.
            codebuild.states = states
            role = "arn:aws:iam::123456789012:role/machine"
            machine = states.create_state_machine(name="machine", definition=self.definition, roleArn=role)
            given = json.dumps({"build": build})
            execution = states.start_execution(stateMachineArn=machine["stateMachineArn"], input=given)
            end = time.monotonic() + 60
            while True:
                answer = states.describe_execution(executionArn=execution["executionArn"])
                if answer["status"] != "RUNNING":
                    break
                self.assertLess(time.monotonic(), end, "the state machine does not end")
                time.sleep(0.02)
        self.assertEqual(answer["status"], status, answer)
