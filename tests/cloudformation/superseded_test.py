"""Runs the state machine that stops superseded builds, in moto's interpreter, with responses of CodeBuild."""

from state_machines import PROJECT, StateMachineTest
from templates import Stack


def build(number, version, status="IN_PROGRESS"):
    """A build as Step Functions shows the answer of BatchGetBuilds, shortened."""
    answer = {
        "Id": f"{PROJECT}:{number:08d}-0000-4000-8000-000000000000",
        "Arn": f"arn:aws:codebuild:eu-west-1:123456789012:build/{PROJECT}:{number:08d}-0000-4000-8000-000000000000",
        "BuildNumber": number,
        "BuildStatus": status,
        "BuildComplete": status != "IN_PROGRESS",
        "CurrentPhase": "BUILD" if status == "IN_PROGRESS" else "COMPLETED",
        "Initiator": "GitHub-Hookshot/0a1b2c3",
        "ProjectName": PROJECT,
        "ResolvedSourceVersion": f"{number:040x}",
        "Source": {"Type": "GITHUB", "Location": "https://github.com/example/meta-x.git", "GitCloneDepth": 0},
        "TimeoutInMinutes": 300,
    }
    return answer if version is None else answer | {"SourceVersion": version}


class CodeBuild:
    """Answers like CodeBuild; a call that it does not know is an error."""

    def __init__(self, builds, refuses=()):
        self.builds = {it["Id"]: it for it in builds}
        self.refuses = set(refuses)
        self.calls = []

    def list_builds_for_project(self, ProjectName, SortOrder):
        assert (ProjectName, SortOrder) == (PROJECT, "DESCENDING")
        newest = sorted(self.builds.values(), key=lambda it: -it["BuildNumber"])
        return {"Ids": [it["Id"] for it in newest[:100]], "NextToken": "more"}

    def batch_get_builds(self, Ids):
        assert 1 <= len(Ids) <= 10, "ten builds stay below the limit of Step Functions"
        self.calls.append(len(Ids))
        return {"Builds": [self.builds[it] for it in Ids if it in self.builds], "BuildsNotFound": []}

    def stop_build(self, Id):
        number = self.builds[Id]["BuildNumber"]
        if number in self.refuses:
            raise RuntimeError("it has just ended")
        self.builds[Id]["BuildStatus"] = "STOPPED"
        return {"Build": self.builds[Id]}

    def stopped(self):
        return sorted(it["BuildNumber"] for it in self.builds.values() if it["BuildStatus"] == "STOPPED")


class Superseded(StateMachineTest):
    @classmethod
    def machine(cls):
        return Stack("check_layer", Name="meta-x", Repository="example/meta-x").properties("SupersededMachine")

    def run_for(self, number, codebuild, fails=False):
        """What the rule's event of this build starts."""
        [new] = [it for it in codebuild.builds.values() if it["BuildNumber"] == number]
        self.execute(new["Arn"], codebuild, "FAILED" if fails else "SUCCEEDED")

    def test_only_older_running_builds_of_the_same_pull_request_are_stopped(self):
        codebuild = CodeBuild(
            [
                build(1, "pr/7"),
                build(2, "pr/70"),
                build(3, "pr/7", "SUCCEEDED"),
                build(4, "main"),
                build(5, None),
                build(6, "pr/8"),
                build(7, "pr/7"),
                build(8, "pr/7"),
                build(9, "pr/7"),
            ]
        )
        self.run_for(8, codebuild)
        self.assertEqual(codebuild.stopped(), [1, 7], "9 is newer, and the others have ended or have another source version")

    def test_the_commit_in_a_source_version_does_not_matter(self):
        table = {
            "pr/7^{0123456789abcdef0123456789abcdef01234567}": [1],
            "refs/pull/7/head^{0123456789abcdef0123456789abcdef01234567}": [2],
            "refs/pull/7/head": [2],
        }
        for version, stopped in table.items():
            older = [build(1, "pr/7^{1111}"), build(2, "refs/pull/7/head^{2222}"), build(3, "refs/pull/77/head")]
            codebuild = CodeBuild([*older, build(4, version)])
            self.run_for(4, codebuild)
            self.assertEqual(codebuild.stopped(), stopped, version)

    def test_a_build_of_no_pull_request_stops_nothing(self):
        for version in ("main", None, "refs/heads/pr/7", "0123456789abcdef0123456789abcdef01234567"):
            codebuild = CodeBuild([build(1, version), build(2, "pr/7"), build(3, version)])
            self.run_for(3, codebuild)
            self.assertEqual(codebuild.stopped(), [], version)

    def test_of_many_builds_the_hundred_newest_are_checked(self):
        codebuild = CodeBuild([build(number, "pr/7") for number in range(1, 151)])
        self.run_for(150, codebuild)
        self.assertEqual(codebuild.stopped(), list(range(51, 150)))
        self.assertEqual(codebuild.calls, [1] + [10] * 10)

    def test_a_build_that_cannot_be_stopped_does_not_keep_the_others_running(self):
        codebuild = CodeBuild([build(1, "pr/7"), build(2, "pr/7"), build(3, "pr/7"), build(4, "pr/7")], refuses=[2])
        self.run_for(4, codebuild)
        self.assertEqual(codebuild.stopped(), [1, 3])

    def test_an_unknown_build_stops_nothing(self):
        codebuild = CodeBuild([build(1, "pr/7"), build(2, "pr/7")])
        codebuild.batch_get_builds = lambda Ids: {"Builds": [], "BuildsNotFound": Ids}
        self.run_for(2, codebuild, fails=True)
        self.assertEqual(codebuild.stopped(), [])
