"""What kas itself makes of definitions: reads a list of {dir, files} as JSON, writes a list of its views.

Nothing is fetched. Repositories with a URL whose files are included count as missing.
"""
import argparse
import json
import logging
import os
import sys

logging.disable(logging.CRITICAL)

from kas import context, libkas  # noqa: E402
from kas.config import Config  # noqa: E402


def buildtools(config):
    if not config.get_buildtools():
        return None
    # The base of kas's own address ends with a slash.
    url = libkas.get_buildtools_url().replace("/buildtools//", "/buildtools/")
    return {"url": url, "sha256": config.get_buildtools()["sha256sum"]}


def view(job):
    os.chdir(job["dir"])
    os.environ["KAS_WORK_DIR"] = job["dir"]
    ctx = context.create_global_context(argparse.Namespace(skip=[], update=False, no_color=True))
    ctx.config = config = Config(ctx, job["files"])
    paths = {}
    missing = config.find_missing_repos()
    while missing:
        known = dict(paths)
        for name in missing:
            if name in config.get_repos_config():
                repo = config.get_repo(name)
                if repo.operations_disabled:
                    paths[name] = repo.path
        if paths == known:
            return {"missing": missing}
        missing = config.find_missing_repos(paths)
    repos = config.get_repos()
    for repo in repos:
        if repo.tag and repo.branch and not repo.operations_disabled:
            raise ValueError("kas refuses both tag and branch at the checkout")
    merged = config.get_config()
    layers = sorted(layer for repo in repos for layer in repo.layers)
    return {
        "repos": [
            {
                "name": repo.name,
                "url": None if repo.operations_disabled else repo.url,
                "path": str(repo.path),
                "commit": repo.commit,
                "branch": repo.branch,
                "tag": repo.tag,
                "refspec": repo.refspec,
                "signed": repo.signed,
                "layers": [layer.name for layer in repo.layers],
                "patches": [f"{patch['repo']}:{patch['path']}" for patch in repo._patches],
            }
            for repo in repos
        ],
        "bblayers": [[layer.repo_name, layer.name] for layer in layers],
        "machine": config.get_machine(),
        "distro": config.get_distro(),
        "targets": config.get_bitbake_targets(),
        "task": config.get_bitbake_task(),
        "local_conf": config.get_local_conf_header(),
        "bblayers_conf": config.get_bblayers_conf_header(),
        "multiconfigs": sorted(config.get_multiconfig().split()),
        "env": {name: value for name, value in config.get_environment().items() if value is not None},
        "buildtools": buildtools(config),
        "artifacts": merged.get("artifacts", {}),
        "build_system": config.get_build_system(),
        "keys": sorted(merged),
    }


def guarded(job):
    try:
        return view(job)
    except Exception as error:  # kas raises many kinds
        return {"error": f"{type(error).__name__}: {error}"}


print(json.dumps([guarded(job) for job in json.load(sys.stdin)]))
