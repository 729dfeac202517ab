"""Deploys the stacks to moto's server, one after another."""

import json

from moto_account import PARAMETERS, STACKS, Moto
from templates import DEFAULT, ORDER


class Deployment(Moto):
    """The steps of docs/aws.md."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.account = cls.region("eu-west-1")
        secret = {"Name": "build-agent/github", "SecretString": '{"token": "t"}'}
        cls.account.client("secretsmanager").create_secret(**secret)
        order = [name for name in ORDER if name in STACKS]
        cls.outputs = {name: cls.account.deploy(name, **PARAMETERS.get(name, {})) for name in order}

    def client(self, service):
        return self.account.client(service)

    def test_the_default_needs_no_optional_stack(self):
        account = self.region("eu-central-1")
        account.client("secretsmanager").create_secret(Name="build-agent/github", SecretString='{"token": "t"}')
        for name in DEFAULT:
            account.deploy(name, **PARAMETERS.get(name, {}))
        self.assertEqual(account.client("efs").describe_file_systems()["FileSystems"], [])
        self.assertEqual(account.client("ec2").describe_nat_gateways()["NatGateways"], [])

    def test_a_runner(self):
        account = self.region("eu-west-2")
        for name in ("cache", "seed_image", "alerts"):
            account.deploy(name, **PARAMETERS.get(name, {}))
        subjects = "repo:example/meta-example:ref:refs/heads/main"
        outputs = account.deploy("check_layer", **PARAMETERS["check_layer"], Mode="runner", TrustedSubjects=subjects)
        self.assertNotIn("BuildProject", outputs)
        role = outputs["BuildRole"].rsplit("/", 1)[1]
        trust = account.client("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
        self.assertIn(subjects, str(trust))

    def test_the_network(self):
        network = self.outputs["ci_network"]
        ec2 = self.client("ec2")
        in_vpc = [{"Name": "vpc-id", "Values": [network["VPC"]]}]
        subnets = ec2.describe_subnets(Filters=in_vpc)["Subnets"]
        self.assertEqual(len(subnets), 6)
        self.assertEqual(len({it["AvailabilityZone"] for it in subnets}), 2)
        self.assertEqual(len(ec2.describe_nat_gateways(Filters=in_vpc)["NatGateways"]), 1)
        groups = [network["NoIngressSecurityGroup"], network["TrustedSecurityGroup"]]
        for group in ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]:
            self.assertEqual(group["IpPermissions"], [])

    def test_a_second_network_with_two_nats_in_other_zones(self):
        zones = {"Zone1": "eu-west-1c", "Zone2": "eu-west-1a"}
        network = self.account.deploy("ci_network", Prefix="second-", NatGateways="2", **zones)
        ec2 = self.client("ec2")
        in_vpc = [{"Name": "vpc-id", "Values": [network["VPC"]]}]
        subnets = ec2.describe_subnets(Filters=in_vpc)["Subnets"]
        self.assertEqual({it["AvailabilityZone"] for it in subnets}, set(zones.values()))
        self.assertEqual(len(ec2.describe_nat_gateways(Filters=in_vpc)["NatGateways"]), 2)
        routes = [it for table in ec2.describe_route_tables(Filters=in_vpc)["RouteTables"] for it in table["Routes"]]
        self.assertEqual(len({it["NatGatewayId"] for it in routes if it.get("NatGatewayId")}), 2)

    def test_the_buckets(self):
        # moto ignores most properties of a bucket and its policy; roles_test checks them.
        cache = self.outputs["cache"]
        self.assertNotEqual(cache["Bucket"], cache["ShareBucket"])
        names = {it["Name"] for it in self.client("s3").list_buckets()["Buckets"]}
        self.assertLessEqual({cache["Bucket"], cache["ShareBucket"]}, names)

    def test_the_file_system(self):
        efs = self.outputs["efs"]
        [files] = self.client("efs").describe_file_systems(FileSystemId=efs["FileSystem"])["FileSystems"]
        self.assertTrue(files["Encrypted"])
        points = self.client("efs").describe_access_points(FileSystemId=efs["FileSystem"])["AccessPoints"]
        # By their names, because moto has no ids for them.
        found = {it["Tags"][0]["Value"]: (it["RootDirectory"]["Path"], it["PosixUser"]["Uid"]) for it in points}
        self.assertEqual(found["shared"], ("/shared", 1000))
        self.assertEqual(found["shared to read"], ("/shared", 1001), "others may read what 1000 wrote, not write")
        # The path in the share that the agent uses, below a directory of the trusted builds.
        self.assertEqual(found["pull requests"], ("/shared/pr", 1001))
        [part] = [it for it in points if it["Tags"][0]["Value"] == "pull requests"]
        info = part["RootDirectory"]["CreationInfo"]
        self.assertEqual((info["OwnerUid"], info["OwnerGid"], info["Permissions"]), (1001, 1001, "0750"))
        self.assertEqual(found["hash server"], ("/hash-server", 1002))
        targets = self.client("efs").describe_mount_targets(FileSystemId=efs["FileSystem"])["MountTargets"]
        network = self.outputs["ci_network"]
        self.assertEqual({it["SubnetId"] for it in targets}, {network["PrivateSubnet1"], network["PrivateSubnet2"]})

    def test_a_passed_build_starts_the_state_machine_of_devices(self):
        [target] = self.client("events").list_targets_by_rule(Rule="build-agent-meta-example-device")["Targets"]
        self.assertEqual(target["Arn"], self.outputs["device_tests"]["Machine"])
        machine = self.client("stepfunctions").describe_state_machine(stateMachineArn=target["Arn"])
        self.assertEqual(machine["type"], "STANDARD", "an express one ends after five minutes")
        self.client("iam").get_policy(PolicyArn=self.outputs["lab"]["LabPolicy"])

    def test_the_image(self):
        [repository] = self.client("ecr").describe_repositories()["repositories"]
        self.assertEqual(repository["repositoryName"], "build-agent-image")
        self.assertEqual(repository["repositoryUri"], self.outputs["seed_image"]["RepositoryUri"])
        self.assertEqual(repository["imageTagMutability"], "IMMUTABLE_WITH_EXCLUSION")

    def test_the_rules(self):
        rules = {it["Name"]: it for it in self.client("events").list_rules()["Rules"]}
        # moto cannot tell which CodeBuild project they start.
        schedules = {name: it["ScheduleExpression"] for name, it in rules.items() if it.get("ScheduleExpression")}
        wanted = {"build-agent-image": "cron(0 3 1 * ? *)", "build-agent-prune": "cron(30 2 ? * SUN *)"}
        self.assertEqual(schedules, wanted)
        alerts = {"build-agent-alert-build", "build-agent-alert-batch", "build-agent-alert-image", "build-agent-alert-prune"}
        self.assertLessEqual(alerts | {"build-agent-meta-example-stop"}, set(rules))
        self.assertEqual({it["State"] for it in rules.values()}, {"ENABLED"})
        for name in alerts:
            [target] = self.client("events").list_targets_by_rule(Rule=name)["Targets"]
            self.assertEqual(target["Arn"], self.outputs["alerts"]["Topic"])
        [target] = self.client("events").list_targets_by_rule(Rule="build-agent-meta-example-stop")["Targets"]
        machines = self.client("stepfunctions").list_state_machines()["stateMachines"]
        self.assertIn(target["Arn"], {it["stateMachineArn"] for it in machines})

    def test_a_second_layer_with_all_options(self):
        settings = {
            "Share": "efs",
            "HashServer": self.outputs["hash_server"]["Host"],
            "Release": "scarthgap",
            "Manifest": "s3://manifests/meta-2.toml",
            "TokenSecret": "build-agent/github",
            "KmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/0123",
        }
        outputs = self.account.deploy("check_layer", "-2", Name="meta-2", Repository="example/meta-2", **settings)
        sids = {it["Sid"] for it in self.account.policies(outputs["PullRequestRole"]) if it}
        self.assertLessEqual({"MountTheShare", "MountThePullRequestsPart", "ReadTheManifest", "EncryptArtifacts"}, sids)
        self.assertFalse({"CloneThroughTheConnection", "ReadTheShare", "ReadItsCredential"} & sids)

    def test_a_batch_with_all_options(self):
        key = "arn:aws:kms:eu-west-1:123456789012:key/0123"
        both = {"MountTheShare", "EncryptArtifacts"}
        for number, kind, wanted in (("3", "pull-requests", both | {"MountThePullRequestsPart"}), ("4", "builds", both)):
            given = {"Name": f"meta-{number}", "Repository": f"example/meta-{number}", "Kind": kind}
            given |= {"Share": "efs", "KmsKeyArn": key, "ResultName": "x", "TokenSecret": "build-agent/post"}
            outputs = self.account.deploy("batch", f"-{number}", **given)
            sids = {it["Sid"] for it in self.account.policies(outputs["BuildRole"]) if it}
            self.assertEqual(sids & {*both, "MountThePullRequestsPart", "WriteTheShare", "ReadTheShare"}, wanted)
            start = {it["Sid"] for it in self.account.policies(outputs["StartRole"]) if it}
            self.assertLessEqual({"DecryptResults", "ReadTheCredential", "WriteItsReports"}, start)

    def test_the_hash_server(self):
        host = self.outputs["hash_server"]["Host"]
        self.assertEqual(host, "hash.build-agent-scarthgap.internal")
        namespaces = self.client("servicediscovery").list_namespaces()["Namespaces"]
        if namespaces:  # moto does not make them for CloudFormation
            self.assertEqual([it["Name"] for it in namespaces], ["build-agent-scarthgap.internal"])
        families = self.client("ecs").list_task_definition_families()["families"]
        self.assertEqual(families, ["build-agent-hash-server-scarthgap"])

    def test_roles_name_existing_resources(self):
        """In the deployed policies, every resource is in this account, and every reference is resolved."""
        iam = self.client("iam")
        roles = [it["Arn"] for it in iam.list_roles()["Roles"]]
        self.assertGreaterEqual(len(roles), 8)
        text = json.dumps([list(self.account.policies(role)) for role in roles])
        self.assertIn(f'{self.outputs["cache"]["BucketArn"]}/pull-requests/meta-example/*', text)
        self.assertIn(f'{self.outputs["cache"]["ShareBucketArn"]}/share/pr/*', text)
        self.assertNotIn("${", text)
        self.assertNotIn("Fn::", text)
