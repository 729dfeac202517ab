"""Runs state machines of the templates in moto's interpreter, with responses of a stand-in for the service that it calls."""

import importlib
import json
import time
import unittest
from unittest import mock

# The project whose builds the state machines are about.
PROJECT = "build-agent-meta-x-pull-requests"


class StateMachineTest(unittest.TestCase):
    """A class of tests gives `machine`, the properties of the state machine."""

    # moto's module for the kind of its tasks.
    tasks = "aws_sdk"

    @classmethod
    def setUpClass(cls):
        try:
            import boto3
            from moto import mock_aws

            service = "moto.stepfunctions.parser.asl.component.state.exec.state_task.service"
            cls.integration = importlib.import_module(f"{service}.state_task_service_{cls.tasks}")
        except ImportError as error:
            raise unittest.SkipTest(f"no moto with Step Functions (pip install 'moto[server]'): {error}")
        cls.aws, cls.boto3 = staticmethod(mock_aws), boto3
        # Without waiting for the retries of calls that fail.
        cls.definition = cls.machine()["DefinitionString"].replace('"MaxAttempts": 4', '"MaxAttempts": 0')

    def execute(self, build, codebuild, status="SUCCEEDED"):
        """Starts it for the ARN of a build, and waits for its end."""
        self.execute_with({"build": build}, codebuild, status)

    def execute_with(self, given, service, status):
        """Starts it with this input, and waits for its end."""
        integration = mock.patch.object(self.integration, "boto_client_for", lambda **_: service)
        # A new account for each execution: moto cannot start a second one.
        with integration, self.aws(config={"stepfunctions": {"execute_state_machine": True}}):
            keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
            states = self.boto3.client("stepfunctions", region_name="eu-west-1", **keys)
            # For stand-ins that answer later.
            service.states = states
            role = "arn:aws:iam::123456789012:role/machine"
            machine = states.create_state_machine(name="machine", definition=self.definition, roleArn=role)
            execution = states.start_execution(stateMachineArn=machine["stateMachineArn"], input=json.dumps(given))
            end = time.monotonic() + 60
            while True:
                answer = states.describe_execution(executionArn=execution["executionArn"])
                if answer["status"] != "RUNNING":
                    break
                self.assertLess(time.monotonic(), end, "the state machine does not end")
                time.sleep(0.02)
        self.assertEqual(answer["status"], status, answer)
