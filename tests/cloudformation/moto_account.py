"""A server of moto, and the stacks of the templates in it."""

import ast
import subprocess
import unittest

from templates import TEMPLATES, free_port, listens, program, wait_for

# Parameters without a default.
PARAMETERS = {
    "seed_image": {"SourceUrl": "https://github.com/example/build-agent.git"},
    "check_layer": {"Name": "meta-example", "Repository": "example/meta-example"},
    "post_results": {
        "Name": "meta-example",
        "Repository": "example/meta-example",
        "ResultName": "meta-example scarthgap",
        "TokenSecret": "build-agent/post",
    },
    "batch": {"Name": "meta-example", "Repository": "example/meta-example", "Kind": "builds"},
    "device_tests": {
        "Name": "meta-example",
        "Repository": "example/meta-example",
        "ResultName": "meta-example scarthgap",
        "TokenSecret": "build-agent/post",
    },
}
STACKS = {
    "source_credential": "credential",
    "ci_network": "network",
    "efs": "efs",
    "cache": "cache",
    "seed_image": "image",
    "alerts": "alerts",
    "prune_cache": "prune",
    "hash_server": "hash-scarthgap",
    "check_layer": "meta-example",
    "batch": "meta-example-batch-builds",
    "post_results": "meta-example-post",
    "lab": "lab",
    "device_tests": "meta-example-device",
}
# Which of them `cloudformation/deploy` makes. Two are in no list: moto's CloudFormation has no CloudFront for public pages, and
# aws_batch_test deploys that of AWS Batch.
BY_COMMAND = {name: stack for name, stack in STACKS.items() if name not in ("batch", "post_results", "lab", "device_tests")}


class Account:
    """One region of moto's account; regions do not see each other."""

    def __init__(self, boto3, address, region):
        self.session, self.address, self.region = boto3.Session("test", "test", region_name=region), address, region

    def client(self, service):
        return self.session.client(service, endpoint_url=self.address)

    def deploy(self, template, suffix="", /, **parameters):
        prefix = parameters.get("Prefix", "build-agent-")
        stack = f"{prefix}{STACKS[template]}{suffix}"
        formation = self.client("cloudformation")
        formation.create_stack(
            StackName=stack,
            TemplateBody=(TEMPLATES / f"{template}.yml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return self.outputs(stack)

    def outputs(self, stack):
        [found] = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        assert found["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), found
        return {it["OutputKey"]: it["OutputValue"] for it in found.get("Outputs", [])}

    def policies(self, role_arn):
        iam = self.client("iam")
        role = role_arn.rsplit("/", 1)[1]
        for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
            # moto stores a policy of CloudFormation in Python's notation.
            yield from (ast.literal_eval(document) if isinstance(document, str) else document)["Statement"]


class Moto(unittest.TestCase):
    """A server of moto with an empty account."""

    @classmethod
    def setUpClass(cls):
        server = program("moto_server")
        try:
            import boto3
        except ImportError:
            boto3 = None
        if not server or not boto3:
            raise unittest.SkipTest("no moto_server or boto3 (pip install 'moto[server]')")
        port = free_port()
        cls.server = subprocess.Popen(
            [server, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        cls.addClassCleanup(cls.stop)
        wait_for("moto_server", lambda: listens(port), cls.server)
        cls.address = f"http://127.0.0.1:{port}"
        cls.region = staticmethod(lambda region: Account(boto3, cls.address, region))

    @classmethod
    def stop(cls):
        cls.server.terminate()
        cls.server.wait()
