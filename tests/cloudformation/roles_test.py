"""Checks the policies of all roles: what each may never do, and what each must be able to do."""

import functools
import itertools
import json
import re
import unittest
from fnmatch import fnmatchcase

from templates import ORDER, Stack, listed, resources, statements, walk

SHARE = "<build-agent-ShareBucketArn>"
BUCKET = "<build-agent-BucketArn>"
ACCOUNT = "eu-west-1:123456789012"
CREDENTIAL = f"arn:aws:secretsmanager:{ACCOUNT}:secret:meta-x-AbCdEf"
KEY = f"arn:aws:kms:{ACCOUNT}:key/0123"
CONNECTION = f"arn:aws:codeconnections:{ACCOUNT}:connection/0123"
SUBJECTS = "repo:example/meta-x:ref:refs/heads/main,repo:example/meta-x:ref:refs/heads/scarthgap"

# The directories of a tier, as the agent names them, with a key in each.
KEYS = (
    "sstate/scarthgap/ab/12/x",
    "downloads/x",
    "index/scarthgap/x.add.zst",
    "signatures/answers/x.tar.zst",
    "signatures/parses/x/y.tar",
    "layers/x/y.tar.zst",
    "usage/scarthgap/x.zst",
    "leases/x",
)
# What the agent deletes during a build: its lease, and a cached result that contradicts another one.
DELETED_BY_BUILDS = ("signatures/answers/x.tar.zst", "leases/x")

GIVEN = {
    "seed_image": {"SourceUrl": "https://github.com/example/build-agent.git"},
    "check_layer": {"Name": "meta-x", "Repository": "example/meta-x"},
    "post_results": {"Name": "meta-x", "Repository": "example/meta-x", "ResultName": "meta-x scarthgap"},
    "device_tests": {"Name": "meta-x", "Repository": "example/meta-x", "ResultName": "meta-x scarthgap"},
    "aws_batch": {"Name": "meta-x", "Repository": "example/meta-x"},
    "batch": {"Name": "meta-x", "Repository": "example/meta-x"},
}
# Every option of a template that changes the rights of a role, in all combinations.
OPTIONS = {
    "batch": {
        "Kind": ["pull-requests", "builds"],
        "Share": ["s3", "efs", "none"],
        "KmsKeyArn": ["", KEY],
        "ResultName": ["", "meta-x"],
        "TokenSecret": ["", "build-agent/post"],
        "SourceCredential": ["", CREDENTIAL],
    },
    "seed_image": {"DockerHubSecret": ["", "build-agent/dockerhub"], "ConnectionArn": ["", CONNECTION]},
    "prune_cache": {"Share": ["s3", "efs"]},
    "post_results": {
        "AppId": ["", "12345"],
        "AppKeySecret": ["", "build-agent/app-key"],
        "TokenSecret": ["", "build-agent/post"],
        "PublicReports": ["true", "false"],
    },
    "device_tests": {
        "AppId": ["", "12345"],
        "AppKeySecret": ["", "build-agent/app-key"],
        "TokenSecret": ["", "build-agent/post"],
    },
    "aws_batch": {
        "Kind": ["builds", "pull-requests"],
        "Share": ["s3", "efs"],
        "Machines": ["spot", "on-demand"],
        "KmsKeyArn": ["", KEY],
        "SourceCredential": ["", CREDENTIAL],
    },
    "check_layer": {
        "Mode": ["webhook", "runner"],
        "Share": ["s3", "efs", "none"],
        "HashServer": ["", "hash.internal"],
        "PullRequestCredential": ["", CREDENTIAL],
        "TokenSecret": ["", "build-agent/github"],
        "Manifest": ["build-agent.toml", "s3://manifests/meta-x.toml"],
        "TrustedSubjects": ["", SUBJECTS],
    },
}


@functools.cache
def stacks(name):
    options = OPTIONS.get(name, {})
    combinations = itertools.product(*options.values())
    all_stacks = [Stack(name, **GIVEN.get(name, {}), **dict(zip(options, values))) for values in combinations]
    return [stack for stack in all_stacks if not stack.broken_rules()]


def roles(stack):
    return {name: it["Properties"] for name, it in stack.resources.items() if it["Type"] == "AWS::IAM::Role"}


def managed():
    """The managed policies of all stacks, by the export that names them."""
    return {
        f"<build-agent-{name}Arn>": it["Properties"]["PolicyDocument"]["Statement"]
        for template in ("seed_image", "ci_network")
        for name, it in Stack(template, **GIVEN.get(template, {})).resources.items()
        if it["Type"] == "AWS::IAM::ManagedPolicy"
    }


MANAGED = managed()


def rights(role):
    inline = list(statements(role.get("Policies", [])))
    return inline + [it for arn in role.get("ManagedPolicyArns", []) for it in MANAGED[arn]]


def holds(condition, context):
    tests = {
        "StringEquals": lambda given, wanted: given == wanted,
        "ArnEquals": lambda given, wanted: given == wanted,
        "StringLike": fnmatchcase,
        "ArnLike": fnmatchcase,
    }
    for kind, keys in condition.items():
        for key, wanted in keys.items():
            given = context.get(key)
            if given is None or not any(tests[kind](given, it) for it in listed(wanted)):
                return False
    return True


def allows(role, action, resource, **context):
    """Evaluates like IAM: an explicit Deny wins. The keys of the context have `__` for `:`."""
    context = {key.replace("__", ":"): value for key, value in context.items()}
    verdict = False
    for it in rights(role):
        if not any(fnmatchcase(action, pattern) for pattern in listed(it["Action"])):
            continue
        if not any(fnmatchcase(resource, pattern) for pattern in listed(it["Resource"])):
            continue
        if not holds(it.get("Condition", {}), context):
            continue
        if it["Effect"] == "Deny":
            return False
        verdict = True
    return verdict


class Roles(unittest.TestCase):
    def layers(self):
        return stacks("check_layer")

    def test_the_evaluation(self):
        policy = lambda *statements: {"Policies": [{"Statement": list(statements)}]}
        allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "a/*"}
        deny = {"Effect": "Deny", "Action": "s3:*", "Resource": "a/pr/*"}
        self.assertTrue(allows(policy(allow, deny), "s3:GetObject", "a/b"))
        self.assertFalse(allows(policy(allow, deny), "s3:GetObject", "a/pr/b"))
        self.assertFalse(allows(policy(allow), "s3:PutObject", "a/b"))
        self.assertFalse(allows(policy(), "s3:GetObject", "a/b"))
        only = allow | {"Condition": {"StringLike": {"k:v": "x*"}}}
        self.assertEqual([allows(policy(only), "s3:GetObject", "a/b", k__v=v) for v in ("xy", "y")], [True, False])
        self.assertFalse(allows(policy(only), "s3:GetObject", "a/b"))

    def test_no_role_may_do_these(self):
        """Also no trusted build: code that takes over one of these machines gets its role."""
        never = re.compile(
            r"iam:|sts:AssumeRole|organizations:|cloudformation:|lambda:|ecr:Delete|ecr:PutLifecycle"
            r"|s3:(Put|Delete)Bucket|s3:DeleteObjectVersion|s3:PutLifecycle|s3:PutObjectAcl|s3:BypassGovernance"
            r"|secretsmanager:(Put|Create|Delete|Update|List)|logs:Delete|logs:PutRetention"
            r"|codebuild:(Create|Update|Delete|Import|Invalidate|Retry)(?!Report)|events:|states:(Create|Update|Delete)"
            r"|elasticfilesystem:ClientRootAccess|elasticfilesystem:(Create|Delete|Put|Modify)|ec2:Run|ec2:Authorize"
        )
        # How Step Functions learns that a job of AWS Batch has ended.
        own_rule = f"arn:aws:events:{ACCOUNT}:rule/StepFunctionsGetEventsForBatchJobsRule"
        seen = set()
        for name in ORDER:
            for stack in stacks(name):
                for role, properties in roles(stack).items():
                    for it in rights(properties):
                        if it["Resource"] == own_rule:
                            self.assertEqual((name, role), ("aws_batch", "MachineRole"))
                            continue
                        for action in listed(it["Action"]) if it["Effect"] == "Allow" else []:
                            self.assertNotIn("*", action, f"{name}: {role}")
                            # CodeBuild itself has this role, and no build.
                            if (name, role, action) != ("batch", "BatchRole", "codebuild:RetryBuild"):
                                self.assertNotRegex(action, never, f"{name}: {role}")
                            if re.match("ecr:(Put|Initiate|Upload|Complete)", action):
                                self.assertEqual((name, role), ("seed_image", "Role"), "only one role pushes images")
                            seen.add((name, role))
        self.assertGreaterEqual(len(seen), 10)

    def test_only_calls_without_a_resource_have_none(self):
        for name in ORDER:
            for stack in stacks(name):
                for role, properties in roles(stack).items():
                    for it in rights(properties):
                        self.assertNotIn("NotAction", it)
                        self.assertNotIn("NotResource", it)
                        if "*" in listed(it["Resource"]):
                            calls = "ecr:GetAuth|ec2:Describe|ecs:DiscoverPollEndpoint$|batch:DescribeJobs$"
                            free = [a for a in listed(it["Action"]) if re.match(calls, a)]
                            self.assertEqual(free, listed(it["Action"]), f"{name}: {role}")

    def test_who_may_assume_a_role(self):
        """The trust names the resource of this account for which a service may act."""
        for name in ORDER:
            for stack in stacks(name):
                for role, properties in roles(stack).items():
                    [it] = properties["AssumeRolePolicyDocument"]["Statement"]
                    where = f"{name}: {role}"
                    if "Federated" in it["Principal"]:
                        self.assertEqual(it["Action"], "sts:AssumeRoleWithWebIdentity", where)
                        condition = it["Condition"]["StringEquals"]
                        issuer = "token.actions.githubusercontent.com"
                        self.assertEqual(condition[f"{issuer}:aud"], "sts.amazonaws.com")
                        for subject in condition[f"{issuer}:sub"]:
                            self.assertRegex(subject, r"^repo:example/meta-x:ref:refs/heads/[a-z]+$")
                        continue
                    self.assertEqual(it["Action"], "sts:AssumeRole", where)
                    if it["Principal"]["Service"] == "ec2.amazonaws.com":
                        # A machine's role: EC2 takes it for the instance profile that has it.
                        self.assertIn(f"<{role}>", stack.properties("InstanceProfile")["Roles"], where)
                        continue
                    [(kind, keys)] = [pair for pair in it["Condition"].items() if "aws:SourceArn" in pair[1]]
                    self.assertIn(":123456789012:", keys["aws:SourceArn"], where)
                    service = it["Principal"]["Service"]
                    self.assertEqual(kind == "ArnLike", service == "ecs-tasks.amazonaws.com", where)
                    self.assertEqual("*" in keys["aws:SourceArn"], service == "ecs-tasks.amazonaws.com", where)

    def test_a_role_names_the_project_or_rule_that_uses_it(self):
        """A wrong name in the trust would only show when the first build starts."""
        seen = set()
        for name in ORDER:
            for stack in stacks(name):
                for user, it in stack.resources.items():
                    uses = [("ServiceRole", "project"), ("RoleArn", "stateMachine")]
                    found = [(it["Properties"].get(key), kind) for key, kind in uses if it["Type"] != "AWS::Events::Rule"]
                    for target in it["Properties"].get("Targets", []):
                        found.append((target.get("RoleArn"), "rule"))
                    for role, kind in found:
                        if role is None:
                            continue
                        trust = stack.resources[role.strip("<>").removesuffix(".Arn")]["Properties"]
                        [statement] = trust["AssumeRolePolicyDocument"]["Statement"]
                        [keys] = [keys for keys in statement["Condition"].values() if "aws:SourceArn" in keys]
                        own = it["Properties"].get("Name") or it["Properties"]["StateMachineName"]
                        self.assertRegex(keys["aws:SourceArn"], f":{kind}[/:]{re.escape(own)}$", f"{name}: {user}")
                        self.assertLessEqual(len(own), 64, "the limit for a rule")
                        seen.add((name, user))
        self.assertGreaterEqual(len(seen), 8)

    def test_names_fit_into_the_limits_of_aws(self):
        longest = {"Name": "n" * 39, "Prefix": "p" * 19 + "-"}
        stack = Stack("check_layer", **{**GIVEN["check_layer"], **longest})
        for it in stack.resources.values():
            if it["Type"] == "AWS::Events::Rule":
                self.assertLessEqual(len(it["Properties"]["Name"]), 64)
            if it["Type"] == "AWS::StepFunctions::StateMachine":
                self.assertLessEqual(len(it["Properties"]["StateMachineName"]), 80)

    def test_the_project_that_posts_reads_only_results_and_its_credential(self):
        for stack in stacks("post_results"):
            role, given = roles(stack)["Role"], stack.parameters
            results = f"{BUCKET}/pull-requests/meta-x/results"
            self.assertTrue(allows(role, "s3:GetObject", f"{results}/0a1b/result.json"))
            for key in ("pull-requests/meta-x/results/0a1b/other", "pull-requests/meta-y/results/0a1b/result.json", "builds/meta-x/x"):
                self.assertFalse(allows(role, "s3:GetObject", f"{BUCKET}/{key}"), key)
            for key in ("pull-requests/meta-x/results/0a1b/result.json", "builds/meta-x/x", "x"):
                self.assertFalse(allows(role, "s3:PutObject", f"{BUCKET}/{key}"), key)
            self.assertFalse(allows(role, "s3:GetObject", f"{SHARE}/share/x"))
            public = "<build-agent-PublicBucketArn>"
            self.assertEqual(allows(role, "s3:PutObject", f"{public}/meta-x/x"), given["PublicReports"] == "true")
            self.assertFalse(allows(role, "s3:PutObject", f"{public}/meta-y/x"))
            secret = "build-agent/app-key" if given["AppId"] else "build-agent/post"
            for name in ("build-agent/app-key", "build-agent/post", "build-agent/github"):
                arn = f"arn:aws:secretsmanager:{ACCOUNT}:secret:{name}-AbCdEf"
                self.assertEqual(allows(role, "secretsmanager:GetSecretValue", arn), name == secret, name)
            machine = roles(stack)["MachineRole"]
            project = f"arn:aws:codebuild:{ACCOUNT}:project/build-agent-meta-x"
            self.assertTrue(allows(machine, "codebuild:BatchGetBuilds", f"{project}-pull-requests"))
            self.assertTrue(allows(machine, "codebuild:StartBuild", f"{project}-post"))
            for other in ("pull-requests", "builds"):
                self.assertFalse(allows(machine, "codebuild:StartBuild", f"{project}-{other}"))

    def test_a_lab_reads_requests_and_writes_leases_and_results(self):
        stack = Stack("lab")
        lab = {"Policies": [{"PolicyDocument": stack.properties("LabPolicy")["PolicyDocument"]}]}
        store, request = "<Bucket.Arn>/devices/v1", "<Bucket.Arn>/devices/v1/requests/2026-x"
        for key in ("files/0a1b", "requests/2026-x/request.json", "leases/pi/7.json", "open/2026-x"):
            self.assertTrue(allows(lab, "s3:GetObject", f"{store}/{key}"), key)
        written = ["leases/pi/7.json", "leases/pi/7.renewed.json", "labs/desk.json", "lab.html", "devices/pi/health.json"]
        written = [f"{store}/{key}" for key in written]
        written += [f"{request}/{key}" for key in ("attempts/1.json", "reports/1/result.json", "verdict.json")]
        for key in written:
            self.assertTrue(allows(lab, "s3:PutObject", key), key)
        # It makes no requests, and changes no image that is to be tested.
        for key in (f"{request}/request.json", f"{store}/files/0a1b", f"{store}/open/2026-x", "<Bucket.Arn>/x"):
            self.assertFalse(allows(lab, "s3:PutObject", key), key)
        for key in (f"{request}/request.json", f"{request}/verdict.json", f"{request}/reports/1/result.json", f"{store}/files/x"):
            self.assertFalse(allows(lab, "s3:DeleteObject", key), key)
        for bucket in (BUCKET, SHARE):
            for key in ("builds/meta-x/x", "pull-requests/meta-x/x", "share/x", "devices/v1/x"):
                for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
                    self.assertFalse(allows(lab, action, f"{bucket}/{key}"), (action, key))
        self.assertTrue(allows(lab, "s3:ListBucket", "<Bucket.Arn>", s3__prefix="devices/v1/leases/pi/"))
        self.assertFalse(allows(lab, "s3:ListBucket", "<Bucket.Arn>", s3__prefix=""))
        machine = f"arn:aws:states:{ACCOUNT}:stateMachine:build-agent-meta-x"
        self.assertTrue(allows(lab, "states:SendTaskSuccess", f"{machine}-device"))
        for other in (f"{machine}-post", f"{machine}-stop", f"arn:aws:states:{ACCOUNT}:stateMachine:other-device"):
            self.assertFalse(allows(lab, "states:SendTaskSuccess", other), other)
        for action in ("states:StartExecution", "states:SendTaskHeartbeat", "secretsmanager:GetSecretValue"):
            self.assertFalse(allows(lab, action, f"{machine}-device"), action)
        [final] = [it for it in statements(stack.properties("BucketPolicy")) if it["Sid"] == "RecordsAreFinal"]
        self.assertEqual((final["Effect"], final["Principal"], final["Action"]), ("Deny", "*", "s3:PutObject"))
        for name in ("request.json", "attempts/1.json", "verdict.json"):
            self.assertTrue(any(fnmatchcase(f"{request}/{name}", pattern) for pattern in final["Resource"]), name)
        for name in ("leases/pi/7.renewed.json", "labs/desk.json", "lab.html", "requests/2026-x/reports/1/result.json"):
            self.assertFalse(any(fnmatchcase(f"{store}/{name}", pattern) for pattern in final["Resource"]), name)

    def test_the_project_that_requests_tests_writes_only_requests(self):
        lab = "<build-agent-LabBucketArn>/devices/v1"
        for stack in stacks("device_tests"):
            role, given = roles(stack)["Role"], stack.parameters
            for key in ("pull-requests/meta-x/results/0a1b/result.json", "builds/meta-x/1/x"):
                self.assertTrue(allows(role, "s3:GetObject", f"{BUCKET}/{key}"), key)
            for key in ("pull-requests/meta-y/x", "builds/meta-y/x", "x"):
                self.assertFalse(allows(role, "s3:GetObject", f"{BUCKET}/{key}"), key)
            for key in ("pull-requests/meta-x/x", "builds/meta-x/x"):
                self.assertFalse(allows(role, "s3:PutObject", f"{BUCKET}/{key}"), key)
            for key in ("files/0a1b", "requests/2026-x/request.json", "open/2026-x"):
                self.assertTrue(allows(role, "s3:PutObject", f"{lab}/{key}"), key)
            for key in ("requests/2026-x/verdict.json", "requests/2026-x/reports/1/result.json", "leases/pi/1.json", "labs/x.json"):
                self.assertFalse(allows(role, "s3:PutObject", f"{lab}/{key}"), key)
                self.assertTrue(allows(role, "s3:GetObject", f"{lab}/{key}"), key)
            self.assertFalse(allows(role, "s3:DeleteObject", f"{lab}/open/2026-x"))
            secret = "build-agent/app-key" if given["AppId"] else "build-agent/post"
            for name in ("build-agent/app-key", "build-agent/post", "build-agent/github"):
                arn = f"arn:aws:secretsmanager:{ACCOUNT}:secret:{name}-AbCdEf"
                self.assertEqual(allows(role, "secretsmanager:GetSecretValue", arn), name == secret, name)
            machine = roles(stack)["MachineRole"]
            project = f"arn:aws:codebuild:{ACCOUNT}:project/build-agent-meta-x"
            for built in ("pull-requests", "builds"):
                self.assertTrue(allows(machine, "codebuild:BatchGetBuilds", f"{project}-{built}"))
                self.assertFalse(allows(machine, "codebuild:StartBuild", f"{project}-{built}"))
            self.assertTrue(allows(machine, "codebuild:StartBuild", f"{project}-device"))

    # ---- pull requests and runners ----------------------------------------------------------------------------

    def test_a_pull_request_never_writes_what_others_read(self):
        for stack in self.layers():
            role = roles(stack)["PullRequestRole"]
            for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
                for key in (*KEYS, "prx/7/sstate/x", "prx", "x", ""):
                    self.assertFalse(allows(role, action, f"{SHARE}/share/{key}"), (action, key))
                self.assertFalse(allows(role, action, f"{SHARE}/x"))
                self.assertFalse(allows(role, action, f"{BUCKET}/builds/meta-x/x"))
                self.assertFalse(allows(role, action, f"{BUCKET}/pull-requests/meta-y/x"))
            for key in ("share/pr/7/sstate/scarthgap/x", "share/pr/7/leases", "share/pr/7/signatures/parses/x"):
                self.assertFalse(allows(role, "s3:DeleteObject", f"{SHARE}/{key}"), key)
            self.assertFalse(allows(role, "s3:DeleteObject", f"{BUCKET}/pull-requests/meta-x/x"))
            for point in ("SharedAccessPoint", "SharedReadOnlyAccessPoint", "HashServerAccessPoint"):
                context = {"elasticfilesystem__AccessPointArn": f"<build-agent-{point}Arn>"}
                files = "<build-agent-FileSystemArn>"
                self.assertFalse(allows(role, "elasticfilesystem:ClientWrite", files, **context), point)
            self.assertFalse(allows(role, "elasticfilesystem:ClientMount", "<build-agent-FileSystemArn>"))
            for group in ("pull-requests", "builds"):
                project = f"arn:aws:codebuild:{ACCOUNT}:project/build-agent-meta-x-{group}"
                for action in ("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"):
                    self.assertFalse(allows(role, action, project))
            reports = f"arn:aws:codebuild:{ACCOUNT}:report-group/build-agent-meta-x-builds"
            self.assertFalse(allows(role, "codebuild:CreateReport", reports))
            trusted = f"arn:aws:ec2:{ACCOUNT}:security-group/<build-agent-TrustedSecurityGroup>"
            self.assertFalse(allows(role, "ec2:CreateNetworkInterface", trusted))

    def test_a_pull_request_reads_no_secret_but_its_own_credential(self):
        for stack in self.layers():
            role = roles(stack)["PullRequestRole"]
            for secret in ("build-agent/github-AbCdEf", "build-agent/dockerhub-AbCdEf", "x-AbCdEf"):
                arn = f"arn:aws:secretsmanager:{ACCOUNT}:secret:{secret}"
                self.assertFalse(allows(role, "secretsmanager:GetSecretValue", arn))
            given = stack.parameters["PullRequestCredential"]
            self.assertEqual(allows(role, "secretsmanager:GetSecretValue", CREDENTIAL), given == CREDENTIAL)
            self.assertFalse(allows(role, "s3:GetObject", f"{BUCKET}/builds/meta-x/index.json"))
            self.assertFalse(allows(role, "s3:GetObject", "arn:aws:s3:::manifests/other.toml"))
            self.assertFalse(allows(role, "codeconnections:GetConnectionToken", CONNECTION))

    def test_a_pull_request_works(self):
        for stack in self.layers():
            role, share = roles(stack)["PullRequestRole"], stack.parameters["Share"]
            for action in ("s3:PutObject", "s3:GetObject"):
                self.assertTrue(allows(role, action, f"{BUCKET}/pull-requests/meta-x/1/index.json"))
            on_s3 = share == "s3"
            for key in KEYS:
                self.assertEqual(allows(role, "s3:GetObject", f"{SHARE}/share/{key}"), on_s3)
                for action in ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"):
                    self.assertEqual(allows(role, action, f"{SHARE}/share/pr/7/{key}"), on_s3)
                deletes = on_s3 and key in DELETED_BY_BUILDS
                self.assertEqual(allows(role, "s3:DeleteObject", f"{SHARE}/share/pr/7/{key}"), deletes, key)
            # For an object that does not exist, S3 returns 404 to a role that may list its key as a prefix, and 403 to others.
            # An empty share must not look like one without access.
            for prefix in ("share/index/", "share/pr/7/index/", "share/index/none", "share/pr/7/index/none"):
                self.assertEqual(allows(role, "s3:ListBucket", SHARE, s3__prefix=prefix), on_s3, prefix)
            self.assertFalse(allows(role, "s3:ListBucket", SHARE, s3__prefix="x/"))
            self.assertFalse(allows(role, "s3:ListBucket", SHARE, s3__prefix=""))
            self.assertFalse(allows(role, "s3:ListBucket", SHARE))
            point = {"elasticfilesystem__AccessPointArn": "<build-agent-PullRequestAccessPointArn>"}
            files = "<build-agent-FileSystemArn>"
            self.assertEqual(allows(role, "elasticfilesystem:ClientWrite", files, **point), share == "efs")
            in_s3 = stack.parameters["Manifest"].startswith("s3:")
            self.assertEqual(allows(role, "s3:GetObject", "arn:aws:s3:::manifests/meta-x.toml"), in_s3)

    def test_without_a_network_no_role_has_a_right_of_ec2(self):
        for stack in self.layers():
            in_network = stack.parameters["Share"] == "efs" or stack.parameters["HashServer"] != ""
            for name, role in roles(stack).items():
                actions = [action for it in rights(role) for action in listed(it["Action"])]
                uses = any(action.startswith("ec2:") for action in actions)
                runner_role = name == "BuildRole" and stack.parameters["Mode"] == "runner"
                machine = name in ("PullRequestRole", "BuildRole") and not runner_role
                self.assertEqual(uses, in_network and machine, f"{name} {stack.parameters}")
            for name, it in stack.resources.items():
                if it["Type"] == "AWS::CodeBuild::Project":
                    self.assertEqual("VpcConfig" in it["Properties"], in_network, name)

    def test_machines_enter_only_their_own_subnets(self):
        subnet = lambda name: f"arn:aws:ec2:{ACCOUNT}:subnet/<{name}>"
        interface = f"arn:aws:ec2:{ACCOUNT}:network-interface/eni-1"
        table = {"PullRequestNetworkPolicy": "PullRequestSubnet", "NetworkPolicy": "PrivateSubnet"}
        for policy, own in table.items():
            role = {"ManagedPolicyArns": [f"<build-agent-{policy}Arn>"]}
            for name in ("PullRequestSubnet", "PrivateSubnet"):
                for number in "12":
                    there = subnet(f"{name}{number}")
                    self.assertEqual(allows(role, "ec2:CreateNetworkInterface", there), name == own)
                    context = {"ec2__Subnet": there}
                    self.assertEqual(allows(role, "ec2:DeleteNetworkInterface", interface, **context), name == own)
                    lent = context | {"ec2__AuthorizedService": "codebuild.amazonaws.com"}
                    lends = "ec2:CreateNetworkInterfacePermission"
                    self.assertEqual(allows(role, lends, interface, **lent), name == own)
            self.assertFalse(allows(role, "ec2:DeleteNetworkInterface", interface))
            other = {"ec2__Subnet": subnet(f"{own}1"), "ec2__AuthorizedService": "ec2.amazonaws.com"}
            self.assertFalse(allows(role, "ec2:CreateNetworkInterfacePermission", interface, **other))
        for stack in stacks("check_layer"):
            for project in ("PullRequestProject", "BuildProject"):
                if project in stack.resources and "VpcConfig" in stack.properties(project):
                    subnets = stack.properties(project)["VpcConfig"]["Subnets"]
                    own = "PullRequestSubnet" if project == "PullRequestProject" else "PrivateSubnet"
                    self.assertEqual(subnets, [f"<build-agent-{own}1>", f"<build-agent-{own}2>"])

    # ---- trusted builds ---------------------------------------------------------------------------------------

    def test_a_trusted_build_never_touches_the_part_of_pull_requests(self):
        seen = 0
        for stack in self.layers():
            role = roles(stack).get("BuildRole")
            if role is None:
                self.assertEqual((stack.parameters["Mode"], stack.parameters["TrustedSubjects"]), ("runner", [""]))
                continue
            on_s3, seen = stack.parameters["Share"] == "s3", seen + 1
            for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
                self.assertFalse(allows(role, action, f"{SHARE}/share/pr/7/sstate/x"))
                self.assertFalse(allows(role, action, f"{BUCKET}/pull-requests/meta-x/x"))
            for prefix in ("share/index/", "share/index/none"):
                self.assertEqual(allows(role, "s3:ListBucket", SHARE, s3__prefix=prefix), on_s3, prefix)
            for key in KEYS:
                for action in ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"):
                    self.assertEqual(allows(role, action, f"{SHARE}/share/{key}"), on_s3, key)
                deletes = on_s3 and key in DELETED_BY_BUILDS
                self.assertEqual(allows(role, "s3:DeleteObject", f"{SHARE}/share/{key}"), deletes, key)
            self.assertTrue(allows(role, "s3:PutObject", f"{BUCKET}/builds/meta-x/1/index.json"))
            self.assertFalse(allows(role, "s3:PutObject", f"{BUCKET}/builds/meta-y/1/index.json"))
            self.assertFalse(allows(role, "s3:DeleteObject", f"{BUCKET}/builds/meta-x/1/index.json"))
            token = f"arn:aws:secretsmanager:{ACCOUNT}:secret:build-agent/github-AbCdEf"
            given = stack.parameters["TokenSecret"] != ""
            self.assertEqual(allows(role, "secretsmanager:GetSecretValue", token), given)
            for other in ("build-agent/github2-AbCdEf", "x-AbCdEf", "build-agent/github-AbCdEfG"):
                arn = f"arn:aws:secretsmanager:{ACCOUNT}:secret:{other}"
                self.assertFalse(allows(role, "secretsmanager:GetSecretValue", arn), other)
        self.assertGreater(seen, 20)

    def test_options_of_a_layer_give_only_their_right(self):
        key = {"kms__ViaService": "s3.eu-west-1.amazonaws.com"}
        for given in ({}, {"KmsKeyArn": KEY}, {"ConnectionArn": CONNECTION}, {"BuildCredential": CREDENTIAL}):
            stack = Stack("check_layer", **GIVEN["check_layer"], **given)
            for name in ("PullRequestRole", "BuildRole"):
                role = roles(stack)[name]
                for action in ("kms:GenerateDataKey", "kms:Decrypt"):
                    self.assertEqual(allows(role, action, KEY, **key), "KmsKeyArn" in given)
                    self.assertFalse(allows(role, action, KEY), "only through S3")
                    self.assertFalse(allows(role, action, KEY + "x", **key))
                token = allows(role, "codeconnections:GetConnectionToken", CONNECTION)
                self.assertEqual(token, "ConnectionArn" in given)
                secret = allows(role, "secretsmanager:GetSecretValue", CREDENTIAL)
                self.assertEqual(secret, "BuildCredential" in given and name == "BuildRole")

    # ---- AWS Batch --------------------------------------------------------------------------------------------

    def test_a_cell_in_aws_batch_has_the_rights_of_its_source(self):
        for stack in stacks("aws_batch"):
            role, trusted = roles(stack)["JobRole"], stack.parameters["Kind"] == "builds"
            own, other = ("builds", "pull-requests") if trusted else ("pull-requests", "builds")
            on_s3 = stack.parameters["Share"] == "s3"
            for key in KEYS:
                self.assertEqual(allows(role, "s3:GetObject", f"{SHARE}/share/{key}"), on_s3, key)
                self.assertEqual(allows(role, "s3:PutObject", f"{SHARE}/share/{key}"), on_s3 and trusted, key)
                deletes = on_s3 and trusted and key in DELETED_BY_BUILDS
                self.assertEqual(allows(role, "s3:DeleteObject", f"{SHARE}/share/{key}"), deletes, key)
                for action in ("s3:PutObject", "s3:DeleteObject"):
                    self.assertFalse(allows(role, action, f"{SHARE}/share/pr/7/{key}"), "the number is not proven")
                self.assertEqual(allows(role, "s3:GetObject", f"{SHARE}/share/pr/7/{key}"), on_s3 and not trusted)
            for action in ("s3:GetObject", "s3:PutObject"):
                self.assertTrue(allows(role, action, f"{BUCKET}/{own}/meta-x/x"))
                self.assertFalse(allows(role, action, f"{BUCKET}/{own}/meta-y/x"))
                self.assertFalse(allows(role, action, f"{BUCKET}/{other}/meta-x/x"))
            self.assertFalse(allows(role, "s3:DeleteObject", f"{BUCKET}/{own}/meta-x/x"))
            self.assertTrue(allows(role, "s3:ListBucket", BUCKET, s3__prefix=f"{own}/meta-x/x"))
            for prefix in ("", f"{other}/meta-x/x", f"{own}/meta-y/x"):
                self.assertFalse(allows(role, "s3:ListBucket", BUCKET, s3__prefix=prefix), prefix)
            files = "<build-agent-FileSystemArn>"
            for point, kind in (("SharedAccessPoint", True), ("SharedReadOnlyAccessPoint", False), ("PullRequestAccessPoint", None)):
                context = {"elasticfilesystem__AccessPointArn": f"<build-agent-{point}Arn>"}
                mounts = not on_s3 and kind == trusted
                self.assertEqual(allows(role, "elasticfilesystem:ClientMount", files, **context), mounts, point)
                self.assertEqual(allows(role, "elasticfilesystem:ClientWrite", files, **context), mounts and trusted, point)

    def test_the_state_machine_of_aws_batch_submits_only_its_own_jobs(self):
        for stack in stacks("aws_batch"):
            role, kind = roles(stack)["MachineRole"], stack.parameters["Kind"]
            jobs = f"arn:aws:batch:{ACCOUNT}:job-definition/build-agent-meta-x"
            self.assertTrue(allows(role, "batch:SubmitJob", f"{jobs}-{kind}:3"))
            self.assertTrue(allows(role, "batch:SubmitJob", "<Queue>"))
            for job in (f"{jobs}-other", f"{jobs}-{kind}-x:3", jobs):
                for action in ("batch:SubmitJob", "batch:TagResource"):
                    self.assertFalse(allows(role, action, job), job)
            # It stops the jobs with its own tag, and cannot give this tag to others.
            name, other = f"build-agent-meta-x-{kind}", "build-agent-meta-y-builds"
            job = f"arn:aws:batch:{ACCOUNT}:job/0a1b"
            tag = "aws__ResourceTag/build-agent"
            self.assertTrue(allows(role, "batch:TerminateJob", job, **{tag: name}))
            self.assertFalse(allows(role, "batch:TerminateJob", job, **{tag: other}))
            self.assertFalse(allows(role, "batch:TerminateJob", job))
            self.assertFalse(allows(role, "batch:TagResource", job, **{"aws__RequestTag/build-agent": name}))
            submits = [it["Parameters"] for it in walk(json.loads(stack.properties("Machine")["DefinitionString"])) if isinstance(it, dict) and "Parameters" in it]
            submits = [it for it in submits if "JobQueue" in it]
            self.assertEqual([it["Tags"] for it in submits], [{"build-agent": name}] * 3, "warm, the cells, merge")
            for name in ("JobRole", "StartRole", "InstanceRole"):
                actions = {action for it in rights(roles(stack)[name]) for action in listed(it["Action"])}
                self.assertFalse([action for action in actions if action.startswith(("batch:", "states:", "events:"))], name)

    def test_options_of_aws_batch_give_only_their_right(self):
        key = {"kms__ViaService": "s3.eu-west-1.amazonaws.com"}
        for stack in stacks("aws_batch"):
            given = {name for name in ("KmsKeyArn", "SourceCredential") if stack.parameters[name]}
            for name, role in roles(stack).items():
                for action in ("kms:GenerateDataKey", "kms:Decrypt"):
                    self.assertEqual(allows(role, action, KEY, **key), name == "JobRole" and "KmsKeyArn" in given, name)
                    self.assertFalse(allows(role, action, KEY), "only through S3")
                # ECS reads it. The job, whose code may be of a pull request, cannot.
                reads = allows(role, "secretsmanager:GetSecretValue", CREDENTIAL)
                self.assertEqual(reads, name == "StartRole" and "SourceCredential" in given, name)

    # ---- batches ----------------------------------------------------------------------------------------------

    def test_a_batch_of_pull_requests_is_as_weak_as_a_pull_request(self):
        for stack in stacks("batch"):
            kind, on_s3 = stack.parameters["Kind"], stack.parameters["Share"] == "s3"
            role, is_pull = roles(stack)["BuildRole"], stack.parameters["Kind"] == "pull-requests"
            own, other = ("pull-requests", "builds") if is_pull else ("builds", "pull-requests")
            for action in ("s3:PutObject", "s3:GetObject"):
                self.assertTrue(allows(role, action, f"{BUCKET}/{own}/meta-x/batches/v1/meta-x/c/d-b/lock"))
                self.assertFalse(allows(role, action, f"{BUCKET}/{other}/meta-x/batches/v1/x"), kind)
                self.assertFalse(allows(role, action, f"{BUCKET}/{own}/meta-y/batches/v1/x"), kind)
            self.assertTrue(allows(role, "s3:ListBucket", BUCKET, s3__prefix=f"{own}/meta-x/batches/v1/x/"))
            for prefix in ("", f"{own}/", f"{own}/meta-y/batches/", f"{other}/meta-x/batches/"):
                self.assertFalse(allows(role, "s3:ListBucket", BUCKET, s3__prefix=prefix), prefix)
            for key in KEYS:
                shared, part = f"{SHARE}/share/{key}", f"{SHARE}/share/pr/7/{key}"
                self.assertEqual(allows(role, "s3:GetObject", shared), on_s3, key)
                self.assertEqual(allows(role, "s3:PutObject", shared), on_s3 and not is_pull, key)
                self.assertEqual(allows(role, "s3:PutObject", part), on_s3 and is_pull, key)
                self.assertEqual(allows(role, "s3:GetObject", part), on_s3 and is_pull, key)
                deletes = on_s3 and key in DELETED_BY_BUILDS
                self.assertEqual(allows(role, "s3:DeleteObject", shared), deletes and not is_pull, key)
                self.assertEqual(allows(role, "s3:DeleteObject", part), deletes and is_pull, key)
            post = f"arn:aws:secretsmanager:{ACCOUNT}:secret:build-agent/post-AbCdEf"
            self.assertFalse(allows(role, "secretsmanager:GetSecretValue", post), "cells do not post")
            given = stack.parameters["SourceCredential"] == CREDENTIAL
            self.assertEqual(allows(role, "secretsmanager:GetSecretValue", CREDENTIAL), given)
            actions = {action for it in rights(role) for action in listed(it["Action"])}
            self.assertFalse([action for action in actions if action.startswith("codebuild:")], "it starts no build")

    def test_a_batch_mounts_the_share_as_its_source_may(self):
        files = "<build-agent-FileSystemArn>"
        subnet = lambda name: f"arn:aws:ec2:{ACCOUNT}:subnet/<build-agent-{name}>"
        for stack in stacks("batch"):
            role, is_pull = roles(stack)["BuildRole"], stack.parameters["Kind"] == "pull-requests"
            on_efs = stack.parameters["Share"] == "efs"
            mounted = {"SharedReadOnlyAccessPoint": False, "PullRequestAccessPoint": True} if is_pull else {"SharedAccessPoint": True}
            for point in ("SharedAccessPoint", "SharedReadOnlyAccessPoint", "PullRequestAccessPoint", "HashServerAccessPoint"):
                context = {"elasticfilesystem__AccessPointArn": f"<build-agent-{point}Arn>"}
                mounts = allows(role, "elasticfilesystem:ClientMount", files, **context)
                writes = allows(role, "elasticfilesystem:ClientWrite", files, **context)
                self.assertEqual(mounts, on_efs and point in mounted, point)
                self.assertEqual(writes, on_efs and mounted.get(point, False), point)
            self.assertFalse(allows(role, "elasticfilesystem:ClientMount", files), "only through an access point")
            own, other = ("PullRequestSubnet", "PrivateSubnet") if is_pull else ("PrivateSubnet", "PullRequestSubnet")
            project = stack.properties("Project")
            network = project.get("VpcConfig", {})
            self.assertEqual(network.get("Subnets", []), [f"<build-agent-{own}{it}>" for it in "12"] if on_efs else [])
            attached = [it for it in role["ManagedPolicyArns"] if "Network" in it]
            wanted = "PullRequestNetworkPolicy" if is_pull else "NetworkPolicy"
            self.assertEqual(attached, [f"<build-agent-{wanted}Arn>"] if on_efs else [])
            # Nothing needs the trusted group: a batch uses no hash server.
            self.assertNotIn("<build-agent-TrustedSecurityGroup>", network.get("SecurityGroupIds", []))
            self.assertEqual(project["Environment"]["PrivilegedMode"], on_efs)
            start = stack.properties("StartProject")
            self.assertFalse(start["Environment"]["PrivilegedMode"])
            self.assertNotIn("VpcConfig", start)
            actions = {action for it in rights(roles(stack)["StartRole"]) for action in listed(it["Action"])}
            self.assertFalse([action for action in actions if action.startswith(("elasticfilesystem:", "ec2:"))])

    def test_a_batch_uses_the_key_only_through_s3(self):
        key = {"kms__ViaService": "s3.eu-west-1.amazonaws.com"}
        for stack in stacks("batch"):
            given = stack.parameters["KmsKeyArn"] != ""
            wanted = {"BuildRole": {"kms:GenerateDataKey", "kms:Decrypt"}, "StartRole": {"kms:Decrypt"}}
            for name, role in roles(stack).items():
                for action in ("kms:GenerateDataKey", "kms:Decrypt"):
                    self.assertEqual(allows(role, action, KEY, **key), given and action in wanted.get(name, ()), name)
                    self.assertFalse(allows(role, action, KEY))
                    self.assertFalse(allows(role, action, KEY + "x", **key))

    def test_only_what_starts_a_batch_writes_its_report(self):
        for stack in stacks("batch"):
            group = stack.properties("StartReports")["Name"]
            for name, role in roles(stack).items():
                for report in (group, "build-agent-meta-x-builds", "build-agent-meta-x-pull-requests"):
                    arn = f"arn:aws:codebuild:{ACCOUNT}:report-group/{report}"
                    writes = allows(role, "codebuild:BatchPutTestCases", arn)
                    self.assertEqual(writes, name == "StartRole" and report == group, (name, report))
            [arn] = stack.buildspec("StartProject")["reports"]
            self.assertEqual(arn, f"arn:aws:codebuild:{ACCOUNT}:report-group/{group}")

    def test_only_codebuild_runs_the_builds_of_a_batch(self):
        for stack in stacks("batch"):
            role = roles(stack)["BatchRole"]
            [it] = rights(role)
            name = stack.properties("Project")["Name"]
            self.assertEqual(it["Resource"], f"arn:aws:codebuild:{ACCOUNT}:project/{name}")
            self.assertEqual(role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"], {"Service": "codebuild.amazonaws.com"})
            users = [it["Properties"]["ServiceRole"] for it in stack.resources.values() if it["Type"] == "AWS::CodeBuild::Project"]
            self.assertNotIn("<BatchRole.Arn>", users)

    def test_what_starts_a_batch_only_reads_its_results(self):
        for stack in stacks("batch"):
            role, kind = roles(stack)["StartRole"], stack.parameters["Kind"]
            self.assertTrue(allows(role, "s3:GetObject", f"{BUCKET}/{kind}/meta-x/batches/v1/x"))
            self.assertFalse(allows(role, "s3:GetObject", f"{BUCKET}/{kind}/meta-x/images/x"))
            for bucket in (BUCKET, SHARE):
                for action in ("s3:PutObject", "s3:DeleteObject"):
                    self.assertFalse(allows(role, action, f"{bucket}/{kind}/meta-x/batches/v1/x"))
            own = f"arn:aws:codebuild:{ACCOUNT}:project/{stack.properties('Project')['Name']}"
            for action in ("StartBuildBatch", "StopBuildBatch", "ListBuildBatchesForProject", "BatchGetBuildBatches"):
                self.assertTrue(allows(role, f"codebuild:{action}", own), action)
            other = f"arn:aws:codebuild:{ACCOUNT}:project/build-agent-meta-x-builds"
            for action in ("codebuild:StartBuildBatch", "codebuild:StopBuildBatch", "codebuild:StartBuild"):
                self.assertFalse(allows(role, action, other))
            post = f"arn:aws:secretsmanager:{ACCOUNT}:secret:build-agent/post-AbCdEf"
            posts = stack.parameters["ResultName"] != ""
            self.assertEqual(allows(role, "secretsmanager:GetSecretValue", post), posts)

    # ---- everything else --------------------------------------------------------------------------------------

    def test_only_one_role_stops_builds_and_only_of_its_project(self):
        for stack in self.layers():
            for name, role in roles(stack).items():
                actions = {action for it in rights(role) for action in listed(it["Action"])}
                self.assertEqual("codebuild:StopBuild" in actions, name == "SupersededRole")
            self.assertEqual("SupersededRole" in stack.resources, stack.parameters["Mode"] == "webhook")
        role = roles(Stack("check_layer", **GIVEN["check_layer"]))["SupersededRole"]
        [it] = rights(role)
        stack = Stack("check_layer", **GIVEN["check_layer"])
        project = stack.properties("PullRequestProject")["Name"]
        self.assertEqual(it["Resource"], f"arn:aws:codebuild:{ACCOUNT}:project/{project}")
        event = stack.properties("SupersededRule")["EventPattern"]["detail"]
        self.assertEqual(event, {"build-status": ["IN_PROGRESS"], "project-name": [project]})
        trust = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
        self.assertEqual(trust, {"Service": "states.amazonaws.com"}, "no machine with layer code gets it")

    def test_the_prune_deletes_only_from_the_share(self):
        for stack in stacks("prune_cache"):
            role, on_s3 = roles(stack)["Role"], stack.parameters["Share"] == "s3"
            for key in (*KEYS, "pr/7/x"):
                for action in ("s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
                    self.assertEqual(allows(role, action, f"{SHARE}/share/{key}"), on_s3)
                # It writes only the index again.
                writes = on_s3 and key.startswith("index/")
                self.assertEqual(allows(role, "s3:PutObject", f"{SHARE}/share/{key}"), writes, key)
            self.assertEqual(allows(role, "s3:PutObject", f"{SHARE}/share/pr/7/index/scarthgap/x"), on_s3)
            self.assertEqual(allows(role, "s3:ListBucket", SHARE, s3__prefix="share/"), on_s3)
            self.assertEqual(allows(role, "s3:ListBucketMultipartUploads", SHARE), on_s3)
            self.assertFalse(allows(role, "s3:ListBucketMultipartUploads", BUCKET))
            self.assertFalse(allows(role, "s3:DeleteObject", f"{BUCKET}/builds/meta-x/x"))
            actions = {action.split(":")[0] for it in rights(role) for action in listed(it["Action"])}
            self.assertEqual(actions, {"logs", "ecr", "s3"} if on_s3 else {"logs", "ecr", "elasticfilesystem", "ec2"})

    def test_the_buckets(self):
        stack = Stack("cache")
        for bucket in ("Bucket", "ShareBucket"):
            properties = stack.properties(bucket)
            self.assertEqual(set(properties["PublicAccessBlockConfiguration"].values()), {True})
            self.assertEqual(properties["OwnershipControls"]["Rules"], [{"ObjectOwnership": "BucketOwnerEnforced"}])
            self.assertTrue(properties["BucketEncryption"])
            tls = stack.properties(f"{bucket}Policy")["PolicyDocument"]["Statement"][0]
            self.assertEqual((tls["Effect"], tls["Principal"], tls["Action"]), ("Deny", "*", "s3:*"))
            self.assertEqual(tls["Resource"], [f"<{bucket}.Arn>", f"<{bucket}.Arn>/*"])
            self.assertEqual(tls["Condition"], {"Bool": {"aws:SecureTransport": "false"}})
            for statement in stack.properties(f"{bucket}Policy")["PolicyDocument"]["Statement"]:
                self.assertEqual(statement["Effect"], "Deny", "rights come from the roles")
        rules = {it["Id"]: it for it in stack.properties("ShareBucket")["LifecycleConfiguration"]["Rules"]}
        self.assertEqual(set(rules), {"unfinished-uploads", "pull-requests"}, "the prune deletes everything else")
        self.assertEqual(rules["pull-requests"]["Prefix"], "share/pr/")
        self.assertNotIn("ExpirationInDays", rules["unfinished-uploads"])

    def test_artifacts_of_a_build_stay_as_they_are(self):
        stack = Stack("cache")
        bucket = stack.properties("Bucket")
        self.assertEqual(bucket["VersioningConfiguration"], {"Status": "Enabled"})
        for rule in bucket["LifecycleConfiguration"]["Rules"]:
            if "AbortIncompleteMultipartUpload" not in rule:
                self.assertEqual(rule["Prefix"], "pull-requests/", "versions of builds/ never expire")
        [final] = [it for it in statements(stack.properties("BucketPolicy")) if it["Sid"] == "IndexesAreFinal"]
        self.assertEqual((final["Effect"], final["Principal"], final["Action"]), ("Deny", "*", "s3:PutObject"))
        self.assertEqual(final["Resource"], "<Bucket.Arn>/builds/*/index.json")
        # As in "Enforce conditional writes on Amazon S3 buckets" of the S3 user guide.
        condition = {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}
        self.assertEqual(final["Condition"], condition)
        for layer in self.layers():
            for role in roles(layer).values():
                for action in ("s3:DeleteObject", "s3:DeleteObjectVersion"):
                    self.assertFalse(allows(role, action, f"{BUCKET}/builds/meta-x/1/x"))

    def test_the_topic_takes_messages_only_of_this_installation(self):
        stack = Stack("alerts")
        for it in statements(stack.properties("TopicPolicy")):
            source = it["Condition"]["ArnLike"]["aws:SourceArn"]
            self.assertRegex(source, rf"^arn:aws:(events:{ACCOUNT}:rule/build-agent-alert-\*|cloudwatch:{ACCOUNT}:alarm:build-agent-\*)$")
        for rule in resources(stack.template, "AWS::Events::Rule"):
            self.assertTrue(stack.properties(rule)["Name"].startswith("build-agent-alert-"))
        layer = Stack("check_layer", **GIVEN["check_layer"])
        for alarm in resources(layer.template, "AWS::CloudWatch::Alarm"):
            self.assertTrue(layer.properties(alarm)["AlarmName"].startswith("build-agent-"))
