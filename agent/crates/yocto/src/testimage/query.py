"""Queries BitBake for images and about recipes with ptests. Written by build-agent.

usage: query.py QUERIES, a JSON file with {"images": [...], "recipes": [...]}. Each answer is a line of JSON.
"""

import json
import sys

import bb.data
import bb.tinfoil
import bb.utils

ANSWER = "build-agent-answer "


def words(d, name):
    return set(bb.utils.explode_dep_versions2(d.getVar(name) or ""))


def package_words(d, name, package):
    separator = "_" if bb.__version__.startswith("1.") and tuple(bb.__version__.split(".")[:2]) < ("1", "52") else ":"
    return words(d, name + separator + package)


def needed(d, first):
    """The packages of the recipe that these need, themselves included."""
    own = set((d.getVar("PACKAGES") or "").split())
    found, todo = set(), list(first)
    while todo:
        package = todo.pop()
        if package in found or package not in own:
            continue
        found.add(package)
        todo.extend(package_words(d, "RDEPENDS", package) | package_words(d, "RRECOMMENDS", package))
    return sorted(found)


def recipe(tinfoil, name):
    d = tinfoil.parse_recipe(name)
    ptests = [package for package in (d.getVar("PACKAGES") or "").split() if package.endswith("-ptest")]
    packages = []
    for package in needed(d, ptests):
        packages.append(
            {
                "name": package,
                "provides": sorted(package_words(d, "RPROVIDES", package)),
                "conflicts": sorted(package_words(d, "RCONFLICTS", package)),
                "replaces": sorted(package_words(d, "RREPLACES", package)),
            }
        )
    inherits = bb.data.inherits_class("ptest", d)
    return {
        "recipe": name,
        "ptests": ptests,
        "disabled": bool(inherits and not ptests),
        "path": d.getVar("PTEST_PATH"),
        "provides": sorted(set((d.getVar("PROVIDES") or "").split())),
        "packages": packages,
    }


def image(tinfoil, name):
    d = tinfoil.parse_recipe(name)
    base = "%s/%s" % (d.getVar("DEPLOY_DIR_IMAGE"), d.getVar("IMAGE_LINK_NAME") or d.getVar("IMAGE_NAME"))
    return {
        "image": name,
        "basename": d.getVar("IMAGE_BASENAME") or name,
        "files": base,
        "logs": d.getVar("TEST_LOG_DIR"),
        "pkgdata": d.getVar("PKGDATA_DIR"),
        "ptests": bool({"ptest"} & set((d.getVar("TEST_SUITES") or "").split())),
    }


def main():
    with open(sys.argv[1]) as file:
        wanted = json.load(file)
    with bb.tinfoil.Tinfoil(setup_logging=False) as tinfoil:
        tinfoil.prepare(config_only=False)
        skipped = {}
        for _, info in tinfoil.get_skipped_recipes():
            skipped[info.pn] = info.skipreason
        for kind, ask in [("image", image), ("recipe", recipe)]:
            for name in wanted[kind + "s"]:
                try:
                    answer = ask(tinfoil, name)
                except BaseException as error:
                    answer = {kind: name, "error": "%s: %s" % (type(error).__name__, error)}
                    if name in skipped:
                        answer = {kind: name, "skipped": skipped[name]}
                print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
