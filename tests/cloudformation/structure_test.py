"""Checks the text of the templates; runs cfn-lint, and shellcheck on the scripts in them."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import yaml

from templates import ORDER, TEMPLATES, TOP, calls, hash_server_script, listed, load, program, resources, statements

# The prefixes in the names of each project and its role.
UNTRUSTED, TRUSTED = "PullRequest", "Build"


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

    def test_private_subnets_reach_the_internet_only_through_nat(self):
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

    def test_no_group_allows_inbound_traffic_from_the_internet(self):
        for name, template in self.templates.items():
            for group, it in resources(template, "AWS::EC2::SecurityGroup").items():
                rules = it["Properties"].get("SecurityGroupIngress", [])
                self.assertFalse([rule for rule in rules if rule.get("CidrIp") == "0.0.0.0/0"], f"{name}: {group}")
                # Without an explicit rule, CloudFormation allows all outbound traffic.
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
                    # Calls that have no resource.
                    free = [a for a in actions if a == "ecr:GetAuthorizationToken" or a.startswith("ec2:Describe")]
                    self.assertEqual(free, actions, f"{name}: {statement}")
        self.assertGreater(seen, 20)

    def test_every_statement_of_a_role_is_documented(self):
        page = (TOP / "docs/aws.md").read_text()
        for name, template in self.templates.items():
            for kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
                for role, resource in resources(template, kind).items():
                    for statement in statements(resource["Properties"].get("Policies", [])):
                        self.assertIn(f"`{statement['Sid']}`", page, f"{name}: {role}")

    def test_the_commands_of_the_docs_match_the_templates(self):
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

    def test_every_parameter_and_output_has_a_description(self):
        for name, template in self.templates.items():
            self.assertIn("pricing", template["Description"], name)
            self.assertLessEqual(len(template["Description"]), 1024, "CloudFormation's limit")
            for parameter, it in template["Parameters"].items():
                self.assertIn("Description", it, f"{name}: {parameter}")

    def rights(self, role):
        resource = self.templates["check_layer"]["Resources"][f"{role}Role"]
        policies = [self.templates["seed_image"]["Resources"]["MachinePolicy"], resource["Properties"]["Policies"]]
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

    def test_a_pull_request_is_distinguished_from_a_push(self):
        template = self.templates["check_layer"]
        found = {}
        for name, project in resources(template, "AWS::CodeBuild::Project").items():
            [group] = project["Properties"]["Triggers"]["FilterGroups"]
            found[name] = {it["Type"]: it["Pattern"] for it in group}
            for image in calls(project, "PrivilegedMode"):
                self.assertEqual(image, {"Fn::If": ["WithShare", True, False]})
        branches = {"Fn::Sub": "^refs/heads/(${ProtectedBranches})$"}
        # The agent trusts the same pushes, and none in the other project.
        trusted = {name: self.variables("check_layer", name).get("BUILD_AGENT_TRUSTED_BRANCHES") for name in found}
        self.assertEqual(trusted, {"PullRequestProject": None, "BuildProject": {"Ref": "ProtectedBranches"}})
        events = "PULL_REQUEST_CREATED, PULL_REQUEST_UPDATED, PULL_REQUEST_REOPENED"
        self.assertEqual(found["PullRequestProject"], {"EVENT": events, "BASE_REF": branches})
        self.assertEqual(found["BuildProject"], {"EVENT": "PUSH", "HEAD_REF": branches})
        roles = [it["Properties"]["ServiceRole"] for it in resources(template, "AWS::CodeBuild::Project").values()]
        self.assertNotEqual(*roles)

    def variables(self, template, project):
        environment = self.templates[template]["Resources"][project]["Properties"]["Environment"]
        return {it["Name"]: it["Value"] for it in environment["EnvironmentVariables"]}

    def buildspec(self, template, project):
        text = self.templates[template]["Resources"][project]["Properties"]["Source"]["BuildSpec"]
        if isinstance(text, dict):
            # Like Fn::Sub.
            values = {"Prefix": "", "Name": "meta-x"}
            text = re.sub(r"\$\{([\w:]+)\}", lambda it: values.get(it[1], it[1].lower().replace("::", "-")), text["Fn::Sub"])
        return yaml.safe_load(text.replace("${!", "${"))

    def start(self, phase, template, project, environment):
        """Runs a phase with stand-ins that print their arguments and exit with STATUS."""
        [command] = self.buildspec(template, project)["phases"][phase]["commands"]
        says = 'printf "%s\\n" "${FUNCNAME[0]}" "$@"; return "${STATUS:-0}"'
        checkout = 'stable-path-checkout() { "$@"; }'
        script = f"mount-share() {{ {says}; }}\nbuild-agent() {{ {says}; }}\n{checkout}\n{command}"
        return subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True)

    def build(self, project, environment):
        """Returns the words of the agent's command line in the build phase."""
        environment = {"RELEASE": "", "SHARE": "", "HASH_SERVER": "", "MANIFEST": "m", "DESTINATION": "d"} | environment
        ran = self.start("build", "check_layer", project, environment)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout.splitlines()

    def test_the_buildspecs_call_the_agent(self):
        for project in ("PullRequestProject", "BuildProject"):
            plain = ["build-agent", "run", "m", "--out", "/tmp/build-agent-out", "--set", "artifacts.destination=d"]
            self.assertEqual(self.build(project, {}), plain)
            # The command line does not set `access`: the agent derives it from the trust.
            settings = ["release=scarthgap", "cache.share=/efs", "cache.hash_server=h:8686"]
            set_all = [word for setting in settings for word in ("--set", setting)]
            environment = {"RELEASE": "scarthgap", "SHARE": "/efs", "HASH_SERVER": "h:8686"}
            self.assertEqual(self.build(project, environment), plain + set_all)
            [(group, report)] = self.buildspec("check_layer", project)["reports"].items()
            reports = self.templates["check_layer"]["Resources"][project.removesuffix("Project") + "Reports"]
            name = reports["Properties"]["Name"]["Fn::Sub"].replace("${Prefix}", "").replace("${Name}", "meta-x")
            self.assertEqual(group, f"arn:aws-partition:codebuild:aws-region:aws-accountid:report-group/{name}")
            self.assertEqual(report["file-format"], "JUNITXML")

    def test_who_mounts_what(self):
        """Returns the words, whether the machine mounts pull requests, and whether it continues without a share."""
        table = {
            ("check_layer", "PullRequestProject"): (["ro", "pr/7"], "SharedReadOnlyAccessPoint", True, True),
            ("check_layer", "BuildProject"): (["rw"], "SharedAccessPoint", False, True),
            ("prune_cache", "Project"): (["rw", "pr"], "SharedAccessPoint", True, False),
        }
        projects = {
            (name, project)
            for name, template in self.templates.items()
            for project in resources(template, "AWS::CodeBuild::Project")
        }
        self.assertEqual(projects, set(table) | {("seed_image", "Project")})
        source = {"CODEBUILD_SOURCE_VERSION": "pr/7"}
        for (template, project), (words, shared, part, goes_on) in table.items():
            ran = self.start("install", template, project, source)
            self.assertEqual(ran.stdout.splitlines(), ["mount-share", *words])
            failing = self.start("install", template, project, source | {"STATUS": "1"})
            self.assertEqual(failing.returncode == 0, goes_on, failing)
            variables = self.variables(template, project)
            self.assertEqual(variables["SHARED_ACCESS_POINT"]["Fn::ImportValue"]["Fn::Sub"], f"${{Prefix}}{shared}")
            self.assertEqual("PULL_REQUEST_ACCESS_POINT" in variables, part, project)

    def test_the_prune_is_bounded_and_has_no_other_permissions(self):
        environment = {
            "SHARE": "/efs", "SSTATE_MAX_AGE": "30d", "DOWNLOADS_MAX_AGE": "60d", "PULL_REQUESTS_MAX_AGE": "14d"
        }
        self.assertLessEqual(set(environment), set(self.variables("prune_cache", "Project")))
        words = self.start("build", "prune_cache", "Project", environment).stdout.splitlines()
        self.assertEqual(words[:3], ["build-agent", "cache", "prune"])
        options = dict(zip(words[3::2], words[4::2], strict=True))
        self.assertEqual(
            options,
            {
                "--share": "/efs",
                "--time-limit": "1h",
                "--sstate-max-age": "30d",
                "--downloads-max-age": "60d",
                "--pull-requests-max-age": "14d",
            },
        )
        role = self.templates["prune_cache"]["Resources"]["Role"]
        actions = {action for statement in statements(role["Properties"]["Policies"]) for action in listed(statement["Action"])}
        logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
        self.assertEqual(actions, logs | {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"})

    def test_scripts_are_shellcheck_clean(self):
        if not shutil.which("shellcheck"):
            self.skipTest("no shellcheck")
        scripts = [hash_server_script()]
        for template, project in (("check_layer", "PullRequestProject"), ("check_layer", "BuildProject"), ("prune_cache", "Project")):
            phases = self.buildspec(template, project)["phases"]
            scripts += [command for phase in phases.values() for command in phase["commands"]]
        for script in scripts:
            # SC2154: the variables are the project's environment.
            check = ["shellcheck", "--shell=bash", "--exclude=SC2154", "-"]
            ran = subprocess.run(check, input=script, capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout)

    def test_the_file_system_requires_iam_and_tls(self):
        files = self.templates["cache"]["Resources"]["FileSystem"]["Properties"]
        self.assertTrue(files["Encrypted"])
        self.assertEqual(files["BackupPolicy"], {"Status": "DISABLED"})
        # Without an Allow, an identity without IAM permissions of its own has no access.
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
