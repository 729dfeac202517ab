"""Checks that roles_test and structure_test find errors: each of these changes of a template must fail a test."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from templates import TOP

HERE = Path(__file__).resolve().parent
# The tests that check the text of the templates, without a server.
CHECKS = ["roles_test.Roles", "structure_test.Structure"]
SLOW = {"test_cfn_lint", "test_scripts_are_shellcheck_clean", "test_the_mutations"}

STATEMENT = """
              - Sid: ListTheShare
                Effect: Allow
                Action: {}
                Resource: {}
"""


def added(action, resource):
    """A further statement before the first one of the role. Its Sid is one that docs/aws.md has."""
    return "            Statement:\n", "            Statement:" + STATEMENT.format(action, resource)


# The template, a text before the place, the text at the place, and what replaces it.
MUTATIONS = {
    "cells of pull requests write the whole share": ("batch", "Sid: WriteThePullRequestsPart", "/share/pr/*'", "/share/*'"),
    "cells of pull requests mount the share of a batch for writing": (
        "batch", "Sid: MountTheShare", "!If [WholeOnEfs, elasticfilesystem:ClientWrite, !Ref AWS::NoValue]", "elasticfilesystem:ClientWrite"
    ),
    "cells of pull requests mount the trusted access point": (
        "batch", "Sid: MountTheShare", "${Prefix}SharedReadOnlyAccessPointArn", "${Prefix}SharedAccessPointArn"
    ),
    "cells of pull requests run in the trusted subnets": (
        "batch", "VpcConfig:", "${Prefix}PullRequestSubnet1", "${Prefix}PrivateSubnet1"
    ),
    "strangers get a privileged machine in a batch": (
        "batch", "StrangersGetNoPrivilegedMachine:", "!Equals [!Ref CommentApproval, DISABLED]", "!Equals [a, b]"
    ),
    "a batch uses the key for everything": (
        "batch", "Sid: EncryptArtifacts", "                  Condition: {StringEquals: {'kms:ViaService'", "                  Condition: {StringLike: {'s3:prefix'"
    ),
    "cells write the report of the batch": (
        "batch", "  BuildRole:",
        *added("codebuild:BatchPutTestCases", "!Sub 'arn:${AWS::Partition}:codebuild:${AWS::Region}:${AWS::AccountId}:report-group/*'"),
    ),
    "each cell of a batch sends a mail": ("alerts", "TrustedBuildFailed:", "'*-batch-builds:*'", "'*-other:*'"),
    "cells read other layers": ("batch", "Sid: PublishArtifacts", "${Kind}/${Name}/*'", "${Kind}/*'"),
    "cells list everything": (
        "batch", "Sid: ListTheBatches", "                Condition: {StringLike: {'s3:prefix': !Sub '${Kind}/${Name}/batches/*'}}\n", ""
    ),
    "cells start builds": ("batch", "  BuildRole:", *added("codebuild:StartBuild", "!GetAtt Logs.Arn")),
    "builds run with the role of the batch": ("batch", "  Project:", "!GetAtt BuildRole.Arn", "!GetAtt BatchRole.Arn"),
    "a webhook starts the batch itself": ("batch", "  Project:", "      BuildBatchConfig:", "      Triggers: {Webhook: true}\n      BuildBatchConfig:"),
    "labs make requests": ("lab", "Sid: WriteLeasesAndResults", "requests/*/attempts/*'", "requests/*'"),
    "labs change images": ("lab", "Sid: WriteLeasesAndResults", "devices/v1/labs/*'", "devices/v1/*'"),
    "labs delete verdicts": ("lab", "Sid: RemoveWhatIsOver", "devices/v1/open/*'", "devices/v1/*'"),
    "labs resume any execution": ("lab", "Sid: ResumeExecutions", "${Prefix}*-device'", "*'"),
    "verdicts can be replaced": ("lab", "Sid: RecordsAreFinal", "requests/*/verdict.json'", "requests/*/x.json'"),
    "the project of devices writes verdicts": (
        "device_tests", "Sid: WriteRequests", "requests/*/request.json'", "requests/*'"
    ),
    "the project of devices reads other layers": (
        "device_tests", "Sid: ReadArtifactsAndResults", "pull-requests/${Name}/*'", "pull-requests/*'"
    ),
    "pull requests write the whole share": (
        "check_layer", "Sid: WriteThePullRequestsPart", "/share/pr/*'", "/share/*'"
    ),
    "pull requests write the shared state": (
        "check_layer", "Sid: ReadTheShare", "Action: s3:GetObject", "Action: [s3:GetObject, s3:PutObject]"
    ),
    "pull requests do everything in the share": (
        "check_layer", "Sid: ReadTheShare", "Action: s3:GetObject", "Action: 's3:*'"
    ),
    "pull requests delete from their part": (
        "check_layer", "Sid: DeleteLeasesAndWrongResults", "/share/pr/*/leases/*'", "/share/pr/*'"
    ),
    "pull requests list everything": (
        "check_layer", "Sid: ListTheShare", "                  Condition: {StringLike: {'s3:prefix': share/*}}\n", ""
    ),
    "pull requests pass any role": (
        "check_layer", "PullRequestRole:", *added("iam:PassRole", "'*'")
    ),
    "pull requests read secrets": (
        "check_layer", "PullRequestRole:", *added("secretsmanager:GetSecretValue", "'*'")
    ),
    "pull requests read the secrets of build-agent": (
        "check_layer", "PullRequestRole:",
        *added(
            "secretsmanager:GetSecretValue",
            "!Sub 'arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:build-agent/*'",
        ),
    ),
    "pull requests stop builds": (
        "check_layer", "PullRequestRole:",
        *added("codebuild:StopBuild", "!Sub 'arn:${AWS::Partition}:codebuild:${AWS::Region}:${AWS::AccountId}:project/*'"),
    ),
    "pull requests read and write artifacts of builds": (
        "check_layer", "Sid: PublishArtifacts", "${Bucket}/pull-requests/${Name}/*", "${Bucket}/*"
    ),
    "pull requests mount the share for writing": (
        "check_layer", "Sid: MountTheShare",
        "Action: elasticfilesystem:ClientMount\n", "Action: [elasticfilesystem:ClientMount, elasticfilesystem:ClientWrite]\n",
    ),
    "any project of the account gets the role": (
        "check_layer", "PullRequestRole:",
        "project/${Prefix}${Name}-${Kind}'", "project/*-${Kind}'",
    ),
    "any account gets the role": (
        "check_layer", "SupersededRole:", "${AWS::AccountId}:stateMachine", "*:stateMachine"
    ),
    "builds of all projects are stopped": (
        "check_layer", "Sid: StopOlderBuilds", "project/${Prefix}${Name}-pull-requests", "project/*"
    ),
    "trusted builds read what pull requests wrote": (
        "check_layer", "Sid: AvoidThePullRequestsPart", "Effect: Deny", "Effect: Allow"
    ),
    "trusted builds delete from the share": (
        "check_layer", "Sid: WriteTheShare",
        "s3:PutObject, s3:AbortMultipartUpload]", "s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload]",
    ),
    "trusted builds read other secrets": (
        "check_layer", "Sid: ReadTheGitHubToken", "secret:${TokenSecret}-??????", "secret:${TokenSecret}*"
    ),
    "a job of a pull request gets the trusted role": (
        "check_layer", "TrustedSubjects:", ":ref:refs/heads/[A-Za-z0-9._/-]+)?'", ":[A-Za-z0-9._/:-]+)?'"
    ),
    "any audience of GitHub's tokens": (
        "check_layer", "sts:AssumeRoleWithWebIdentity",
        "                  'token.actions.githubusercontent.com:aud': sts.amazonaws.com\n", "",
    ),
    "every machine is privileged": (
        "check_layer", "PullRequestProject:", "PrivilegedMode: !If [OnEfs, true, false]", "PrivilegedMode: true"
    ),
    "unapproved pull requests get a privileged machine": (
        "check_layer", "StrangersGetNoPrivilegedMachine:", "!Equals [!Ref CommentApproval, DISABLED]", "!Equals [a, b]"
    ),
    "builds are retried": (
        "check_layer", "PullRequestProject:", "      ConcurrentBuildLimit:", "      AutoRetryLimit: 2\n      ConcurrentBuildLimit:"
    ),
    "pull requests are not limited": (
        "check_layer", "PullRequestProject:", "      ConcurrentBuildLimit: !Ref ConcurrentPullRequests\n", ""
    ),
    "every machine pushes images": (
        "seed_image", "MachinePolicy:", "[ecr:BatchCheckLayerAvailability,", "[ecr:PutImage, ecr:BatchCheckLayerAvailability,"
    ),
    "interfaces of all subnets are deleted": (
        "ci_network", "PullRequestNetworkPolicy:", "'ec2:Subnet':", "'ec2:Vpc':"
    ),
    "pull requests enter the subnets of trusted builds": (
        "ci_network", "PullRequestNetworkPolicy:", "subnet/${PullRequestSubnet1}", "subnet/${PrivateSubnet1}"
    ),
    "the prune deletes artifacts": (
        "prune_cache", "Sid: DeleteFromTheShare", "ShareBucketArn", "BucketArn"
    ),
    "a lifecycle rule deletes the share": (
        "cache", "Id: pull-requests", "Prefix: share/pr/", "Prefix: share/"
    ),
    "artifacts are replaced": (
        "cache", "VersioningConfiguration:", "Status: Enabled", "Status: Suspended"
    ),
    "indexes are replaced": (
        "cache", "Sid: IndexesAreFinal", "Effect: Deny", "Effect: Allow"
    ),
    "any task of any account gets the hash server's role": (
        "hash_server", "Sid: WriteItsLog", "ArnLike: {'aws:SourceArn'", "ArnLike: {'aws:PrincipalArn'"
    ),
    "cells of pull requests write the share": (
        "aws_batch", "TrustedOnS3:", "!And [{Condition: Trusted}, {Condition: OnS3}]", "!And [{Condition: OnS3}, {Condition: OnS3}]"
    ),
    "cells of pull requests mount the share for writing": (
        "aws_batch", "Sid: MountTheShare", "!If [Trusted, elasticfilesystem:ClientWrite, !Ref AWS::NoValue]", "elasticfilesystem:ClientWrite"
    ),
    "cells read results of other layers": (
        "aws_batch", "Sid: PublishArtifacts", "${Kind}/${Name}/*", "${Kind}/*"
    ),
    "the state machine submits any job": (
        "aws_batch", "Sid: SubmitJobs", "job-definition/${Prefix}${Name}-${Kind}:*", "job-definition/*"
    ),
    "the state machine stops any job": (
        "aws_batch", "Sid: StopJobs",
        "                Condition: {StringEquals: {'aws:ResourceTag/build-agent': !Sub '${Prefix}${Name}-${Kind}'}}\n", "",
    ),
    "a job of the state machine has no tag": ("aws_batch", '"Merge": {', '"Tags"', '"Parameters"'),
    "cells read the credential of the source": (
        "aws_batch", "  JobRole:", *added("secretsmanager:GetSecretValue", "!Ref SourceCredential")
    ),
    "the state machine makes any rule": (
        "aws_batch", "Sid: LearnThatJobsEnded", "rule/StepFunctionsGetEventsForBatchJobsRule", "rule/*"
    ),
    "an export without the prefix": (
        "cache", "Outputs:", "Name: !Sub '${Prefix}Bucket'", "Name: Bucket"
    ),
    "an alarm on a metric that does not exist": (
        "check_layer", "ColdCache:", "MetricName: SstateHitPercent", "MetricName: SstateHits"
    ),
    "a dashboard with a metric that does not exist": (
        "alerts", "Dashboard:", "ShareBytesRead", "ShareBytesGot"
    ),
}


def accepts(directory):
    """Whether the tests accept the templates of the directory, and the output of the first that does not."""
    environment = os.environ | {"BUILD_AGENT_TEST_TEMPLATES": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    code = f"""
import sys, unittest
sys.path.insert(0, {str(HERE)!r})
suite = unittest.TestSuite()
for module in {CHECKS!r}:
    for test in unittest.defaultTestLoader.loadTestsFromName(module):
        if test._testMethodName not in {SLOW!r}:
            suite.addTest(test)
sys.exit(not unittest.TextTestRunner(failfast=True).run(suite).wasSuccessful())
"""
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return ran.returncode == 0, ran.stderr


class Mutations(unittest.TestCase):
    def test_the_mutations(self):
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / "templates"
            shutil.copytree(TOP / "cloudformation", copy)
            accepted, output = accepts(copy)
            self.assertTrue(accepted, output)
            for what, (template, before, old, new) in MUTATIONS.items():
                path = copy / f"{template}.yml"
                text = path.read_text()
                at = text.find(old, text.index(before))
                self.assertGreater(at, 0, f"{what}: nothing to change")
                path.write_text(text[:at] + new + text[at + len(old) :])
                with self.subTest(what):
                    accepted, output = accepts(copy)
                    self.assertFalse(accepted, "no test found this")
                    # A template that does not load would fail every test.
                    self.assertRegex(output, r"(?m)^(FAIL|ERROR): test_\w+ \((roles|structure)_test")
                    self.assertNotIn("yaml.", output)
                path.write_text(text)
