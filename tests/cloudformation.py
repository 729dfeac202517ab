#!/usr/bin/env python3
"""The CloudFormation templates: cfn-lint, what they promise, and a deployment against moto's server.

Run by tests/run with the Python of $BUILD_AGENT_TEST_VENV, which .ci/run fills (cfn-lint, moto, boto3).
What is not installed is skipped with a line SKIPPED.
"""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TEMPLATES = TOP / "cloudformation"
# In the order in which docs/aws.md deploys them.
ORDER = ["ci_network", "cache", "seed_image", "hash_server", "check_layer"]
# Those without a default.
PARAMETERS = {
    "seed_image": {"SourceUrl": "https://github.com/example/build-agent.git"},
    "check_layer": {"Name": "meta-example", "Repository": "example/meta-example"},
}
# What only a pull request's machine and role have in their names.
UNTRUSTED, TRUSTED = "PullRequest", "Build"

try:
    import yaml
except ImportError:
    print("SKIPPED cloudformation: no PyYAML (pip install cfn-lint 'moto[server]')", file=sys.stderr)
    sys.exit(0)


class Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


def function(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if name == "Fn::GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


Loader.add_multi_constructor("!", function)


def load(name):
    return yaml.load((TEMPLATES / f"{name}.yml").read_text(), Loader)


def walk(value):
    """Every value inside, outermost first."""
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)


def calls(template, name):
    return [value[name] for value in walk(template) if isinstance(value, dict) and name in value]


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(resource):
    """The policy statements of a resource with their conditions taken as met."""
    for value in walk(resource):
        if isinstance(value, dict) and isinstance(value.get("Statement"), list):
            for statement in value["Statement"]:
                yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def resources(template, kind):
    return {name: it for name, it in template["Resources"].items() if it["Type"] == kind}


class Structure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.templates = {name: load(name) for name in ORDER}

    def test_these_are_all_templates(self):
        self.assertEqual({path.stem for path in TEMPLATES.iterdir()}, set(ORDER))

    def test_every_import_is_exported_by_an_earlier_stack(self):
        exported = set()
        for name in ORDER:
            template = self.templates[name]
            for imported in calls(template, "Fn::ImportValue"):
                self.assertIn(imported["Fn::Sub"], exported, name)
            for output in template["Outputs"].values():
                if "Export" in output:
                    export = output["Export"]["Name"]["Fn::Sub"]
                    self.assertTrue(export.startswith("${Prefix}"), export)
                    self.assertNotIn(export, exported, "two stacks export the same")
                    exported.add(export)
        for wanted in ("VPC", "PrivateSubnet1", "PrivateSubnet2"):
            self.assertIn(f"${{Prefix}}{wanted}", exported)

    def test_private_subnets_go_out_through_nat_alone(self):
        network = self.templates["ci_network"]
        tables = {
            it["Properties"]["SubnetId"]["Ref"]: it["Properties"]["RouteTableId"]
            for it in resources(network, "AWS::EC2::SubnetRouteTableAssociation").values()
        }
        routes = [it["Properties"] for it in resources(network, "AWS::EC2::Route").values()]
        self.assertEqual(set(tables), set(resources(network, "AWS::EC2::Subnet")))
        for subnet, table in tables.items():
            [way] = [it for it in routes if it["RouteTableId"] == table]
            self.assertEqual("NatGatewayId" in way, subnet.startswith("Private"), subnet)
        self.assertNotEqual(tables["PrivateSubnet1"], tables["PrivateSubnet2"])

    def test_no_group_lets_the_world_in(self):
        for name, template in self.templates.items():
            for group, it in resources(template, "AWS::EC2::SecurityGroup").items():
                rules = it["Properties"].get("SecurityGroupIngress", [])
                self.assertFalse([rule for rule in rules if rule.get("CidrIp") == "0.0.0.0/0"], f"{name}: {group}")
                # Without a rule of one's own, CloudFormation lets everything out.
                self.assertTrue(it["Properties"]["SecurityGroupEgress"], f"{name}: {group}")
        for group in ("NoIngressSecurityGroup", "TrustedSecurityGroup"):
            self.assertNotIn("SecurityGroupIngress", self.templates["ci_network"]["Resources"][group]["Properties"])

    def test_no_statement_allows_everything(self):
        seen = 0
        for name, template in self.templates.items():
            for statement in statements(template):
                seen += 1
                if statement["Effect"] != "Allow":
                    continue
                actions = listed(statement["Action"])
                self.assertFalse([action for action in actions if "*" in action], f"{name}: {statement}")
                self.assertNotIn("NotAction", statement)
                if "*" in listed(statement.get("Resource", [])):
                    # Calls that know no resource.
                    free = [a for a in actions if a == "ecr:GetAuthorizationToken" or a.startswith("ec2:Describe")]
                    self.assertEqual(free, actions, f"{name}: {statement}")
        self.assertGreater(seen, 20)

    def test_every_statement_of_a_role_is_told_in_the_docs(self):
        page = (TOP / "docs/aws.md").read_text()
        for name, template in self.templates.items():
            for kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
                for role, resource in resources(template, kind).items():
                    for statement in statements(resource["Properties"].get("Policies", [])):
                        self.assertIn(f"`{statement['Sid']}`", page, f"{name}: {role}")

    def test_the_commands_of_the_docs_fit_the_templates(self):
        page = (TOP / "docs/aws.md").read_text().replace("\\\n", " ")
        seen = []
        for line in page.splitlines():
            if not line.startswith("aws cloudformation deploy"):
                continue
            words = line.split()
            name = Path(words[words.index("--template-file") + 1]).stem
            seen.append(name)
            given = words[words.index("--parameter-overrides") + 1 :] if "--parameter-overrides" in words else []
            parameters = self.templates[name]["Parameters"]
            given = {word.split("=")[0] for word in given}
            self.assertLessEqual(given, set(parameters), line)
            self.assertLessEqual({key for key, it in parameters.items() if "Default" not in it}, given, line)
            makes_roles = bool(resources(self.templates[name], "AWS::IAM::Role"))
            self.assertEqual("CAPABILITY_IAM" in words, makes_roles, line)
        self.assertEqual(set(seen), set(ORDER))

    def test_every_parameter_and_output_is_told_with_its_meaning(self):
        for name, template in self.templates.items():
            self.assertIn("pricing", template["Description"], name)
            self.assertLessEqual(len(template["Description"]), 1024, "CloudFormation's limit")
            for parameter, it in template["Parameters"].items():
                self.assertIn("Description", it, f"{name}: {parameter}")

    def rights(self, role):
        resource = self.templates["check_layer"]["Resources"][f"{role}Role"]
        policies = [self.templates["check_layer"]["Resources"]["MachinePolicy"], resource["Properties"]["Policies"]]
        return [statement for policy in policies for statement in statements(policy)]

    def test_a_pull_request_writes_nothing_that_others_read(self):
        for statement in self.rights(UNTRUSTED):
            text = json.dumps(statement)
            actions = listed(statement["Action"])
            self.assertNotIn("/builds/", text)
            self.assertNotIn("secretsmanager", text)
            self.assertNotIn("TrustedSecurityGroup", text)
            if "elasticfilesystem:ClientWrite" in actions:
                self.assertIn("${Prefix}PullRequestAccessPointArn", text)
                self.assertNotIn("Shared", text)
            if any(action.startswith("elasticfilesystem:") for action in actions):
                self.assertIn("elasticfilesystem:AccessPointArn", statement["Condition"]["StringEquals"])
            if "s3:PutObject" in actions:
                self.assertEqual(statement["Resource"]["Fn::Sub"][0], "${Bucket}/pull-requests/${Name}/*")
            self.assertFalse([a for a in actions if a.startswith("ecr:Put")])
        writers = [s for s in self.rights(TRUSTED) if "elasticfilesystem:ClientWrite" in s["Action"]]
        self.assertIn("${Prefix}SharedAccessPointArn", json.dumps(writers))

    def test_a_pull_request_is_told_from_a_push(self):
        template = self.templates["check_layer"]
        found = {}
        for name, project in resources(template, "AWS::CodeBuild::Project").items():
            [group] = project["Properties"]["Triggers"]["FilterGroups"]
            found[name] = {it["Type"]: it["Pattern"] for it in group}
            for image in calls(project, "PrivilegedMode"):
                self.assertEqual(image, {"Fn::If": ["WithShare", True, False]})
        branches = {"Fn::Sub": "^refs/heads/(${ProtectedBranches})$"}
        events = "PULL_REQUEST_CREATED, PULL_REQUEST_UPDATED, PULL_REQUEST_REOPENED"
        self.assertEqual(found["PullRequestProject"], {"EVENT": events, "BASE_REF": branches})
        self.assertEqual(found["BuildProject"], {"EVENT": "PUSH", "HEAD_REF": branches})
        roles = [it["Properties"]["ServiceRole"] for it in resources(template, "AWS::CodeBuild::Project").values()]
        self.assertNotEqual(*roles)

    def buildspec(self, project):
        text = self.templates["check_layer"]["Resources"][project]["Properties"]["Source"]["BuildSpec"]["Fn::Sub"]
        # As Fn::Sub does it.
        values = {"Prefix": "", "Name": "meta-x"}
        text = re.sub(r"\$\{([\w:]+)\}", lambda it: values.get(it[1], it[1].lower().replace("::", "-")), text)
        return yaml.safe_load(text.replace("${!", "${"))

    def build(self, project, environment):
        """What the build phase starts: the words of the agent's command line."""
        [command] = self.buildspec(project)["phases"]["build"]["commands"]
        environment = {"RELEASE": "", "SHARE": "", "HASH_SERVER": "", "MANIFEST": "m", "DESTINATION": "d"} | environment
        script = f'build-agent() {{ printf "%s\\n" "$@"; }}\n{command}'
        ran = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
        return ran.stdout.splitlines()

    def test_the_buildspecs_call_the_agent(self):
        for project, access in (("PullRequestProject", "read-only"), ("BuildProject", "read-write")):
            plain = ["run", "m", "--out", "/tmp/build-agent-out", "--set", "artifacts.destination=d"]
            self.assertEqual(self.build(project, {}), plain)
            settings = ["release=scarthgap", "cache.share=/efs", f"cache.access={access}", "cache.hash_server=h:8686"]
            set_all = [word for setting in settings for word in ("--set", setting)]
            environment = {"RELEASE": "scarthgap", "SHARE": "/efs", "HASH_SERVER": "h:8686"}
            self.assertEqual(self.build(project, environment), plain + set_all)
            [(group, report)] = self.buildspec(project)["reports"].items()
            reports = self.templates["check_layer"]["Resources"][project.removesuffix("Project") + "Reports"]
            name = reports["Properties"]["Name"]["Fn::Sub"].replace("${Prefix}", "").replace("${Name}", "meta-x")
            self.assertEqual(group, f"arn:aws-partition:codebuild:aws-region:aws-accountid:report-group/{name}")
            self.assertEqual(report["file-format"], "JUNITXML")

    def test_scripts_are_shellcheck_clean(self):
        if not shutil.which("shellcheck"):
            self.skipTest("no shellcheck")
        scripts = [hash_server_script()]
        for project in ("PullRequestProject", "BuildProject"):
            phases = self.buildspec(project)["phases"]
            scripts += [command for phase in phases.values() for command in phase["commands"]]
        for script in scripts:
            # SC2154: the variables are the project's environment.
            check = ["shellcheck", "--shell=bash", "--exclude=SC2154", "-"]
            ran = subprocess.run(check, input=script, capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout)

    def test_the_file_system_wants_iam_and_tls(self):
        files = self.templates["cache"]["Resources"]["FileSystem"]["Properties"]
        self.assertTrue(files["Encrypted"])
        self.assertEqual(files["BackupPolicy"], {"Status": "DISABLED"})
        # Without an Allow there is nothing for who has no IAM right of their own.
        effects = {it["Sid"]: it["Effect"] for it in statements(files["FileSystemPolicy"])}
        self.assertEqual(set(effects.values()), {"Deny"})
        self.assertLessEqual({"OnlyEncryptedInTransit", "OnlyThroughAccessPoints", "NobodyIsRoot"}, set(effects))

    def test_only_stable_moves_and_it_is_kept(self):
        repository = self.templates["seed_image"]["Resources"]["Repository"]["Properties"]
        self.assertEqual(repository["ImageScanningConfiguration"], {"ScanOnPush": True})
        [moving] = calls(repository, "ImageTagMutabilityExclusionFilterValue")
        text = repository["LifecyclePolicy"]["LifecyclePolicyText"]["Fn::Sub"].replace("${KeepImages}", "20")
        first, *others = json.loads(text)["rules"]
        self.assertEqual((first["rulePriority"], first["selection"]["tagPatternList"]), (1, [moving]))
        # `stable` and `stable-arm64` are two images.
        self.assertEqual((first["selection"]["countType"], first["selection"]["countNumber"]), ("imageCountMoreThan", 2))
        self.assertTrue(all(rule["rulePriority"] > 1 for rule in others))

    def test_the_bucket_is_private(self):
        bucket = self.templates["cache"]["Resources"]["Bucket"]["Properties"]
        self.assertEqual(set(bucket["PublicAccessBlockConfiguration"].values()), {True})
        rules = bucket["LifecycleConfiguration"]["Rules"]
        self.assertTrue([rule for rule in rules if "AbortIncompleteMultipartUpload" in rule])
        [expiring] = [rule for rule in rules if "ExpirationInDays" in rule]
        self.assertEqual(expiring["Prefix"], "pull-requests/")

    def test_cfn_lint(self):
        lint = program("cfn-lint")
        if not lint:
            self.skipTest("no cfn-lint (pip install cfn-lint)")
        ran = subprocess.run([lint, "--", *sorted(map(str, TEMPLATES.glob("*.yml")))], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)


def program(name):
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, answers, process, patience=60):
    end = time.monotonic() + patience
    while not answers():
        if process.poll() is not None:
            raise AssertionError(f"{what} ended with {process.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"{what} does not answer")
        time.sleep(0.2)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Deployment(unittest.TestCase):
    """The stacks, one after another, into the empty account that moto is."""

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
        cls.session = boto3.Session("test", "test", region_name="eu-west-1")
        cls.address = f"http://127.0.0.1:{port}"
        cls.client("secretsmanager").create_secret(Name="build-agent/github", SecretString='{"token": "t"}')
        cls.outputs = {}
        for name in ORDER:
            cls.outputs[name] = cls.deploy(name, **PARAMETERS.get(name, {}))

    @classmethod
    def stop(cls):
        cls.server.terminate()
        cls.server.wait()

    @classmethod
    def client(cls, service):
        return cls.session.client(service, endpoint_url=cls.address)

    @classmethod
    def deploy(cls, template, suffix="", /, **parameters):
        stack = f"{parameters.get('Prefix', '')}build-agent-{template.replace('_', '-')}{suffix}"
        formation = cls.client("cloudformation")
        formation.create_stack(
            StackName=stack,
            TemplateBody=(TEMPLATES / f"{template}.yml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        [found] = formation.describe_stacks(StackName=stack)["Stacks"]
        assert found["StackStatus"] == "CREATE_COMPLETE", found
        return {it["OutputKey"]: it["OutputValue"] for it in found.get("Outputs", [])}

    def test_the_network(self):
        network = self.outputs["ci_network"]
        ec2 = self.client("ec2")
        in_vpc = [{"Name": "vpc-id", "Values": [network["VPC"]]}]
        subnets = ec2.describe_subnets(Filters=in_vpc)["Subnets"]
        self.assertEqual(len(subnets), 4)
        self.assertEqual(len({it["AvailabilityZone"] for it in subnets}), 2)
        self.assertEqual(len(ec2.describe_nat_gateways(Filters=in_vpc)["NatGateways"]), 2)
        routes = [it for table in ec2.describe_route_tables(Filters=in_vpc)["RouteTables"] for it in table["Routes"]]
        self.assertEqual(len({it["NatGatewayId"] for it in routes if it.get("NatGatewayId")}), 2)
        groups = [network["NoIngressSecurityGroup"], network["TrustedSecurityGroup"]]
        for group in ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]:
            self.assertEqual(group["IpPermissions"], [])

    def test_a_second_network_with_one_nat(self):
        network = self.deploy("ci_network", Prefix="second-", NatGateways="1")
        in_vpc = [{"Name": "vpc-id", "Values": [network["VPC"]]}]
        self.assertEqual(len(self.client("ec2").describe_nat_gateways(Filters=in_vpc)["NatGateways"]), 1)

    def test_the_cache(self):
        cache = self.outputs["cache"]
        [files] = self.client("efs").describe_file_systems(FileSystemId=cache["FileSystem"])["FileSystems"]
        self.assertTrue(files["Encrypted"])
        points = self.client("efs").describe_access_points(FileSystemId=cache["FileSystem"])["AccessPoints"]
        # By their names: moto gives no ids out for them.
        found = {it["Tags"][0]["Value"]: (it["RootDirectory"]["Path"], it["PosixUser"]["Uid"]) for it in points}
        self.assertEqual(found["shared"], ("/shared", 1000))
        self.assertEqual(found["shared to read"], ("/shared", 1001), "others may read what 1000 wrote, not write")
        self.assertEqual(found["pull requests"], ("/pull-requests", 1001))
        self.assertEqual(found["hash server"], ("/hash-server", 1002))
        targets = self.client("efs").describe_mount_targets(FileSystemId=cache["FileSystem"])["MountTargets"]
        network = self.outputs["ci_network"]
        self.assertEqual({it["SubnetId"] for it in targets}, {network["PrivateSubnet1"], network["PrivateSubnet2"]})

    def test_the_image(self):
        [repository] = self.client("ecr").describe_repositories()["repositories"]
        self.assertEqual(repository["repositoryUri"], self.outputs["seed_image"]["RepositoryUri"])
        self.assertEqual(repository["imageTagMutability"], "IMMUTABLE_WITH_EXCLUSION")
        [rule] = self.client("events").list_rules()["Rules"]
        self.assertEqual(rule["State"], "ENABLED")

    def test_a_second_layer_with_everything_switched_on(self):
        host = self.outputs["hash_server"]["Host"]
        settings = {"ImportToken": "false", "Share": "/efs", "HashServer": host, "Release": "scarthgap"}
        outputs = self.deploy("check_layer", "-2", Name="meta-2", Repository="example/meta-2", **settings)
        iam = self.client("iam")
        role = outputs["PullRequestRole"].rsplit("/", 1)[1]
        policy = iam.get_role_policy(RoleName=role, PolicyName="check")["PolicyDocument"]
        # moto keeps a policy of CloudFormation as Python writes it.
        policy = ast.literal_eval(policy) if isinstance(policy, str) else policy
        sids = {it["Sid"] for it in policy["Statement"] if it}
        self.assertLessEqual({"ReadTheCache", "WriteThePullRequestsPart"}, sids)
        self.assertNotIn("CloneThroughTheConnection", sids)

    def test_the_hash_server(self):
        host = self.outputs["hash_server"]["Host"]
        self.assertEqual(host, "hash.scarthgap.build-agent.internal")
        families = self.client("ecs").list_task_definition_families()["families"]
        self.assertEqual(families, ["hash-server-scarthgap"])

    def test_roles_name_what_exists(self):
        """The policies as deployed: every resource in them is one of this account, none is left unresolved."""
        iam = self.client("iam")
        roles = {it["RoleName"] for it in iam.list_roles()["Roles"]}
        self.assertGreaterEqual(len(roles), 6)
        documents = []
        for role in roles:
            for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
                documents.append(iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"])
        text = json.dumps(documents)
        self.assertIn(f'{self.outputs["cache"]["BucketArn"]}/pull-requests/meta-example/*', text)
        self.assertIn(":secret:build-agent/github-??????", text)
        self.assertNotIn("${", text)
        self.assertNotIn("Fn::", text)


def hash_server_script():
    [container] = load("hash_server")["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    [script] = container["Command"]
    return script


class HashServer(unittest.TestCase):
    """The task's own script with real BitBake."""

    def setUp(self):
        parameters = load("hash_server")["Parameters"]
        self.url = os.environ.get("BUILD_AGENT_TEST_BITBAKE", parameters["BitbakeUrl"]["Default"])
        self.tag = parameters["BitbakeTag"]["Default"]
        self.commit = parameters["BitbakeCommit"]["Default"]
        asked = ["timeout", "30", "git", "ls-remote", "--quiet", "--exit-code", self.url, f"refs/tags/{self.tag}"]
        if subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
            self.skipTest(f"{self.url} does not answer")
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def start(self, commit):
        self.read, self.write = free_port(), free_port()
        environment = os.environ | {
            "RELEASE": "scarthgap",
            "BITBAKE_URL": self.url,
            "BITBAKE_TAG": self.tag,
            "BITBAKE_COMMIT": commit,
            "SNAPSHOTS": self.directory.name,
            "SNAPSHOT_SECONDS": "3600",
            "READ_PORT": str(self.read),
            "WRITE_PORT": str(self.write),
            "HASHSERVER_ANON_PERMS": "@read @report",
        }
        process = subprocess.Popen(
            ["bash", "-c", hash_server_script()], env=environment, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )

        def end():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def ask(self, port, *messages):
        """The answers of a server; None where it closed the connection."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            lines = connection.makefile("rw")
            lines.write("OEHASHEQUIV 1.1\n\n")
            answers = []
            for message in messages:
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                answer = lines.readline()
                answers.append(json.loads(answer) if answer else None)
            return answers

    def test_the_read_port_reads_what_the_write_port_wrote_also_after_a_restart(self):
        task = {"method": "m", "taskhash": "a" * 64}
        report = {"report": {**task, "outhash": "b" * 64, "unihash": "c" * 64}}
        get = {"get": {**task, "all": False}}
        for first in (True, False):
            process = self.start(self.commit)
            wait_for("hash server", lambda: listens(self.write) and listens(self.read), process, 120)
            if first:
                self.ask(self.read, report)
                self.assertEqual(self.ask(self.read, get), [None], "the read port has written")
                [accepted] = self.ask(self.write, report)
                self.assertEqual(accepted["unihash"], "c" * 64)
            [known] = self.ask(self.read, get)
            self.assertEqual(known["unihash"], "c" * 64)
            process.terminate()
            self.assertEqual(process.wait(timeout=60), 0)
            self.assertFalse(listens(self.write) or listens(self.read), "a server was left behind")

    def test_another_commit_is_not_run(self):
        process = self.start("0" * 40)
        self.assertEqual(process.wait(timeout=120), 1)
        self.assertIn("nothing is run", process.stderr.read())


class Result(unittest.TextTestResult):
    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"SKIPPED cloudformation {test}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    unittest.main(testRunner=unittest.TextTestRunner(resultclass=Result))
