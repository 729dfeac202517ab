"""Checks the text of the templates; runs cfn-lint, and shellcheck on the scripts in them."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from templates import (
    DEFAULT,
    ORDER,
    TEMPLATES,
    TOP,
    Stack,
    calls,
    hash_server_script,
    load,
    program,
    resources,
    statements,
)

LAYER = {"Name": "meta-x", "Repository": "example/meta-x"}
IMAGE = {"SourceUrl": "https://github.com/example/build-agent.git"}
# The smallest and the largest installation.
POST = LAYER | {"ResultName": "meta-x scarthgap", "AppId": "12345", "AppKeySecret": "build-agent/app-key"}
BATCH = POST | {"Kind": "pull-requests"}
NEEDED = {"seed_image": IMAGE, "check_layer": LAYER, "batch": BATCH, "post_results": POST, "device_tests": POST, "aws_batch": LAYER}
EVERYTHING = NEEDED | {
    "seed_image": IMAGE | {"DockerHubSecret": "build-agent/dockerhub"},
    "alerts": {"Email": "me@example.com"},
    "prune_cache": {"Share": "efs"},
    "check_layer": LAYER | {"Share": "efs", "HashServer": "hash.internal", "Release": "scarthgap"},
    "post_results": POST | {"PublicReports": "true"},
    "aws_batch": LAYER | {"Share": "efs"},
    "batch": BATCH | {"Share": "efs"},
}


def layer(**options):
    return Stack("check_layer", **LAYER, **options)


class Structure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.templates = {name: load(name) for name in ORDER}

    def test_the_share_is_pruned_where_it_is_written(self):
        shares = {Stack("prune_cache").variables("Project")["SHARE"]}
        shares |= {layer().variables(project)["SHARE"] for project in ("PullRequestProject", "BuildProject")}
        self.assertEqual(len(shares), 1, shares)

    def test_these_are_all_templates(self):
        self.assertEqual({path.stem for path in TEMPLATES.glob("*.yml")}, set(ORDER))
        self.assertEqual({path.name for path in TEMPLATES.iterdir() if path.suffix != ".yml"}, {"deploy"})

    def test_templates_fit_into_a_request(self):
        """Larger ones need a bucket before the first stack."""
        for name in ORDER:
            self.assertLessEqual((TEMPLATES / f"{name}.yml").stat().st_size, 51_200, name)

    def test_templates_use_no_yaml_that_cloudformation_does_not_read(self):
        for name in ORDER:
            for event in yaml.parse((TEMPLATES / f"{name}.yml").read_text()):
                self.assertFalse(isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None), name)

    def test_every_import_is_exported_by_an_earlier_stack(self):
        for order, parameters in ((DEFAULT, NEEDED), (ORDER, EVERYTHING)):
            exported = set()
            for name in order:
                stack = Stack(name, **parameters.get(name, {}))
                self.assertLessEqual(stack.imports, exported, name)
                self.assertFalse(stack.exports() & exported, "two stacks export the same")
                exported |= stack.exports()
            self.assertTrue(all(name.startswith("build-agent-") for name in exported))

    def test_a_second_installation_has_other_names(self):
        """Exports, and names that an account or a region has once."""
        keys = ("Name", "ClusterName", "Family", "TopicName", "DashboardName", "RepositoryName", "StateMachineName", "AlarmName")
        keys += ("JobQueueName", "JobDefinitionName")
        for name in ORDER:
            if "Prefix" not in self.templates[name]["Parameters"]:
                continue
            given = EVERYTHING.get(name, {})
            first, second = Stack(name, **given), Stack(name, **given, Prefix="second-")
            self.assertFalse(first.exports() & second.exports(), name)
            for resource, it in first.resources.items():
                other = second.resources[resource]["Properties"]
                for key in keys:
                    own = it["Properties"].get(key)
                    # The service is in a cluster or namespace of its own.
                    if isinstance(own, str) and it["Type"] != "AWS::ServiceDiscovery::Service":
                        self.assertNotEqual(own, other[key], f"{name}: {resource}")
                        self.assertTrue(other[key].removeprefix("/aws/codebuild/").startswith("second-"), other[key])

    def test_a_prefix_is_lower_case_and_never_empty(self):
        for bad in ("", "A-", "build-agent", "-", "a--", "a_b-", "-a-"):
            with self.assertRaises(AssertionError, msg=bad):
                Stack("cache", Prefix=bad)
        for name in ORDER:
            prefix = self.templates[name]["Parameters"].get("Prefix")
            self.assertIn(prefix, (None, self.templates["cache"]["Parameters"]["Prefix"]), name)

    def test_the_repository_of_images_has_a_valid_name(self):
        name = Stack("seed_image", **IMAGE).properties("Repository")["RepositoryName"]
        self.assertRegex(name, r"^(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*$")

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
            self.assertEqual("NatGatewayId" in way, not subnet.startswith("Public"), subnet)
        self.assertNotEqual(tables["PrivateSubnet1"], tables["PrivateSubnet2"])
        self.assertNotEqual(tables["PullRequestSubnet1"], tables["PullRequestSubnet2"])

    def test_zones_are_the_first_two_or_those_that_are_given(self):
        for given, zones in (({}, {"zone-a", "zone-b"}), ({"Zone1": "x", "Zone2": "y"}, {"x", "y"})):
            stack = Stack("ci_network", **given)
            subnets = resources(stack.template, "AWS::EC2::Subnet")
            self.assertEqual(len(subnets), 6)
            self.assertEqual({stack.properties(it)["AvailabilityZone"] for it in subnets}, zones)
            ranges = {stack.properties(it)["CidrBlock"] for it in subnets}
            self.assertEqual(len(ranges), 6)

    def test_no_group_allows_inbound_traffic_from_the_internet(self):
        for name, template in self.templates.items():
            for group, it in resources(template, "AWS::EC2::SecurityGroup").items():
                rules = it["Properties"].get("SecurityGroupIngress", [])
                self.assertFalse([rule for rule in rules if rule.get("CidrIp") == "0.0.0.0/0"], f"{name}: {group}")
                # Without an explicit rule, CloudFormation allows all outbound traffic.
                self.assertTrue(it["Properties"]["SecurityGroupEgress"], f"{name}: {group}")
        for group in ("NoIngressSecurityGroup", "TrustedSecurityGroup"):
            self.assertNotIn("SecurityGroupIngress", self.templates["ci_network"]["Resources"][group]["Properties"])

    def test_every_statement_of_a_role_is_documented(self):
        page = (TOP / "docs/aws.md").read_text()
        for name, template in self.templates.items():
            for kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
                for role, resource in resources(template, kind).items():
                    found = resource["Properties"].get("Policies") or resource["Properties"]["PolicyDocument"]
                    for statement in statements(found):
                        self.assertTrue(f"`{statement['Sid']}`" in page, f"{name}: {role}: {statement['Sid']}")

    def test_every_parameter_and_output_has_a_description(self):
        for name, template in self.templates.items():
            self.assertIn("pricing", template["Description"], name)
            self.assertLessEqual(len(template["Description"]), 1024, "CloudFormation's limit")
            for parameter, it in template["Parameters"].items():
                self.assertIn("Description", it, f"{name}: {parameter}")
                self.assertLessEqual(len(it["Description"]), 4000, "CloudFormation's limit")

    def test_privileged_machines_never_build_without_an_approval(self):
        for mode in ("webhook", "runner"):
            for share in ("s3", "efs", "none"):
                for approval in ("DISABLED", "FORK_PULL_REQUESTS", "ALL_PULL_REQUESTS"):
                    stack = layer(Mode=mode, Share=share, CommentApproval=approval)
                    broken = set(stack.broken_rules())
                    wanted = set()
                    if share == "efs" and approval == "DISABLED":
                        wanted.add("StrangersGetNoPrivilegedMachine")
                    if share == "efs" and mode == "runner":
                        wanted.add("RunnerMountsNothing")
                    self.assertEqual(broken, wanted, (mode, share, approval))
                    privileged = stack.properties("PullRequestProject")["Environment"]["PrivilegedMode"]
                    self.assertEqual(privileged, share == "efs")
        for kind in ("pull-requests", "builds"):
            for share in ("s3", "efs", "none"):
                for approval in ("DISABLED", "FORK_PULL_REQUESTS", "ALL_PULL_REQUESTS"):
                    stack = Stack("batch", **BATCH | {"Kind": kind, "Share": share, "CommentApproval": approval})
                    strangers = kind == "pull-requests" and share == "efs" and approval == "DISABLED"
                    self.assertEqual(set(stack.broken_rules()), {"StrangersGetNoPrivilegedMachine"} if strangers else set())

    def test_the_default_needs_neither_a_network_nor_privileged_mode(self):
        for stack in (layer(), Stack("prune_cache")):
            for project, it in stack.resources.items():
                if it["Type"] == "AWS::CodeBuild::Project":
                    self.assertFalse(it["Properties"]["Environment"]["PrivilegedMode"], project)
                    self.assertNotIn("VpcConfig", it["Properties"])
                    self.assertEqual(stack.variables(project)["SHARE"], "s3://<build-agent-ShareBucket>/share")
                    self.assertNotIn("FILE_SYSTEM", stack.variables(project))

    def test_a_pull_request_is_distinguished_from_a_push(self):
        stack = layer(ProtectedBranches="scarthgap|master")
        found, projects = {}, {}
        for name, it in stack.resources.items():
            if it["Type"] == "AWS::CodeBuild::Project":
                projects[name] = it["Properties"]
                [group] = it["Properties"]["Triggers"]["FilterGroups"]
                found[name] = {filter["Type"]: filter["Pattern"] for filter in group}
        branches = "^refs/heads/(scarthgap|master)$"
        # The agent trusts the same pushes, and none in the other project.
        trusted = {name: stack.variables(name).get("BUILD_AGENT_TRUSTED_BRANCHES") for name in found}
        self.assertEqual(trusted, {"PullRequestProject": None, "BuildProject": "scarthgap|master"})
        events = "PULL_REQUEST_CREATED, PULL_REQUEST_UPDATED, PULL_REQUEST_REOPENED"
        self.assertEqual(found["PullRequestProject"], {"EVENT": events, "BASE_REF": branches})
        self.assertEqual(found["BuildProject"], {"EVENT": "PUSH", "HEAD_REF": branches})
        self.assertNotEqual(*(it["ServiceRole"] for it in projects.values()))
        policy = projects["PullRequestProject"]["Triggers"]["PullRequestBuildPolicy"]
        self.assertEqual(policy, {"RequiresCommentApproval": "FORK_PULL_REQUESTS"})

    def test_a_runner_gets_jobs_and_has_no_trusted_project(self):
        stack = layer(Mode="runner")
        project = stack.properties("PullRequestProject")
        self.assertEqual(project["Name"], "build-agent-meta-x-runner")
        self.assertEqual(project["Triggers"]["FilterGroups"], [[{"Type": "EVENT", "Pattern": "WORKFLOW_JOB_QUEUED"}]])
        self.assertNotIn("PullRequestBuildPolicy", project["Triggers"])
        self.assertFalse(project["Source"]["ReportBuildStatus"])
        self.assertNotIn("BuildStatusConfig", project["Source"])
        self.assertNotIn("Auth", project["Source"])
        for absent in ("BuildProject", "BuildRole", "SupersededMachine", "PullRequestReports", "ColdCache"):
            self.assertNotIn(absent, stack.resources)
        trusted = layer(Mode="runner", TrustedSubjects="repo:example/meta-x:ref:refs/heads/main")
        self.assertIn("BuildRole", trusted.resources)
        self.assertNotIn("BuildProject", trusted.resources)
        for bad in ("repo:example/*:ref:refs/heads/main", "repo:example/meta-x:pull_request", "main", "*"):
            with self.assertRaises(AssertionError, msg=bad):
                layer(Mode="runner", TrustedSubjects=bad)

    def test_projects_never_retry_and_are_limited(self):
        self.assertEqual(calls(self.templates, "AutoRetryLimit"), [])
        stack = layer(ConcurrentPullRequests="3")
        self.assertEqual(stack.properties("PullRequestProject")["ConcurrentBuildLimit"], "3")
        # CodeBuild rejects what is above the limit, and a commit that was merged must be built.
        self.assertNotIn("ConcurrentBuildLimit", stack.properties("BuildProject"))

    def test_credentials_of_a_project(self):
        secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:meta-x-AbCdEf"
        connection = "arn:aws:codeconnections:eu-west-1:123456789012:connection/0123"
        own = {"Type": "SECRETS_MANAGER", "Resource": secret}
        shared = {"Type": "CODECONNECTIONS", "Resource": connection}
        table = [
            ({}, None, None),
            ({"ConnectionArn": connection}, shared, shared),
            ({"PullRequestCredential": secret}, own, None),
            ({"BuildCredential": secret, "ConnectionArn": connection}, shared, own),
        ]
        for given, *wanted in table:
            stack = layer(**given)
            found = [stack.properties(it)["Source"].get("Auth") for it in ("PullRequestProject", "BuildProject")]
            self.assertEqual(found, wanted, given)

    def test_the_credential_of_the_account(self):
        table = {
            "": ("PERSONAL_ACCESS_TOKEN", "{{resolve:secretsmanager:build-agent/github:SecretString:token}}"),
            "arn:aws:codeconnections:eu-west-1:123456789012:connection/0123": ("CODECONNECTIONS", None),
        }
        for connection, (kind, token) in table.items():
            it = Stack("source_credential", ConnectionArn=connection).properties("Credential")
            self.assertEqual((it["AuthType"], it["Token"]), (kind, token or connection))

    def start(self, stack, phase, project, environment):
        """Runs a phase with stand-ins that print their arguments and exit with STATUS."""
        [command] = stack.buildspec(project)["phases"][phase]["commands"]
        says = 'printf "%s\\n" "${FUNCNAME[0]}" "$@"; return "${STATUS:-0}"'
        checkout = 'stable-path-checkout() { "$@"; }'
        script = f"mount-share() {{ {says}; }}\nbuild-agent() {{ {says}; }}\n{checkout}\n{command}"
        return subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True)

    def test_the_buildspecs_call_the_agent(self):
        sha = "0123456789abcdef" * 4
        for project, kind, port in (("PullRequestProject", "pull-requests", 8686), ("BuildProject", "builds", 8687)):
            destination = f"artifacts.destination=s3://<build-agent-Bucket>/{kind}/meta-x"
            call = ["build-agent", "run", "build-agent.toml", "--out", "/tmp/build-agent-out"]
            table = [
                ({"Share": "none"}, [*call, "--set", destination]),
                # The command line does not set `access`: the agent derives it from the trust.
                ({}, [*call, "--set", destination, "--set", "cache.share=s3://<build-agent-ShareBucket>/share"]),
                (
                    {"Share": "efs", "HashServer": "h.internal", "Release": "scarthgap"},
                    [*call, "--set", destination, "--set", "release=scarthgap", "--set", "cache.share=/efs"]
                    + ["--set", f"cache.hash_server=h.internal:{port}"],
                ),
                (
                    {"Share": "none", "Manifest": "s3://b/m.toml", "ManifestSha256": sha},
                    ["build-agent", "run", "s3://b/m.toml", "--out", "/tmp/build-agent-out", "--manifest-sha256", sha]
                    + ["--set", destination],
                ),
            ]
            for options, words in table:
                stack = layer(**options)
                # All values are texts that are not empty.
                variables = stack.variables(project)
                self.assertTrue(all(variables.values()), variables)
                ran = self.start(stack, "build", project, variables)
                self.assertEqual(ran.returncode, 0, ran.stderr)
                self.assertEqual(ran.stdout.splitlines(), words, options)
            [(group, report)] = stack.buildspec(project)["reports"].items()
            name = stack.properties(project.removesuffix("Project") + "Reports")["Name"]
            self.assertEqual(group, f"arn:aws:codebuild:eu-west-1:123456789012:report-group/{name}")
            self.assertEqual(report["file-format"], "JUNITXML")

    def test_a_result_is_handed_over_where_the_trusted_project_reads_it(self):
        [command] = layer().buildspec("PullRequestProject")["phases"]["build"]["finally"]
        says = 'printf "%s\\n" "$@"'
        script = f"build-agent() {{ {says}; }}\ninstall() {{ :; }}\n[() {{ :; }}\n{command}"
        variables = layer().variables("PullRequestProject") | {"CODEBUILD_BUILD_ID": "p:0a1b-2c"}
        ran = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
        written = ran.stdout.splitlines()[-1] + "/result.json"
        reader = Stack("post_results", **POST)
        self.assertEqual(written, reader.variables("Project")["RESULTS"] + "/0a1b-2c/result.json")
        self.assertNotIn("Condition", reader.properties("Project"), "it is always there")

    def test_the_project_that_posts(self):
        given = {"BUILD": "0a1b-2c", "COMMIT": "1" * 40, "PULL_REQUEST": "7", "BUILD_STATUS": "FAILED"}
        given |= {"AWS_REGION": "eu-west-1", "CODEBUILD_BUILD_NUMBER": "3", "PATH": "/usr/bin:/bin"}
        token = {"AppId": "", "AppKeySecret": "", "TokenSecret": "build-agent/post#token"}
        app = ["--app-id", "12345", "--app-key-secret", "build-agent/app-key"]
        for options, credential in ((POST, app), (POST | token, ["--token-secret", "build-agent/post#token"])):
            for public in ("false", "true"):
                stack = Stack("post_results", **options, PublicReports=public)
                self.assertFalse(stack.broken_rules())
                says = 'printf "%s " "$@"; echo'
                script = f"build-agent() {{ {says}; }}\n{stack.buildspec('Project')['phases']['build']['commands'][0]}"
                variables = stack.variables("Project") | given
                ran = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
                self.assertEqual(ran.returncode, 0, ran.stderr)
                last = ran.stdout.splitlines()[-1].split(" ")
                known = ["--commit", "1" * 40, "--pull-request", "7", "--run", "0a1b-2c", "--build-status", "FAILED"]
                self.assertEqual(" ".join(last).count(" ".join(known)), 1, last)
                self.assertIn(" ".join(credential), " ".join(last))
                result = "/tmp/result/result.json" if public == "true" else "s3://<build-agent-Bucket>/pull-requests/meta-x/results/0a1b-2c/result.json"
                self.assertEqual(last[:4], ["report", "post", result, "--link"])
                if public == "true":
                    self.assertEqual(last[4], "<build-agent-PublicAddress>/meta-x/0a1b-2c/3/report.html")
                    self.assertIn("--save /tmp/result", ran.stdout)
        for bad in ({"AppKeySecret": ""}, {"AppId": ""}, token | {"TokenSecret": ""}, {"TokenSecret": "x", "AppId": ""}):
            self.assertTrue(Stack("post_results", **POST | bad).broken_rules(), bad)

    def test_a_batch_is_started_by_the_stack_alone(self):
        """What is started reads no buildspec of the source, and the project that starts it hands over its own."""
        for kind in ("pull-requests", "builds"):
            stack = Stack("batch", **BATCH | {"Kind": kind, "WarmTargets": "quilt-native"})
            project, start = stack.properties("Project"), stack.properties("StartProject")
            self.assertNotIn("Triggers", project)
            [command] = stack.buildspec("Project")["phases"]["build"]["commands"]
            self.assertEqual(subprocess.run(["bash", "-c", command], capture_output=True).returncode, 2)
            config = project["BuildBatchConfig"]
            self.assertNotEqual(config["ServiceRole"], project["ServiceRole"])
            self.assertIn(project["Environment"]["ComputeType"], config["Restrictions"]["ComputeTypesAllowed"])
            self.assertIn("BUILD_GENERAL1_SMALL", config["Restrictions"]["ComputeTypesAllowed"], "that of merge")
            [filters] = start["Triggers"]["FilterGroups"]
            events = {it["Type"]: it["Pattern"] for it in filters}
            self.assertEqual(events["EVENT"] == "PUSH", kind == "builds")
            self.assertEqual("PullRequestBuildPolicy" in start["Triggers"], kind == "pull-requests")
            variables = stack.variables("StartProject")
            self.assertEqual("BUILD_AGENT_TRUSTED_BRANCHES" in variables, kind == "builds")
            self.assertEqual("WARM_TARGETS" in variables, kind == "builds", "a pull request fills no trusted cache")
            self.assertEqual(variables["DESTINATION"], f"s3://<build-agent-Bucket>/{kind}/meta-x")

    def test_the_builds_of_a_batch_mount_the_share(self):
        """With the image's script, as the buildspec of a batch calls it."""
        script = str(TOP / "docker/stable-path-checkout")
        table = {
            ("pull-requests", "efs"): "mount-share ro pr/7\n",
            ("builds", "efs"): "mount-share rw\n",
            ("builds", "s3"): "",
            ("pull-requests", "none"): "",
        }
        for (kind, share), words in table.items():
            stack = Stack("batch", **BATCH | {"Kind": kind, "Share": share})
            variables = stack.variables("Project")
            for status in ("0", "1"):
                with tempfile.TemporaryDirectory() as place:
                    mount = Path(place) / "bin/mount-share"
                    mount.parent.mkdir()
                    mount.write_text('#!/bin/sh\necho mount-share "$@"; exit "$STATUS"\n')
                    mount.chmod(0o755)
                    (Path(place) / "src/meta-x").mkdir(parents=True)
                    environment = variables | {"CODEBUILD_SRC_DIR": f"{place}/src/meta-x", "TMPDIR": place, "STATUS": status}
                    environment |= {"CODEBUILD_SOURCE_VERSION": "pr/7" if kind == "pull-requests" else "main"}
                    environment |= {"PATH": f"{place}/bin:{os.environ['PATH']}"}
                    ran = subprocess.run([script, "pwd"], env=environment, capture_output=True, text=True)
                    self.assertEqual((ran.returncode, ran.stdout), (0, f"{words}{place}/checkout/meta-x\n"), ran.stderr)
                    self.assertEqual("continues without the share" in ran.stderr, bool(words) and status == "1")
            wanted = {"FILE_SYSTEM", "SHARED_ACCESS_POINT", "SHARE"} if share == "efs" else set()
            self.assertLessEqual(wanted, set(variables))
            point = {"pull-requests": "SharedReadOnlyAccessPoint", "builds": "SharedAccessPoint"}[kind]
            if share == "efs":
                self.assertEqual(variables["SHARED_ACCESS_POINT"], f"<build-agent-{point}>")
                self.assertEqual("PULL_REQUEST_ACCESS_POINT" in variables, kind == "pull-requests")
                self.assertEqual(stack.variables("StartProject")["SHARE"], variables["SHARE"], "the cells get it from there")

    def test_the_project_that_starts_a_batch(self):
        known = {"CODEBUILD_RESOLVED_SOURCE_VERSION": "1" * 40, "CODEBUILD_BUILD_ID": "p:0a1b-2c", "PATH": "/usr/bin:/bin"}
        known |= {"CODEBUILD_BUILD_URL": "https://console.aws.amazon.com/x"}
        branch = {"CODEBUILD_WEBHOOK_TRIGGER": "branch/main", "CODEBUILD_WEBHOOK_HEAD_REF": "refs/heads/main"}
        pull = {"CODEBUILD_WEBHOOK_TRIGGER": "pr/7", "CODEBUILD_WEBHOOK_HEAD_REF": "refs/heads/fix"}
        table = [(pull, ["--pull-request", "7"]), (branch, ["--git-ref", "refs/heads/main"]), ({}, [])]
        for trigger, source in table:
            for status in ("0", "3"):
                stack = Stack("batch", **BATCH)
                environment = stack.variables("StartProject") | known
                environment |= trigger | {"STATUS": status}
                ran = self.start(stack, "build", "StartProject", environment)
                self.assertEqual(str(ran.returncode), status, "the verdict of the batch is that of the build")
                words = ran.stdout.splitlines()
                post = words[words.index("report") :]
                self.assertEqual(words[:5], ["build-agent", "batch", "build-agent.toml", "--project", "<Project>"])
                self.assertEqual(post[:3], ["report", "post", "/tmp/build-agent-out/result.json"])
                named = ("--pull-request", "7", "--git-ref", "refs/heads/main", "refs/heads/fix")
                self.assertEqual([word for word in post if word in named], source)
                self.assertEqual(post[post.index("--link") + 1], known["CODEBUILD_BUILD_URL"])
        for fetches, stops, kind, wanted in (
            ("true", "true", "pull-requests", []),
            ("false", "false", "pull-requests", ["--no-fetch", "--keep-older"]),
            ("false", "false", "builds", ["--no-fetch"]),
        ):
            stack = Stack("batch", **LAYER, Kind=kind, FetchSources=fetches, StopOlderBatches=stops)
            words = self.start(stack, "build", "StartProject", stack.variables("StartProject") | known).stdout.splitlines()
            self.assertEqual([word for word in words if word in ("--no-fetch", "--keep-older")], wanted)
        stack = Stack("batch", **LAYER, Kind="builds")
        words = self.start(stack, "build", "StartProject", stack.variables("StartProject") | known).stdout
        self.assertNotIn("post", words.splitlines())
        for bad in ({"AppKeySecret": ""}, {"AppId": ""}):
            self.assertTrue(Stack("batch", **BATCH | bad).broken_rules(), bad)

    def test_the_project_that_requests_tests_on_devices(self):
        """What it calls for the variables that the state machine sets, and what the agent answers."""
        given = {"BUILD": "0a1b-2c", "COMMIT": "1" * 40, "PATH": "/usr/bin:/bin"}
        stack = Stack("device_tests", **POST)
        self.assertFalse(stack.broken_rules())
        for bad in ({"AppKeySecret": ""}, {"AppId": ""}, {"TokenSecret": "x", "AppId": ""}):
            self.assertTrue(Stack("device_tests", **POST | bad).broken_rules(), bad)
        command = stack.buildspec("Project")["phases"]["build"]["commands"][0]

        def calls_of(answer, **more):
            log = 'printf "%s " "$@" >&2; echo >&2;'
            script = f"build-agent() {{ {log} if [ $1 = lab ]; then {answer}; fi; }}\n{command}"
            variables = stack.variables("Project") | given | more
            ran = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
            return ran.returncode, [line.split(" ")[:-1] for line in ran.stderr.splitlines()]

        where = "s3://<build-agent-Bucket>"
        for kind, pull, trusted in (("pull-requests", "7", []), ("builds", "", ["--trusted"])):
            more = {"ACTION": "request", "KIND": kind, "PULL_REQUEST": pull}
            status, [request, post] = calls_of("echo requested 2026-x on pi", **more)
            self.assertEqual(status, 0)
            wanted = ["lab", "request", f"{where}/{kind}/meta-x/results/0a1b-2c/result.json"]
            wanted += ["--manifest", "build-agent.toml", "--commit", "1" * 40, "--artifacts", f"{where}/{kind}/meta-x"]
            wanted += ["--set", "artifacts.destination=s3://<build-agent-LabBucket>", *trusted]
            self.assertEqual(request, wanted)
            self.assertEqual(post[:6], ["report", "post", "--device-request", "2026-x", "--state", "queued"])
            self.assertEqual("--pull-request" in post, pull != "")
            status, calls = calls_of("echo nothing is requested: no", **more)
            self.assertEqual((status, len(calls)), (0, 1), "there is nothing to post")
            self.assertEqual(calls_of("return 4", **more)[0], 4)
        status, [post] = calls_of("exit 9", ACTION="post", DEVICE_REQUEST="2026-x", PULL_REQUEST="7")
        self.assertEqual(post[:6], ["report", "post", "--device-request", "2026-x", "--store", "s3://<build-agent-LabBucket>"])
        self.assertIn(" ".join(["--commit", "1" * 40]), " ".join(post))

    def test_both_projects_hand_over_what_the_device_project_reads(self):
        for project, kind in (("PullRequestProject", "pull-requests"), ("BuildProject", "builds")):
            [command] = layer().buildspec(project)["phases"]["build"]["finally"]
            self.assertIn('"$DESTINATION/results/${CODEBUILD_BUILD_ID##*:}"', command)
            destination = layer().variables(project)["DESTINATION"]
            self.assertEqual(destination, f"s3://<build-agent-Bucket>/{kind}/meta-x")
        self.assertEqual(layer().variables("BuildProject")["BUILD_AGENT_DEVICE_REQUESTS"], "publish")

    def test_who_mounts_what(self):
        """The words, whether the machine mounts pull requests, and whether it continues without a share."""
        efs = {"check_layer": layer(Share="efs"), "prune_cache": Stack("prune_cache", Share="efs")}
        s3 = {"check_layer": layer(), "prune_cache": Stack("prune_cache")}
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
        others = {(name, "Project") for name in ("seed_image", "post_results", "device_tests", "batch")}
        others.add(("batch", "StartProject"))
        self.assertEqual(projects, set(table) | others)
        for (name, project), (words, shared, part, goes_on) in table.items():
            variables = efs[name].variables(project)
            source = variables | {"CODEBUILD_SOURCE_VERSION": "pr/7"}
            ran = self.start(efs[name], "install", project, source)
            self.assertEqual(ran.stdout.splitlines(), ["mount-share", *words])
            failing = self.start(efs[name], "install", project, source | {"STATUS": "1"})
            self.assertEqual(failing.returncode == 0, goes_on, failing)
            self.assertEqual(variables["SHARE"], "/efs")
            self.assertEqual(variables["SHARED_ACCESS_POINT"], f"<build-agent-{shared}>")
            self.assertEqual("PULL_REQUEST_ACCESS_POINT" in variables, part, project)
            without = self.start(s3[name], "install", project, s3[name].variables(project))
            self.assertEqual((without.returncode, without.stdout), (0, ""), "nothing is mounted")

    def test_the_prune_is_bounded(self):
        for given, share in (({}, "s3://<build-agent-ShareBucket>/share"), ({"Share": "efs"}, "/efs")):
            stack = Stack("prune_cache", **given)
            words = self.start(stack, "build", "Project", stack.variables("Project")).stdout.splitlines()
            self.assertEqual(words[:3], ["build-agent", "cache", "prune"])
            options = dict(zip(words[3::2], words[4::2], strict=True))
            ages = {"--sstate-max-age": "30d", "--downloads-max-age": "60d", "--pull-requests-max-age": "14d"}
            self.assertEqual(options, {"--share": share, "--time-limit": "1h"} | ages)
            self.assertEqual(stack.properties("Project")["ConcurrentBuildLimit"], 1)

    def test_scripts_are_shellcheck_clean(self):
        if not shutil.which("shellcheck"):
            self.skipTest("no shellcheck")
        scripts = [hash_server_script()]
        scripts.append(Stack("aws_batch", **LAYER).properties("Job")["ContainerProperties"]["Command"][2])
        for stack in (layer(), layer(Mode="runner"), Stack("prune_cache"), Stack("batch", **BATCH)):
            for name, it in stack.resources.items():
                if it["Type"] == "AWS::CodeBuild::Project":
                    phases = stack.buildspec(name)["phases"]
                    scripts += [command for phase in phases.values() for command in phase["commands"]]
        for script in scripts:
            # SC2154: the variables are the project's environment.
            check = ["shellcheck", "--shell=bash", "--exclude=SC2154", "-"]
            ran = subprocess.run(check, input=script, capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout)

    def test_the_file_system_requires_iam_and_tls(self):
        files = self.templates["efs"]["Resources"]["FileSystem"]["Properties"]
        self.assertTrue(files["Encrypted"])
        self.assertEqual(files["BackupPolicy"], {"Status": "DISABLED"})
        # Without an Allow, an identity without IAM permissions of its own has no access.
        effects = {it["Sid"]: it["Effect"] for it in statements(files["FileSystemPolicy"])}
        self.assertEqual(set(effects.values()), {"Deny"})
        self.assertLessEqual({"OnlyEncryptedInTransit", "OnlyThroughAccessPoints", "NobodyIsRoot"}, set(effects))

    def test_only_stable_moves_and_it_is_kept(self):
        repository = Stack("seed_image", **IMAGE).properties("Repository")
        self.assertEqual(repository["ImageScanningConfiguration"], {"ScanOnPush": True})
        moving = calls(repository, "ImageTagMutabilityExclusionFilterValue")
        self.assertEqual(moving, ["stable*", "sha256-*"])
        first, signatures, *others = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        self.assertEqual((first["rulePriority"], first["selection"]["tagPatternList"]), (1, ["stable*"]))
        # `stable` and `stable-arm64` are two images.
        self.assertEqual((first["selection"]["countType"], first["selection"]["countNumber"]), ("imageCountMoreThan", 2))
        # An earlier rule matches signatures, so that they are not counted as images.
        self.assertEqual((signatures["rulePriority"], signatures["selection"]["tagPatternList"]), (2, ["sha256-*"]))
        self.assertEqual(signatures["selection"]["countType"], "sinceImagePushed")
        self.assertEqual([rule["rulePriority"] for rule in others], [3, 4])

    def test_the_image_is_signed_with_the_key(self):
        key = "arn:aws:kms:eu-west-1:123456789012:key/0123"
        stack = Stack("seed_image", **IMAGE, SigningKeyArn=key)
        self.assertEqual(stack.variables("Project")["IMAGE_SIGNING_KEY"], f"awskms:///{key}")
        [sign] = [it for it in statements(stack.properties("Role")["Policies"]) if it["Action"] == "kms:Sign"]
        self.assertEqual(sign["Resource"], key)
        self.assertNotIn("IMAGE_SIGNING_KEY", Stack("seed_image", **IMAGE).variables("Project"))

    def test_which_failures_send_a_message(self):
        """The event pattern as EventBridge matches it, for the names that projects really have."""
        alerts, stack = Stack("alerts"), layer()
        names = {
            "build": stack.properties("BuildProject")["Name"],
            "image": Stack("seed_image", **IMAGE).properties("Project")["Name"],
            "prune": Stack("prune_cache").properties("Project")["Name"],
        }
        quiet = [stack.properties("PullRequestProject")["Name"], layer(Mode="runner").properties("PullRequestProject")["Name"]]
        pulls, builds = (Stack("batch", **BATCH | {"Kind": kind}) for kind in ("pull-requests", "builds"))
        quiet += [it.properties(project)["Name"] for it in (pulls, builds) for project in ("Project", "StartProject")]
        started = quiet.pop()
        for rule in resources(alerts.template, "AWS::Events::Rule"):
            properties = alerts.properties(rule)
            kind = properties["Name"].removeprefix("build-agent-alert-")
            if kind == "batch":
                continue
            detail = properties["EventPattern"]["detail"]
            self.assertEqual(set(detail["build-status"]), {"FAILED", "FAULT", "TIMED_OUT"})
            [pattern] = detail["project-name"]
            pattern = re.escape(pattern["wildcard"]).replace(r"\*", ".*") if isinstance(pattern, dict) else re.escape(pattern)
            matched = [name for name in [*names.values(), started, *quiet] if re.fullmatch(pattern, name)]
            for exclusion in detail.get("build-id", []):
                unwanted = re.escape(exclusion["anything-but"]["wildcard"]).replace(r"\*", ".*")
                build = f"arn:aws:codebuild:eu-west-1:123456789012:build/%s:0a1b-2c"
                matched = [name for name in matched if not re.fullmatch(unwanted, build % name)]
            # A batch sends one message, and not one for each cell.
            self.assertEqual(matched, [names.pop(kind)] + [started] * (kind == "build"), rule)
        self.assertEqual(names, {})

    def test_a_failed_batch_of_accepted_commits_on_aws_batch_sends_a_message(self):
        detail = Stack("alerts").properties("TrustedBatchFailed")["EventPattern"]["detail"]
        self.assertEqual(detail["status"], ["FAILED", "TIMED_OUT"])
        [pattern] = detail["stateMachineArn"]
        pattern = re.escape(pattern["wildcard"]).replace(r"\*", ".*")
        machines = {kind: Stack("aws_batch", **LAYER, Kind=kind).properties("Machine") for kind in ("builds", "pull-requests")}
        machines |= {"stop": layer().properties("SupersededMachine"), "post": Stack("post_results", **POST).properties("Machine")}
        machines["device"] = Stack("device_tests", **POST).properties("Machine")
        arn = "arn:aws:states:eu-west-1:123456789012:stateMachine:{}"
        matched = [kind for kind, it in machines.items() if re.fullmatch(pattern, arn.format(it["StateMachineName"]))]
        self.assertEqual(matched, ["builds"])

    def test_a_batch_has_the_alarms_of_a_layer(self):
        for share in ("s3", "efs", "none"):
            for kind, wanted in (("pull-requests", {"ManyMinutes"}), ("builds", {"ColdCache"} if share != "none" else set())):
                for alarms in ("true", "false"):
                    stack = Stack("batch", **BATCH | {"Kind": kind, "Share": share, "Alarms": alarms})
                    found = {name for name, it in stack.resources.items() if it["Type"] == "AWS::CloudWatch::Alarm"}
                    self.assertEqual(found, wanted if alarms == "true" else set())
                    name = stack.properties("Project")["Name"]
                    for alarm in found:
                        # The alarm of a layer, about the project of the cells.
                        own, other = stack.properties(alarm), layer().properties(alarm)
                        names = [it["Value"] for it in calls(own, "Dimensions")[0]]
                        self.assertIn(names, ([name], ["<Project>"]))
                        for key in set(own) - {"AlarmName", "AlarmDescription", "Dimensions", "Metrics", "Threshold"}:
                            self.assertEqual(own[key], other[key], f"{alarm}: {key}")
                        self.assertNotEqual(own["AlarmName"], other["AlarmName"])

    def test_metrics_have_the_names_that_the_agent_prints(self):
        body = Stack("alerts").properties("Dashboard")["DashboardBody"]
        for widget in json.loads(body)["widgets"]:
            self.assertEqual(widget["type"], "metric")
        used = set(re.findall(r'MetricName=\\"(\w+)\\"', body)) - {"Duration"}
        alarms = json.dumps([it for it in layer().resources.values() if it["Type"] == "AWS::CloudWatch::Alarm"])
        # CloudWatch evaluates an alarm on a query of Metrics Insights only for the last three hours.
        self.assertNotIn("SELECT", alarms)
        code = (TOP / "agent/src/report/metrics.rs").read_text()
        names = (TOP / "agent/crates/types/src/stage.rs").read_text().split("fn name")[1].split("}")[0]
        stages = {f"{stage.capitalize()}Seconds" for stage in re.findall(r'=> "(\w+)"', names)}
        self.assertIn("CheckoutSeconds", stages)
        self.assertIn('format!("{name}Seconds")', code)
        self.assertLessEqual({"SstateHitPercent", "ShareUsd", "Passed", "CheckSeconds"}, used)
        for name in used - stages:
            self.assertIn(f'"{name}"', code)
        # Alarms name all dimensions of a metric.
        found = [it for it in json.loads(alarms) if it["Properties"].get("Namespace") == "BuildAgent"]
        self.assertEqual([it["Properties"]["MetricName"] for it in found], ["SstateHitPercent"])
        project = layer().properties("BuildProject")["Name"]
        self.assertEqual(found[0]["Properties"]["Dimensions"], [{"Name": "Project", "Value": project}])
        self.assertIn('const SSTATE_HIT: &str = "SstateHitPercent";', code)
        self.assertIn("const OF_THE_PROJECT: [&str; 1] = [SSTATE_HIT];", code)
        for alarm in json.loads(alarms):
            properties = alarm["Properties"]
            period = properties.get("Period") or properties["Metrics"][1]["MetricStat"]["Period"]
            self.assertLessEqual(period * properties["EvaluationPeriods"], 86400, "the limit of CloudWatch")
        [sets] = set(re.findall(r"\{(BuildAgent,[^}]*)\}", body))
        for dimension in sets.split(",")[1:]:
            self.assertIn(f'"{dimension}"', code)

    def test_cfn_lint(self):
        lint = program("cfn-lint")
        if not lint:
            self.skipTest("no cfn-lint (pip install cfn-lint)")
        ran = subprocess.run([lint, "--", *sorted(map(str, TEMPLATES.glob("*.yml")))], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
