"""Deploys the stacks one after another to moto's server."""

import ast
import json
import subprocess
import unittest

from templates import ORDER, TEMPLATES, free_port, listens, program, wait_for

# Parameters without a default.
PARAMETERS = {
    "seed_image": {"SourceUrl": "https://github.com/example/build-agent.git"},
    "check_layer": {"Name": "meta-example", "Repository": "example/meta-example"},
}


class Deployment(unittest.TestCase):
    """Deploys the stacks one after another to moto's empty account."""

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
        targets = self.client("efs").describe_mount_targets(FileSystemId=cache["FileSystem"])["MountTargets"]
        network = self.outputs["ci_network"]
        self.assertEqual({it["SubnetId"] for it in targets}, {network["PrivateSubnet1"], network["PrivateSubnet2"]})

    def test_the_image(self):
        [repository] = self.client("ecr").describe_repositories()["repositories"]
        self.assertEqual(repository["repositoryUri"], self.outputs["seed_image"]["RepositoryUri"])
        self.assertEqual(repository["imageTagMutability"], "IMMUTABLE_WITH_EXCLUSION")

    def test_the_image_build_and_the_prune_are_scheduled(self):
        rules = self.client("events").list_rules()["Rules"]
        # moto cannot tell which CodeBuild project they start.
        self.assertEqual({it["ScheduleExpression"] for it in rules}, {"cron(0 3 ? * SUN *)", "cron(30 2 * * ? *)"})
        self.assertEqual({it["State"] for it in rules}, {"ENABLED"})

    def test_a_second_layer_with_all_options(self):
        host = self.outputs["hash_server"]["Host"]
        settings = {"ImportToken": "false", "Share": "/efs", "HashServer": host, "Release": "scarthgap"}
        outputs = self.deploy("check_layer", "-2", Name="meta-2", Repository="example/meta-2", **settings)
        iam = self.client("iam")
        role = outputs["PullRequestRole"].rsplit("/", 1)[1]
        policy = iam.get_role_policy(RoleName=role, PolicyName="check")["PolicyDocument"]
        # moto stores a policy of CloudFormation in Python's notation.
        policy = ast.literal_eval(policy) if isinstance(policy, str) else policy
        sids = {it["Sid"] for it in policy["Statement"] if it}
        self.assertLessEqual({"ReadTheCache", "WriteThePullRequestsPart"}, sids)
        self.assertNotIn("CloneThroughTheConnection", sids)

    def test_the_hash_server(self):
        host = self.outputs["hash_server"]["Host"]
        self.assertEqual(host, "hash.scarthgap.build-agent.internal")
        families = self.client("ecs").list_task_definition_families()["families"]
        self.assertEqual(families, ["hash-server-scarthgap"])

    def test_roles_name_existing_resources(self):
        """In the deployed policies, every resource is in this account, and every reference is resolved."""
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
