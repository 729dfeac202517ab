"""Checks aws_batch.yml: its commands with real git, its state machine in moto's interpreter, and its resources in moto."""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from moto_account import Moto
from state_machines import StateMachineTest
from templates import TEMPLATES, Stack

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def stack(**options):
    return Stack("aws_batch", Name="meta-x", Repository="example/meta-x", **options)


def container(**options):
    return stack(**options).properties("Job")["ContainerProperties"]


class Commands(unittest.TestCase):
    """What a job runs: its real shell and git, and a stand-in for build-agent that prints its arguments."""

    @classmethod
    def setUpClass(cls):
        place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(place.cleanup)
        cls.top = Path(place.name)
        cls.source = cls.top / "source"
        cls.git("init", "--quiet", "--initial-branch=main", str(cls.source), cwd=cls.top)
        cls.main = cls.commit("main")
        cls.git("switch", "--quiet", "--create", "feature")
        cls.feature = cls.commit("feature")
        cls.git("update-ref", "refs/pull/7/head", cls.feature)
        cls.git("switch", "--quiet", "main")
        # Only the pull request has it, as with a fork.
        cls.git("branch", "--quiet", "-D", "feature")

    @classmethod
    def git(cls, *words, cwd=None):
        names = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        ran = subprocess.run(["git", *names, *words], cwd=cwd or cls.source, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    @classmethod
    def commit(cls, text):
        (cls.source / "file").write_text(text)
        cls.git("add", "file")
        cls.git("commit", "--quiet", "--message", text)
        return cls.git("rev-parse", "HEAD")

    def run_job(self, given, stand_ins="", **options):
        properties = container(**options)
        variables = {it["Name"]: it["Value"] for it in properties["Environment"]}
        script = properties["Command"][2].replace("exec build-agent", "build-agent")
        for there, here in (("https://github.com/$REPOSITORY.git", self.source), ("/tmp/checkout", self.top / "checkouts")):
            self.assertEqual(script.count(there), 1)
            script = script.replace(there, str(here))
        says = 'build-agent() { pwd; git rev-parse HEAD; printf "%s\\n" "$@"; env >"$HOME/environment"; exit "${STATUS:-0}"; }'
        ran = subprocess.run(
            ["bash", "-c", f"{says}\n{stand_ins}{script}"],
            env={"PATH": os.environ["PATH"], "HOME": str(self.top)} | variables | given,
            capture_output=True,
            text=True,
        )
        return ran.returncode, ran.stdout.splitlines(), ran.stderr

    def test_each_step_calls_the_agent_in_a_checkout_of_the_commit(self):
        words = ["build-agent.toml", "--batch", "b-1", "--out", "/tmp/build-agent-out"]
        words += ["--set", "artifacts.destination=s3://<build-agent-Bucket>/builds/meta-x"]
        words += ["--set", "cache.share=s3://<build-agent-ShareBucket>/share", "--trusted"]
        table = [
            ("warm", {}, ["batch", "warm", *words]),
            ("cell", {"CELL": "scarthgap_a"}, ["batch", "cell", *words, "--cell", "scarthgap_a"]),
            ("merge", {}, ["merge", *words]),
        ]
        for step, more, wanted in table:
            given = {"STEP": step, "BATCH": "b-1", "COMMIT": self.main, "BASE": "", "PULL_REQUEST": ""} | more
            status, lines, error = self.run_job(given)
            self.assertEqual((status, lines[2:]), (0, wanted), error)
            self.assertEqual(lines[0], str(self.top / "checkouts/meta-x"), "the name of the layer")
            self.assertEqual(lines[1], self.main)

    def test_git_gets_the_token_of_a_private_repository_and_the_agent_does_not(self):
        secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:meta-x-AbCdEf"
        self.assertNotIn("Secrets", container())
        wanted = [{"Name": "SOURCE_TOKEN", "ValueFrom": f"{secret}:Token::"}]
        self.assertEqual(container(SourceCredential=secret)["Secrets"], wanted)
        # What git would send to a server, with the options of each command.
        log = self.top / "git.log"
        asks = "for host in github.com example.com; do printf 'protocol=https\nhost=%s\n\n' $host | command git"
        stand_in = f'git() {{ echo "$@" >>{log}; [ "$1" != -c ] || {{ {asks} "$1" "$2" credential fill >>{log} 2>&1 || :; done; }}; command git "$@"; }}\n'
        given = {"STEP": "cell", "CELL": "a", "BATCH": "b-1", "COMMIT": self.feature, "BASE": "main", "PULL_REQUEST": "7"}
        given |= {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        for token in ("ghp_1$x", ""):
            log.write_text("")
            more = {"SOURCE_TOKEN": token} if token else {}
            status, lines, error = self.run_job(given | more, stand_in, Kind="pull-requests", SourceCredential=secret)
            self.assertEqual((status, lines[1:2]), (0, [self.feature]), error)
            text = log.read_text()
            self.assertEqual(text.count(f"password={token}\n"), 2 if token else 0, "clone and fetch, and only to GitHub")
            commands = [line for line in text.splitlines() if "clone" in line or "fetch" in line]
            self.assertEqual(len(commands), 2, text)
            self.assertNotIn("ghp_1", "".join(commands), "on a command line")
            self.assertNotIn("SOURCE_TOKEN", (self.top / "environment").read_text())
            self.assertNotIn("ghp_1", (self.top / "checkouts/meta-x/.git/config").read_text())

    def test_the_exit_status_is_that_of_the_agent(self):
        given = {"STEP": "warm", "BATCH": "b-1", "COMMIT": self.main}
        for status in ("1", "5", "130"):
            self.assertEqual(self.run_job(given | {"STATUS": status})[0], int(status))

    def test_only_commits_of_protected_branches_are_trusted(self):
        self.git("update-ref", "refs/heads/other", self.feature)
        self.addCleanup(self.git, "update-ref", "-d", "refs/heads/other")
        given = {"STEP": "warm", "BATCH": "b-1", "COMMIT": self.feature}
        status, lines, error = self.run_job(given)
        self.assertEqual((status, lines), (2, []))
        self.assertIn("is on none of these branches: main", error)
        self.assertEqual(self.run_job(given, Branches="main,other")[0], 0)
        self.assertNotEqual(self.run_job(given | {"COMMIT": COMMIT}, Branches="main,other")[0], 0, "it does not exist")

    def test_a_pull_request_has_its_base_and_no_trust(self):
        given = {"STEP": "cell", "CELL": "a", "BATCH": "b-1", "COMMIT": self.feature, "BASE": "main", "PULL_REQUEST": "7"}
        status, lines, error = self.run_job(given, Kind="pull-requests")
        self.assertEqual((status, lines[1]), (0, self.feature), error)
        self.assertIn("--base=origin/main", lines)
        self.assertNotIn("--trusted", lines)
        self.assertIn("artifacts.destination=s3://<build-agent-Bucket>/pull-requests/meta-x", lines)
        for bad in ({"BASE": "other"}, {"BASE": ""}, {"PULL_REQUEST": "8"}, {"COMMIT": COMMIT}):
            self.assertNotEqual(self.run_job(given | bad, Kind="pull-requests")[0], 0, bad)

    def test_the_input_of_an_execution_is_checked(self):
        given = {"STEP": "cell", "CELL": "a", "BATCH": "b-1", "COMMIT": self.main}
        table = [
            ({"COMMIT": "main"}, "is not a commit"),
            ({"COMMIT": ""}, "is not a commit"),
            ({"BATCH": "../x"}, "is not the name of a batch"),
            ({"BATCH": "a b"}, "is not the name of a batch"),
            ({"CELL": "$(id)"}, "is not the name of a cell"),
            ({"PULL_REQUEST": "7/head"}, "is not a number"),
            ({"STEP": "x"}, "STEP is not"),
        ]
        for bad, message in table:
            status, lines, error = self.run_job(given | bad)
            self.assertEqual((status, lines), (2, []), bad)
            self.assertIn(message, error)


def camel(value):
    """With the names of AWS Batch's interface: Step Functions writes them with a capital letter."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: camel(it) for key, it in value.items()}
    return [camel(it) for it in value] if isinstance(value, list) else value


class BatchService:
    """Answers like AWS Batch: each attempt of a job ends as `ends` says for its step or cell."""

    def __init__(self, **ends):
        self.ends = {name: list(each) for name, each in ends.items()}
        self.submitted = []

    def submit_job(self, **words):
        overrides = camel(words)["containerOverrides"]
        variables = {it["name"]: it["value"] for it in overrides["environment"]}
        needs = overrides.get("resourceRequirements", [])
        memory = [it["value"] for it in needs if it["type"] == "MEMORY"]
        name = variables.get("CELL") or variables["STEP"]
        self.submitted.append((name, *memory))
        self.variables = variables
        end = self.ends.get(name, [0]).pop(0)
        # moto gives this answer to the state machine as it is.
        return {"JobId": json.dumps(end)}

    def describe_jobs(self, jobs):
        end = json.loads(jobs[0])
        status, reason = end if isinstance(end, list) else (end, None)
        state = "SUCCEEDED" if status == 0 else "FAILED"
        # `Container` is in the cause that Step Functions makes of it.
        container = {"ExitCode": status} | ({"Reason": reason} if reason else {})
        return {"jobs": [{"jobId": jobs[0], "status": state, "Container": container}]}


OOM = [3, "OutOfMemoryError: Container killed due to memory usage"]


class Execution(StateMachineTest):
    tasks = "batch"

    @classmethod
    def machine(cls):
        return stack(MemoryMiB="8000", MaxMemoryMiB="30000").properties("Machine")

    def setUp(self):
        # Step Functions writes JSON without blanks, and moto with them.
        compact = mock.patch.object(self.integration, "to_json_str", lambda value: json.dumps(value, separators=(",", ":")))
        compact.start()
        self.addCleanup(compact.stop)

    def jobs(self, batch, cells, status="SUCCEEDED"):
        given = {"batch": "b-1", "commit": COMMIT, "base": "", "pull_request": "", "cells": cells}
        self.execute_with(given, batch, status)
        first, *others, last = batch.submitted
        self.assertEqual((first, last), (("warm",), ("merge", "2048")))
        self.assertEqual((batch.variables["BATCH"], batch.variables["COMMIT"]), ("b-1", COMMIT))
        return sorted(others)

    def test_all_cells_run_and_then_merge(self):
        cells = [{"id": "a", "memory": 4000}, {"id": "b", "memory": 0}, {"id": "c", "memory": 99999}]
        wanted = [("a", "4000"), ("b", "8000"), ("c", "30000")]
        self.assertEqual(self.jobs(BatchService(), cells), wanted, "0 is not known, and nothing is above the limit")

    def test_no_failure_stops_merge(self):
        cells = [{"id": "a", "memory": 4000}, {"id": "b", "memory": 4000}]
        batch = BatchService(warm=[[4, "Essential container in task exited"]], a=[1], b=[70])
        self.assertEqual(self.jobs(batch, cells), [("a", "4000"), ("b", "4000")])

    def test_the_execution_fails_as_merge_does(self):
        self.jobs(BatchService(merge=[1]), [{"id": "a", "memory": 4000}], "FAILED")

    def test_a_cell_that_runs_out_of_memory_gets_more(self):
        cells = [{"id": "a", "memory": 4000}]
        for end in (OOM, 137):
            self.assertEqual(self.jobs(BatchService(a=[end, 0]), cells), [("a", "4000"), ("a", "8000")])
        batch = BatchService(a=[OOM, OOM, OOM])
        self.assertEqual(self.jobs(batch, cells), [("a", memory) for memory in ("16000", "4000", "8000")], "32000 is too much")
        for end in (1, 3, 4, 5, 130):
            self.assertEqual(self.jobs(BatchService(a=[end]), cells), [("a", "4000")], end)


class Deployment(Moto):
    def deploy(self, account, name, **given):
        # moto, unlike AWS, does not know the service-linked role.
        iam = account.client("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        text = (TEMPLATES / "aws_batch.yml").read_text()
        managed = "      Type: MANAGED\n"
        self.assertEqual(text.count(managed), 1)
        given |= {"Name": "meta-x", "Repository": "example/meta-x", "InstanceTypes": "m5.4xlarge"}
        account.client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=text.replace(managed, f"{managed}      ServiceRole: {role}\n"),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return account.outputs(name)

    def test_the_stack(self):
        account = self.region("eu-west-1")
        for name in ("ci_network", "cache", "seed_image"):
            given = {"SourceUrl": "https://github.com/example/build-agent.git"} if name == "seed_image" else {}
            account.deploy(name, **given)
        outputs = self.deploy(account, "batch")
        batch = account.client("batch")
        [environment] = batch.describe_compute_environments()["computeEnvironments"]
        self.assertEqual((environment["type"], environment["state"]), ("MANAGED", "ENABLED"))
        [queue] = batch.describe_job_queues()["jobQueues"]
        self.assertEqual(queue["computeEnvironmentOrder"][0]["computeEnvironment"], environment["computeEnvironmentArn"])
        self.assertEqual(outputs["Queue"], queue["jobQueueArn"])
        [job] = batch.describe_job_definitions()["jobDefinitions"]
        self.assertEqual(job["jobDefinitionName"], "build-agent-meta-x-builds")
        self.assertIn("/build-agent-image:stable", job["containerProperties"]["image"])
        machine = account.client("stepfunctions").describe_state_machine(stateMachineArn=outputs["Machine"])
        self.assertIn(f'"JobQueue": "{queue["jobQueueArn"]}"', machine["definition"])
        self.assertIn(f'"JobDefinition": "{job["jobDefinitionArn"]}"', machine["definition"])
        # With more options, beside it. Not with EFS: moto has no identifiers of access points.
        secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:meta-x-AbCdEf"
        key = "arn:aws:kms:eu-west-1:123456789012:key/0123"
        self.deploy(account, "pulls", Kind="pull-requests", KmsKeyArn=key, SourceCredential=secret)
        jobs = {it["jobDefinitionName"]: it for it in batch.describe_job_definitions()["jobDefinitions"]}
        properties = jobs["build-agent-meta-x-pull-requests"]["containerProperties"]
        self.assertEqual(properties["secrets"], [{"name": "SOURCE_TOKEN", "valueFrom": f"{secret}:Token::"}])
        sids = {it["Sid"] for it in account.policies(properties["jobRoleArn"]) if it}
        self.assertLessEqual({"ReadTheShare", "EncryptArtifacts"}, sids)
        self.assertFalse({"ReadItsCredential", "WriteTheShare"} & sids)
        sids = {it["Sid"] for it in account.policies(properties["executionRoleArn"]) if it}
        self.assertEqual(sids, {"WriteItsLog", "ReadItsCredential"})


class Machines(unittest.TestCase):
    def test_what_batch_starts_again(self):
        """The first entry that matches counts, and Batch takes at most five."""
        entries = stack().properties("Job")["RetryStrategy"]["EvaluateOnExit"]
        self.assertLessEqual(len(entries), 5)
        self.assertEqual(entries[-1], {"Action": "EXIT", "OnReason": "*"}, "without it, Batch retries everything")
        retried = {it.get("OnExitCode") for it in entries[:-1]}
        self.assertEqual(retried, {None, "5", "130"}, "a red build is not run again")

    def test_only_root_reaches_the_roles_of_machine_and_job(self):
        data = stack().properties("LaunchTemplate")["LaunchTemplateData"]
        script = data["UserData"].split("charset=\"us-ascii\"\n\n")[1].split("--==BUILD-AGENT==--")[0]
        for works in (True, False):
            with tempfile.TemporaryDirectory() as place:
                config = Path(place) / "ecs.config"
                says = f'ip() {{ echo ip "$@"; {"true" if works else "false"}; }}; poweroff() {{ echo poweroff; }};'
                local = script.replace("/etc/ecs/ecs.config", str(config))
                ran = subprocess.run(["bash", "-c", f"{says}\n{local}"], capture_output=True, text=True)
                lines = ran.stdout.splitlines()
                self.assertEqual("poweroff" in lines, not works, ran)
                self.assertEqual(config.exists(), works)
        self.assertEqual(data["InstanceInitiatedShutdownBehavior"], "terminate")
        closed = {"169.254.170.2", "169.254.169.254", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"}
        for address in closed:
            self.assertRegex(script, rf"[ ]{re.escape(address)}[ ;]", "the agent tries to connect to it")

    def test_jobs_are_not_privileged(self):
        for kind in ("builds", "pull-requests"):
            for kvm in ("false", "true"):
                properties = container(Kind=kind, Kvm=kvm)
                self.assertFalse(properties["Privileged"])
                self.assertEqual("Devices" in properties["LinuxParameters"], kvm == "true")

    def test_pull_requests_have_other_machines_and_only_read_the_share(self):
        for share in ("s3", "efs"):
            builds, pulls = stack(Share=share), stack(Share=share, Kind="pull-requests")
            subnets = [it.properties("ComputeEnvironment")["ComputeResources"]["Subnets"] for it in (builds, pulls)]
            self.assertFalse(set(subnets[0]) & set(subnets[1]))
            for name in ("Queue", "Job", "Machine"):
                keys = ("JobQueueName", "JobDefinitionName", "StateMachineName")
                first, second = ([it.properties(name).get(key) for key in keys] for it in (builds, pulls))
                self.assertNotEqual(first, second)
        mounts = [container(Share="efs", Kind=kind)["MountPoints"][0] for kind in ("builds", "pull-requests")]
        self.assertEqual([(it["ContainerPath"], it["ReadOnly"]) for it in mounts], [("/efs", False), ("/efs", True)])
        points = [container(Share="efs", Kind=kind)["Volumes"][0] for kind in ("builds", "pull-requests")]
        points = [it["EfsVolumeConfiguration"]["AuthorizationConfig"]["AccessPointId"] for it in points]
        self.assertEqual(points, ["<build-agent-SharedAccessPoint>", "<build-agent-SharedReadOnlyAccessPoint>"])
