"""Lists what an image contains, as SPDX 2.3 JSON. `docker/seed` runs it inside the image:

python3 sbom.py NAME DIGEST CREATED EFS_UTILS_COMMIT <Cargo.lock >sbom.json

Debian's packages come from dpkg, the crates from Cargo.lock. The metadata of kas, oelint-adv, sbom-cve-check and their
dependencies names them.
"""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import urllib.parse

name, digest, created, efs_utils = sys.argv[1:]


def quoted(text):
    return urllib.parse.quote(text, safe="")


def package(kind, title, version, purl, **more):
    # SPDX allows only these characters in an id.
    spdx_id = re.sub(r"[^A-Za-z0-9.-]", "-", f"SPDXRef-{kind}-{title}-{version}")
    return {
        "SPDXID": spdx_id,
        "name": title,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        ],
        **more,
    }


def debian():
    form = "${Package}\t${Version}\t${Architecture}\t${source:Package}\n"
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', pathlib.Path("/etc/os-release").read_text(), re.M))
    distro = f"{release['ID']}-{release.get('VERSION_ID', '')}".rstrip("-")
    listed = subprocess.run(["dpkg-query", "--show", "--showformat", form], check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        title, version, arch, source = line.split("\t")
        purl = f"pkg:deb/{release['ID']}/{quoted(title)}@{quoted(version)}?arch={arch}&distro={distro}"
        yield package("deb", f"{title}-{arch}", version, purl, sourceInfo=f"built from the source package {source}", name=title)


def crates(lock):
    """The crates that the program depends on, by Cargo.lock. The file does not show which ones only tests need."""
    known = {}
    for crate in lock["package"]:
        known.setdefault(crate["name"], []).append(crate)

    def wanted(dependency):
        title, _, version = dependency.partition(" ")
        version = version.split(" ")[0]
        return next(crate for crate in known[title] if version in ("", crate["version"]))

    reached, left = {}, [known["build-agent"][0]]
    while left:
        crate = left.pop()
        key = (crate["name"], crate["version"])
        if key not in reached:
            reached[key] = crate
            left.extend(wanted(dependency) for dependency in crate.get("dependencies", []))
    for (title, version), crate in sorted(reached.items()):
        checksum = crate.get("checksum")
        sums = {"checksums": [{"algorithm": "SHA256", "checksumValue": checksum}]} if checksum else {}
        yield package("cargo", title, version, f"pkg:cargo/{quoted(title)}@{quoted(version)}", **sums)


def python():
    paths = [str(path) for path in pathlib.Path("/opt").glob("*/lib/python*/site-packages")]
    for found in importlib.metadata.distributions(path=paths):
        title, version = found.metadata["Name"], found.version
        normal = re.sub(r"[-_.]+", "-", title).lower()
        yield package("pypi", title, version, f"pkg:pypi/{quoted(normal)}@{quoted(version)}")


image = package("image", name.rsplit("/", 1)[-1], digest, f"pkg:oci/{quoted(name.rsplit('/', 1)[-1])}@{quoted(digest)}")
contents = [
    *debian(),
    *crates(tomllib.load(sys.stdin.buffer)),
    *python(),
    package("github", "efs-utils", efs_utils, f"pkg:github/aws/efs-utils@{quoted(efs_utils)}"),
]
contains = [
    {"spdxElementId": image["SPDXID"], "relationshipType": "CONTAINS", "relatedSpdxElement": one["SPDXID"]}
    for one in contents
]
json.dump(
    {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://{name}/spdx/{digest.replace(':', '-')}/{quoted(created)}",
        "creationInfo": {"created": created, "creators": ["Tool: build-agent docker/seed"]},
        "packages": [image, *contents],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": image["SPDXID"]},
            *contains,
        ],
    },
    sys.stdout,
    indent=1,
)
