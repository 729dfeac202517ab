"""Checks docs/aws.md against the templates: its commands, its shell, and the arithmetic of its prices."""

import re
import shlex
import shutil
import subprocess
import unittest
from math import prod
from pathlib import Path

from templates import ORDER, TOP, Stack, load, resources

PAGE = (TOP / "docs/aws.md").read_text()
# Prices of us-east-1 in USD: what they are for is in the first column of the tables.
PRICES = {
    "secret": 0.40,
    "minutes of large": 0.02,
    "minutes of small": 0.005,
    "ECR, GB": 0.10,
    "S3, GB": 0.023,
    "logs, GB": 0.03,
    "alarms": 0.10,
    "NAT gateway, hours": 0.045,
    "Elastic IP, hours": 0.005,
    "interface endpoint": 0.01,
    "EFS, GB": 0.30,
    "half a vCPU": 0.04048,
    "hours of 1 GB": 0.004445,
    "DNS zone": 0.50,
}


def blocks():
    return re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def price_tables():
    """The rows of both tables: what, amount, price of one, price of a month, as texts."""
    part = PAGE.split("## What it costs when idle")[1].split("Builds cost by use")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")][:4] for line in part.splitlines() if line.startswith("|")]
    tables = []
    for row in rows:
        if row[0] == "what":
            tables.append([])
        elif not set(row[0]) <= set("-"):
            tables[-1].append(row)
    return tables


class Docs(unittest.TestCase):
    def test_the_commands_match_the_templates(self):
        seen = []
        for block in blocks():
            for line in block.replace("\\\n", " ").splitlines():
                if not line.startswith("aws cloudformation deploy"):
                    continue
                words = shlex.split(line)
                name = Path(words[words.index("--template-file") + 1]).stem
                seen.append(name)
                given = words[words.index("--parameter-overrides") + 1 :] if "--parameter-overrides" in words else []
                given = {word.split("=")[0] for word in given}
                template = load(name)
                self.assertLessEqual(given, set(template["Parameters"]), line)
                required = {key for key, it in template["Parameters"].items() if "Default" not in it}
                self.assertLessEqual(required, given, line)
                kinds = ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
                makes_roles = any(resources(template, kind) for kind in kinds)
                self.assertEqual("CAPABILITY_IAM" in words, makes_roles, line)
        self.assertEqual(set(seen), set(ORDER))

    def test_parameters_in_the_text_exist(self):
        every = {key for name in ORDER for key in load(name)["Parameters"]}
        for name in re.findall(r"`([A-Z]\w+)(?:=[^`]*)?`", PAGE):
            known = every | {resource for it in ORDER for resource in load(it)["Resources"]}
            known |= {output for it in ORDER for output in load(it)["Outputs"]}
            statements = set(re.findall(r"Sid: (\w+)", "".join((TOP / f"cloudformation/{it}.yml").read_text() for it in ORDER)))
            others = {"Project", "Layer", "Release", "Trust", "BuildAgent", "AutoRetryLimit", "GetBuildInfo"}
            others |= {"WORKFLOW_JOB_QUEUED", "CODECONNECTIONS", "SECRETS_MANAGER", "ROLLBACK_COMPLETE"}
            self.assertIn(name, known | statements | others | {"BUILD_AGENT_TRUSTED_BRANCHES"})

    def test_the_shell_is_that_of_bash_and_zsh(self):
        for block in blocks():
            for shell in filter(shutil.which, ("bash", "zsh")):
                ran = subprocess.run([shell, "-n", "-c", block], capture_output=True, text=True)
                self.assertEqual(ran.returncode, 0, f"{shell}: {block}\n{ran.stderr}")
            for words in re.findall(r"\bread\b([^;\n]*)", block):
                # zsh reads from a coprocess with -p; and its `status` is read-only.
                self.assertNotRegex(words, r"-\w*p")
            self.assertNotRegex(block, r"(?m)\bstatus=")

    def test_a_token_is_stored_as_it_was_typed(self):
        asking = [block for block in blocks() if "read -rs token" in block]
        self.assertEqual(len(asking), 4)
        for block in asking:
            # A stand-in that shows what it gets on its standard input, and the words of its command line.
            script = f'aws() {{ printf "\\n[%s] " "$*"; cat; }}\n{block}\nprintf "<%s>" "${{token-}}"'
            typed = "someone\ngithub_pat_1aB\n" if "user" in block else "github_pat_1aB\n"
            for shell in filter(shutil.which, ("bash", "zsh")):
                ran = subprocess.run([shell, "-c", script], input=typed, capture_output=True, text=True)
                self.assertEqual(ran.returncode, 0, ran.stderr)
                self.assertRegex(ran.stdout, r'"(token|Token|password)":"github_pat_1aB"}')
                for line in re.findall(r"^\[(.*?)\] ", ran.stdout, re.MULTILINE):
                    self.assertNotIn("github_pat", line, "on a command line")
                self.assertTrue(ran.stdout.endswith("<>"), "the shell keeps the token")

    def test_the_prices(self):
        default, more = price_tables()
        self.assertEqual(default[-1][0], "**sum**")
        total = 0.0
        for what, amount, price, month in default[:-1] + more:
            [expected] = [value for kind, value in PRICES.items() if kind in what]
            self.assertEqual(float(price), expected, what)
            computed = prod(float(factor) for factor in amount.split("×")) * expected
            # With half a cent rounded up.
            self.assertEqual(f"{computed + 1e-9:.2f}", month, what)
        total = sum(float(row[3]) for row in default[:-1])
        self.assertEqual(default[-1][3], f"**{total:.2f}**")
        self.assertLessEqual(total, 2.00)

    def test_the_prices_are_of_what_the_templates_make(self):
        """What runs, or is kept, all the time."""
        default, _ = price_tables()
        amounts = {row[0]: row[1] for row in default}
        layer = Stack("check_layer", Name="meta-x", Repository="example/meta-x")
        alarms = [it for it in layer.resources.values() if it["Type"] == "AWS::CloudWatch::Alarm"]
        self.assertEqual(amounts["alarms of one layer"], str(len(alarms)))
        image = Stack("seed_image", SourceUrl="https://github.com/example/build-agent.git")
        kept = amounts["images in ECR, GB (`KeepImages`; compressed)"]
        self.assertEqual(kept.split(" × ")[0], image.parameters["KeepImages"])
        self.assertEqual(image.parameters["Schedule"], "cron(0 3 1 * ? *)", "once a month")
        self.assertEqual(Stack("prune_cache").parameters["Schedule"], "cron(30 2 ? * SUN *)", "4.35 times a month")
        self.assertEqual(image.properties("Project")["Environment"]["ComputeType"], "BUILD_GENERAL1_LARGE")
        self.assertEqual(Stack("prune_cache").properties("Project")["Environment"]["ComputeType"], "BUILD_GENERAL1_SMALL")
        # Kinds that cost something while nothing is built. Neither these stacks nor a layer has another one.
        paid = re.compile(r"NatGateway|EIP|VPCEndpoint|EFS|ECS|ServiceDiscovery|KMS|Lambda|Secret$|EC2")
        for name in ("source_credential", "cache", "alerts", "prune_cache"):
            for resource, it in Stack(name).resources.items():
                self.assertNotRegex(it["Type"], paid, f"{name}: {resource}")
        for resource, it in (layer.resources | image.resources).items():
            self.assertNotRegex(it["Type"], paid, resource)
