"""Runs `cloudformation/deploy` and the commands of docs/aws.md against moto's server."""

import ast
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import docs_test
from moto_account import BY_COMMAND, STACKS, Moto
from templates import DEFAULT, TEMPLATES, TOP, program

# Records all calls of the AWS CLI, and forwards them, except those that moto does not support.
STAND_IN = """
import ast, os, re, sys
words = sys.argv[1:]
with open(os.environ["AWS_CALLS"], "a") as calls:
    print(*words, file=calls)
if words[:2] == ["codebuild", "list-source-credentials"]:
    print(os.environ["CREDENTIALS"])
elif words[:2] == ["cloudformation", "deploy"]:
    # The CLI uses change sets, and moto forgets the exports of their stacks. Like it, a parameter that is not given keeps
    # its value.
    import boto3
    position = words.index("--parameter-overrides") if "--parameter-overrides" in words else len(words)
    options = {word: words[index + 1] for index, word in enumerate(words[:position]) if word.startswith("--")}
    given = dict(word.split("=", 1) for word in words[position + 1:])
    template = open(options["--template-file"]).read()
    client = boto3.client("cloudformation", region_name=os.environ["AWS_REGION"], endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name = options["--stack-name"]
    if "-aws-batch-" in name:
        # moto, unlike AWS, does not know that Batch has a role of its own.
        arn = "arn:aws:iam::123456789012:role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForbatch"
        template = template.replace("      Type: MANAGED\\n", f"      Type: MANAGED\\n      ServiceRole: {arn}\\n")
    section = re.split(r"\\n(?=\\S)", template.split("\\nParameters:\\n", 1)[1])[0]
    known = set(re.findall(r"(?m)^  (\\w+):$", section))
    if not set(given) <= known:
        sys.exit(f"{name} has no parameter {set(given) - known}")
    try:
        [stack] = client.describe_stacks(StackName=name)["Stacks"]
        # moto shows a list in Python's notation.
        plain = lambda text: ",".join(ast.literal_eval(text)) if text.startswith("[") else text
        before = {it["ParameterKey"]: plain(it["ParameterValue"]) for it in stack["Parameters"]}
        given = before | given
    except client.exceptions.ClientError:
        before = None
    if given == before and client.get_template(StackName=name)["TemplateBody"] == template:
        sys.exit(None if "--no-fail-on-empty-changeset" in words else "No changes to deploy")
    if before is not None:
        # moto cannot update stacks with Fn::GetAtt. Only the stack of a layer is changed in these tests: nothing imports from it.
        client.delete_stack(StackName=name)
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    capabilities = [options["--capabilities"]] if "--capabilities" in options else []
    client.create_stack(StackName=name, TemplateBody=template, Parameters=parameters, Capabilities=capabilities)
elif words[:2] == ["iam", "get-role"]:
    # moto writes the names of these roles in another way, and compares the case of letters.
    os.execv(CLI, [CLI, *words[:3], words[3].replace("ForECS", "Forecs").replace("ForBatch", "Forbatch")])
elif words[:2] == ["codebuild", "import-source-credentials"]:
    import json
    print(json.load(sys.stdin)["serverType"])
else:
    os.execv(CLI, [CLI, *words])
"""


class Command(Moto):
    """`cloudformation/deploy` with the AWS CLI."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not program("aws"):
            raise unittest.SkipTest("no AWS CLI (pip install awscli)")
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = Path(directory.name)
        stand_in = cls.directory / "aws"
        stand_in.write_text(f"#!{sys.executable}\nCLI = {program('aws')!r}\n{STAND_IN}")
        stand_in.chmod(0o755)

    def prepare(self, region):
        """moto makes no CodeBuild project for CloudFormation, so the one that the command starts is made here."""
        account = self.region(region)
        account.client("codebuild").create_project(
            name="build-agent-image",
            source={"type": "GITHUB", "location": "https://github.com/example/build-agent.git"},
            artifacts={"type": "NO_ARTIFACTS"},
            environment={"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_LARGE"},
            serviceRole="arn:aws:iam::123456789012:role/service-role/image",
        )
        return account

    def calls(self, region, *texts):
        """The calls of the AWS CLI that have one of the texts, in their order."""
        lines = (self.directory / region).read_text().splitlines()
        return [line for line in lines if any(text in line for text in texts)]

    def environment(self, region, credentials="0"):
        return {
            "PATH": f"{self.directory}:{os.environ['PATH']}",
            "AWS_CALLS": str(self.directory / region),
            "CREDENTIALS": credentials,
            "HOME": "/nonexistent",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_ENDPOINT_URL": self.address,
        }

    def run_deploy(self, region, *words, token="", credentials="0"):
        environment = self.environment(region, credentials)
        source = ["--source", "https://github.com/example/build-agent.git"]
        return subprocess.run(
            [TEMPLATES / "deploy", *source, *words], env=environment, input=token, capture_output=True, text=True
        )

    def parameters(self, account, stack):
        [found] = account.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        # moto shows a list in Python's notation.
        plain = lambda text: ",".join(ast.literal_eval(text)) if text.startswith("[") else text
        return {it["ParameterKey"]: plain(it["ParameterValue"]) for it in found["Parameters"]}

    def stacks(self, account):
        return [it["StackName"] for it in reversed(account.client("cloudformation").describe_stacks()["Stacks"])]

    def test_from_nothing_and_again(self):
        account = self.prepare("us-east-1")
        words = ["--layer", "example/meta-example", "--branches", "scarthgap|master", "--email", "me@example.com"]
        ran = self.run_deploy("us-east-1", *words, token="github_pat_1aB\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertNotIn("github_pat", ran.stdout + ran.stderr)
        wanted = {f"build-agent-{STACKS[name]}" for name in DEFAULT}
        self.assertEqual(set(self.stacks(account)), wanted)
        secret = account.client("secretsmanager").get_secret_value(SecretId="build-agent/github")["SecretString"]
        self.assertEqual(secret, '{"token":"github_pat_1aB"}')
        builds = account.client("codebuild").list_builds_for_project(projectName="build-agent-image")["ids"]
        self.assertEqual(len(builds), 1, "the image is built before the command ends")
        # A further layer: the command asks no question again, and the settings of the first call stay.
        ran = self.run_deploy("us-east-1", "--layer", "example/meta_2.x")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(set(self.stacks(account)), wanted | {"build-agent-meta-2-x"})
        formation = account.client("cloudformation")
        [alerts] = formation.describe_stacks(StackName="build-agent-alerts")["Stacks"]
        self.assertIn({"ParameterKey": "Email", "ParameterValue": "me@example.com"}, alerts["Parameters"])
        # The same layer: only what is given changes.
        before = self.parameters(account, "build-agent-meta-example")
        self.assertEqual(before["ProtectedBranches"], "scarthgap|master")
        ran = self.run_deploy("us-east-1", "--layer", "example/meta-example", "--set", "ConcurrentPullRequests=3")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        after = self.parameters(account, "build-agent-meta-example")
        self.assertEqual(after, before | {"ConcurrentPullRequests": "3"})
        # Nor does it take the projects of another layer with the same name.
        ran = self.run_deploy("us-east-1", "--layer", "another/meta-example")
        self.assertEqual(ran.returncode, 1)
        self.assertIn("the stack build-agent-meta-example checks example/meta-example", ran.stderr)
        self.assertEqual(self.parameters(account, "build-agent-meta-example"), after)

    def forget_the_service_roles(self, account):
        """These are of the account, and other tests made them."""
        iam = account.client("iam")
        for it in iam.list_roles()["Roles"]:
            if it["RoleName"].startswith("AWSServiceRoleFor"):
                iam.delete_role(RoleName=it["RoleName"])

    def test_everything(self):
        account = self.prepare("us-west-2")
        self.forget_the_service_roles(account)
        words = ["--layer", "example/meta-example", "--share", "efs", "--hash-server", "scarthgap"]
        ran = self.run_deploy("us-west-2", *words, token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(set(self.stacks(account)), {f"build-agent-{name}" for name in BY_COMMAND.values()})
        [layer] = account.client("cloudformation").describe_stacks(StackName="build-agent-meta-example")["Stacks"]
        parameters = {it["ParameterKey"]: it["ParameterValue"] for it in layer["Parameters"]}
        self.assertEqual(parameters["Share"], "efs")
        self.assertEqual(parameters["HashServer"], "hash.build-agent-scarthgap.internal")
        # The role of ECS comes before the first cluster, and the image before the task that needs it.
        calls = self.calls(
            "us-west-2", "create-service-linked-role", "batch-get-builds", "deploy --stack-name build-agent-hash"
        )
        kinds = [next(kind for kind in ("linked-role", "batch-get", "hash") if kind in call) for call in calls]
        self.assertEqual(kinds, ["linked-role", "batch-get", "hash"])

    def test_a_runner(self):
        account = self.prepare("eu-north-1")
        words = ["--layer", "example/meta-example", "--mode", "runner", "--branches", "main|scarthgap"]
        ran = self.run_deploy("eu-north-1", *words, token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        providers = account.client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"]
        [arn] = [it["Arn"] for it in providers]
        self.assertTrue(arn.endswith(":oidc-provider/token.actions.githubusercontent.com"), arn)
        outputs = account.outputs("build-agent-meta-example")
        role = account.client("iam").get_role(RoleName=outputs["BuildRole"].rsplit("/", 1)[1])["Role"]
        for branch in ("main", "scarthgap"):
            self.assertIn(f"repo:example/meta-example:ref:refs/heads/{branch}", str(role["AssumeRolePolicyDocument"]))
        before = self.parameters(account, "build-agent-meta-example")
        for again in (words, words[:2]):
            ran = self.run_deploy("eu-north-1", *again)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            self.assertEqual(self.parameters(account, "build-agent-meta-example"), before, again)

    MATRIX = ("builds", "prs")

    def test_a_matrix_in_codebuild(self):
        account = self.prepare("eu-central-2")
        words = ["--layer", "example/meta-example", "--matrix", "codebuild", "--branches", "scarthgap|master"]
        more = ["--set", "ComputeType=BUILD_GENERAL1_XLARGE", "--set", "WarmTargets=quilt-native"]
        ran = self.run_deploy("eu-central-2", *words, *more, token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertNotIn("still builds each commit", ran.stderr)
        stacks = {f"build-agent-{STACKS[name]}" for name in DEFAULT if name != "check_layer"}
        stacks |= {f"build-agent-meta-example-batch-{kind}" for kind in self.MATRIX}
        self.assertEqual(set(self.stacks(account)), stacks, "without the layer's own stack")
        before = {kind: self.parameters(account, f"build-agent-meta-example-batch-{kind}") for kind in self.MATRIX}
        for kind, name in zip(self.MATRIX, ("builds", "pull-requests"), strict=True):
            wanted = {"Kind": name, "Name": "meta-example", "Repository": "example/meta-example", "Share": "s3"}
            wanted |= {"ProtectedBranches": "scarthgap|master", "ComputeType": "BUILD_GENERAL1_XLARGE", "ImageTag": "stable"}
            self.assertLessEqual(wanted.items(), before[kind].items())
        # Again: it knows the engine. With EFS, the network and the file system come first.
        ran = self.run_deploy("eu-central-2", "--layer", "example/meta-example", "--share", "efs")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(set(self.stacks(account)), stacks | {"build-agent-network", "build-agent-efs"})
        for kind in self.MATRIX:
            after = self.parameters(account, f"build-agent-meta-example-batch-{kind}")
            self.assertEqual(after, before[kind] | {"Share": "efs"})
        ran = self.run_deploy("eu-central-2", "--layer", "another/meta-example")
        self.assertIn("the stack build-agent-meta-example-batch-builds checks example/meta-example", ran.stderr)

    def test_a_layer_gets_a_matrix(self):
        account = self.prepare("ap-southeast-2")
        layer = ["--layer", "example/meta-example"]
        ran = self.run_deploy("ap-southeast-2", *layer, "--branches", "scarthgap", "--share", "none", token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        before = self.parameters(account, "build-agent-meta-example")
        # The stacks begin with the values of the layer, which stays as it is.
        ran = self.run_deploy("ap-southeast-2", *layer, "--matrix", "codebuild")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("build-agent-meta-example still builds each commit, too", ran.stderr)
        self.assertEqual(self.parameters(account, "build-agent-meta-example"), before)
        made = self.parameters(account, "build-agent-meta-example-batch-builds")
        self.assertEqual((made["ProtectedBranches"], made["Share"]), ("scarthgap", "none"))
        # Each gets the parameters that its template has.
        ran = self.run_deploy("ap-southeast-2", *layer, "--set", "MaximumBuilds=9", "--set", "Release=scarthgap")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(self.parameters(account, "build-agent-meta-example"), before | {"Release": "scarthgap"})
        self.assertEqual(self.parameters(account, "build-agent-meta-example-batch-builds"), made | {"MaximumBuilds": "9"})
        # The stacks of a layer NAME-aws have the names of the stacks of NAME on AWS Batch.
        ran = self.run_deploy("ap-southeast-2", "--layer", "example/meta-example-aws", "--matrix", "codebuild")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        other = self.parameters(account, "build-agent-meta-example-aws-batch-builds")
        ran = self.run_deploy("ap-southeast-2", *layer)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        ran = self.run_deploy("ap-southeast-2", *layer, "--matrix", "aws-batch")
        self.assertIn("the stack build-agent-meta-example-aws-batch-builds checks example/meta-example-aws", ran.stderr)
        self.assertEqual(self.parameters(account, "build-agent-meta-example-aws-batch-builds"), other)

    def test_a_matrix_on_aws_batch(self):
        account = self.prepare("ap-southeast-1")
        self.forget_the_service_roles(account)
        words = ["--layer", "example/meta-example", "--matrix", "aws-batch", "--branches", "main|release/1.x"]
        # moto does not know families of instances.
        more = ["--set", "InstanceTypes=m5.4xlarge", "--cpu", "arm64"]
        ran = self.run_deploy("ap-southeast-1", *words, *more, token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        stacks = {f"build-agent-{STACKS[name]}" for name in DEFAULT if name != "check_layer"} | {"build-agent-network"}
        stacks |= {f"build-agent-meta-example-aws-batch-{kind}" for kind in self.MATRIX}
        self.assertEqual(set(self.stacks(account)), stacks)
        before = {kind: self.parameters(account, f"build-agent-meta-example-aws-batch-{kind}") for kind in self.MATRIX}
        for kind, name in zip(self.MATRIX, ("builds", "pull-requests"), strict=True):
            wanted = {"Kind": name, "Branches": "main,release/1.x", "Share": "s3", "ImageTag": "stable-arm64"}
            self.assertLessEqual(wanted.items(), before[kind].items())
        calls = self.calls("ap-southeast-1", "create-service-linked-role", "deploy --stack-name build-agent-meta-example")
        kinds = [next((it for it in ("ecs", "batch") if f"name {it}.amazonaws.com" in call), "stack") for call in calls]
        self.assertEqual(kinds, ["ecs", "batch", "stack", "stack"])
        [line] = [call for call in calls if "aws-batch-prs" in call]
        self.assertIn("InstanceTypes=m6g,m7g,m8g", line)
        ran = self.run_deploy("ap-southeast-1", "--layer", "example/meta-example")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(set(self.stacks(account)), stacks)
        for kind in self.MATRIX:
            self.assertEqual(self.parameters(account, f"build-agent-meta-example-aws-batch-{kind}"), before[kind])

    def test_a_pinned_image_and_another_architecture_stay(self):
        account = self.prepare("ap-south-1")
        layer = ("--layer", "example/meta-example")
        first = ["--cpu", "arm64", "--share", "none", "--set", "ImageTag=0123456-20260102T030405Z"]
        ran = self.run_deploy("ap-south-1", *layer, *first, token="ghp_1\n")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        before = {name: self.parameters(account, name) for name in self.stacks(account)}
        self.assertEqual(before["build-agent-image"]["CpuArchitecture"], "arm64")
        self.assertEqual(before["build-agent-meta-example"]["ImageTag"], "0123456-20260102T030405Z")
        ran = self.run_deploy("ap-south-1", *layer)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual({name: self.parameters(account, name) for name in self.stacks(account)}, before)

    def test_the_cli_itself_deploys_a_stack(self):
        """With the arguments of the command. Only one stack, and once: moto's change sets lose exports, and moto refuses one
        without changes, where AWS makes one that failed."""
        words = ["--layer", "example/meta-example", "--dry-run"]
        printed = self.run_deploy("ca-central-1", *words).stdout.splitlines()
        [line] = [line for line in printed if "--stack-name build-agent-cache " in line]
        environment = self.environment("ca-central-1") | {"PATH": f"{Path(program('aws')).parent}:{os.environ['PATH']}"}
        ran = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("Successfully created/updated stack - build-agent-cache", ran.stdout)

    def test_the_commands_of_the_page(self):
        """All commands of docs/aws.md, in their order, in an empty account. `sleep` does not wait."""
        account = self.prepare("ap-northeast-1")
        blocks = [it for it in docs_test.blocks() if not re.search(r"^(cloudformation/deploy|git|gh) ", it, re.MULTILINE)]
        self.assertGreater(len(blocks), 8)
        self.forget_the_service_roles(account)
        iam = account.client("iam")
        for it in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]:
            iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=it["Arn"])
        for block in blocks:
            # Not in moto's CloudFormation: CloudFront, and the service-linked role of AWS Batch (see aws_batch_test).
            if "public_reports.yml" in block or "aws_batch.yml" in block:
                continue
            typed = "someone\ndckr_pat_1\n" if "read -r user" in block else "github_pat_1aB\n"
            script = f"set -euo pipefail\nsleep() {{ :; }}\n{block}"
            environment = self.environment("ap-northeast-1")
            ran = subprocess.run(
                ["bash", "-c", script], env=environment, input=typed, capture_output=True, text=True, cwd=TOP
            )
            self.assertEqual(ran.returncode, 0, block + ran.stdout + ran.stderr)
        stacks = {f"build-agent-{name}" for name in [*STACKS.values(), "meta-example-batch-prs"]}
        self.assertEqual(set(self.stacks(account)), stacks)
        secrets = {it["Name"] for it in account.client("secretsmanager").list_secrets()["SecretList"]}
        self.assertEqual(secrets, {"build-agent/github", "build-agent/dockerhub", "build-agent/meta-example"})

    def test_an_account_that_has_a_credential(self):
        account = self.prepare("eu-west-3")
        ran = self.run_deploy("eu-west-3", "--layer", "example/meta-example", credentials="1")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("CodeBuild has a GitHub credential in this account and region already", ran.stderr)
        wanted = {f"build-agent-{STACKS[name]}" for name in DEFAULT if name != "source_credential"}
        self.assertEqual(set(self.stacks(account)), wanted)
        self.assertEqual(account.client("secretsmanager").list_secrets()["SecretList"], [], "no token was asked for")

    def test_a_dry_run_changes_nothing(self):
        words = ["--layer", "example/meta-example", "--share", "efs", "--hash-server", "scarthgap", "--dry-run"]
        ran = self.run_deploy("eu-south-1", *words)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(self.stacks(self.region("eu-south-1")), [])
        changes = ("create-", "deploy", "start-", "delete-", "put-")
        self.assertEqual(self.calls("eu-south-1", *changes), [])
        for name in BY_COMMAND.values():
            self.assertIn(f"--stack-name build-agent-{name} ", ran.stdout)
        self.assertIn("aws secretsmanager create-secret", ran.stdout)

    def test_errors_are_reported_before_anything_is_deployed(self):
        table = {
            (): "the layer is missing",
            ("--layer", "meta-x"): "the layer is missing",
            ("--layer", "a/bb", "--share", "nfs"): "--share nfs",
            ("--layer", "a/bb", "--mode", "x"): "--mode x",
            ("--layer", "a/bb", "--set", "Share"): "--set Share",
            ("--layer", "a/bb", "--set", "A-b=1"): "--set A-b=1: a key",
            ("--layer", "a/bb", "--matrix", "codebuild", "--set", "Kind=builds"): "this command sets it for each stack",
            ("--layer", "a/bb", "--set", "MaximumBuilds=1"): "--set MaximumBuilds: there is no such parameter",
            ("--layer", "a/bb", "--matrix", "codebuild", "--set", "Release=x"): "--set Release: there is no such parameter",
            ("--layer", "a/bb", "--matrix", "x"): "--matrix x",
            ("--layer", "a/bb", "--matrix", "codebuild", "--mode", "runner"): "a workflow has a matrix of its own",
            ("--layer", "a/bb", "--matrix", "codebuild", "--hash-server", "scarthgap"): "each needs its own server",
            ("--layer", "a/bb", "--matrix", "aws-batch", "--share", "none"): "jobs of AWS Batch need a share",
            ("--layer", "a/bb", "--matrix", "aws-batch", "--branches", "release-.*"): "with AWS Batch these are names",
            ("--layer", "a/bb", "--name", "x-batch-prs"): "build-agent has a stack of its own with this name",
            ("--layer", "a/bb", "--branches"): "--branches is not an option, or its value is missing",
            ("--layer", "a/bb", "--what", "x"): "--what is not an option",
            ("--layer", "a/bb", "--name", "x.y"): "--name x.y",
            ("--layer", "a/bb", "--name", "x"): "--name x",
            ("--layer", "a/cache"): "build-agent has a stack of its own with this name",
            ("--layer", "a/bb", "--name", "hash-scarthgap"): "build-agent has a stack of its own with this name",
            ("--layer", f"a/{'b' * 40}"): "longer than 39 characters",
            ("--layer", "a/bb", "--prefix", "Test-"): "--prefix Test-",
            ("--layer", "a/bb", "--prefix", "test"): "--prefix test",
            ("--layer", "a/bb", "--prefix", ""): "--prefix : lower case letters",
            ("--layer", "a/bb", "--cpu", "x86"): "--cpu x86",
            ("--layer", "a/bb", "--mode", "runner", "--branches", "main|release-.*"): "these are names",
            ("--layer", "a/bb", "--source", "git@example.com:x/y"): "CodeBuild needs an https address",
        }
        for words, message in table.items():
            ran = self.run_deploy("sa-east-1", *words)
            self.assertEqual(ran.returncode, 1, words)
            self.assertIn(message, ran.stderr, words)
        for token in ("", "\n", 'a"b\n', "two words\n"):
            ran = self.run_deploy("sa-east-1", "--layer", "a/bb", token=token)
            self.assertEqual(ran.returncode, 1, token)
            self.assertIn("this is not a GitHub token", ran.stderr)
        self.assertEqual(self.stacks(self.region("sa-east-1")), [])
