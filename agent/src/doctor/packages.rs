//! Lists the host programs that each release needs, and their minimum versions.
//!
//! Sources: `HOSTTOOLS` in `meta/conf/bitbake.conf` (BitBake stops when one is missing, even if it only
//! parses), the version checks of `sanity.bbclass` (`meta/lib/oe/sanity.py` on master),
//! `SANITY_REQUIRED_UTILITIES`, and for the rest the host packages of the reference manual.

use agent_types::release::{RELEASES, Release};

/// A Debian package and the programs that are needed from it.
pub struct Package {
    pub name: &'static str,
    pub programs: &'static [&'static str],
    /// The first release that needs it, and the first later one that does not.
    from: &'static str,
    until: Option<&'static str>,
    /// BitBake does not start without a required program; only some recipes need the others.
    pub required: bool,
}

const fn since(from: &'static str, name: &'static str, programs: &'static [&'static str]) -> Package {
    Package { name, programs, from, until: None, required: true }
}

const fn always(name: &'static str, programs: &'static [&'static str]) -> Package {
    since("dunfell", name, programs)
}

const fn useful(name: &'static str, programs: &'static [&'static str]) -> Package {
    Package { required: false, ..always(name, programs) }
}

const PACKAGES: &[Package] = &[
    always("bash", &["bash"]),
    always(
        "binutils",
        &["ar", "as", "ld", "nm", "objcopy", "objdump", "ranlib", "readelf", "strings", "strip"],
    ),
    always("bzip2", &["bzip2"]),
    since("mickledore", "bzip2", &["bunzip2"]),
    always("chrpath", &["chrpath"]),
    always(
        "coreutils",
        &[
            "[",
            "basename",
            "cat",
            "chgrp",
            "chmod",
            "chown",
            "comm",
            "cp",
            "cut",
            "date",
            "dd",
            "dirname",
            "du",
            "echo",
            "env",
            "expand",
            "expr",
            "false",
            "head",
            "id",
            "install",
            "ln",
            "ls",
            "md5sum",
            "mkdir",
            "mknod",
            "mktemp",
            "mv",
            "od",
            "pr",
            "printf",
            "pwd",
            "readlink",
            "realpath",
            "rm",
            "rmdir",
            "seq",
            "sha1sum",
            "sha224sum",
            "sha256sum",
            "sha384sum",
            "sha512sum",
            "sleep",
            "sort",
            "split",
            "stat",
            "tail",
            "tee",
            "test",
            "touch",
            "tr",
            "true",
            "uname",
            "uniq",
            "wc",
        ],
    ),
    since("hardknott", "coreutils", &["mkfifo"]),
    since("scarthgap", "coreutils", &["truncate"]),
    since("master", "coreutils", &["timeout"]),
    always("cpio", &["cpio"]),
    always("cpp", &["cpp"]),
    always("debianutils", &["which"]),
    always("diffstat", &["diffstat"]),
    always("diffutils", &["cmp", "diff"]),
    always("file", &["file"]),
    always("findutils", &["find", "xargs"]),
    always("g++", &["g++"]),
    always("gawk", &["awk", "gawk"]),
    always("gcc", &["gcc"]),
    always("git", &["git"]),
    always("grep", &["egrep", "fgrep", "grep"]),
    always("gzip", &["gunzip", "gzip"]),
    always("hostname", &["hostname"]),
    always("libc-bin", &["getconf", "iconv", "ldd"]),
    // walnascar uses the program's new name; whinlatter builds its own lz4.
    Package { until: Some("walnascar"), ..since("honister", "lz4", &["lz4c"]) },
    Package { until: Some("whinlatter"), ..since("walnascar", "lz4", &["lz4"]) },
    always("make", &["make"]),
    always("patch", &["patch"]),
    always("perl", &["perl"]),
    always("python3", &["python3"]),
    // Part of libc-dev-bin until Debian 10.
    always("rpcsvc-proto", &["rpcgen"]),
    always("sed", &["sed"]),
    always("tar", &["tar"]),
    always("util-linux", &["flock", "getopt"]),
    always("wget", &["wget"]),
    since("whinlatter", "xz-utils", &["xz"]),
    Package { until: Some("whinlatter"), ..useful("xz-utils", &["xz"]) },
    since("honister", "zstd", &["pzstd", "zstd"]),
    since("kirkstone", "zstd", &["unzstd"]),
    useful("iproute2", &["ip"]),
    useful("iputils-ping", &["ping"]),
    useful("openssh-client", &["scp", "ssh"]),
    useful("procps", &["ps"]),
    useful("socat", &["socat"]),
    useful("texinfo", &["makeinfo"]),
    useful("unzip", &["unzip"]),
];

/// A program with a minimum version.
pub struct Minimum {
    pub program: &'static str,
    /// Pairs of release and minimum version from that release on, newest first.
    pub versions: &'static [(&'static str, &'static str)],
}

pub const MINIMA: &[Minimum] = &[
    Minimum {
        program: "gcc",
        versions: &[
            ("whinlatter", "10.1"),
            ("mickledore", "8.0"),
            ("kirkstone", "7.5"),
            ("gatesgarth", "6.0"),
            ("dunfell", "5.0"),
        ],
    },
    Minimum { program: "git", versions: &[("dunfell", "1.8.3.1")] },
    Minimum { program: "make", versions: &[("kirkstone", "4.0")] },
    Minimum { program: "patch", versions: &[("dunfell", "2.7")] },
    Minimum {
        program: "python3",
        versions: &[("walnascar", "3.9"), ("mickledore", "3.8"), ("hardknott", "3.6"), ("dunfell", "3.5")],
    },
    Minimum { program: "tar", versions: &[("dunfell", "1.28")] },
];

/// The packages that a release needs.
pub fn wanted(release: &Release) -> impl Iterator<Item = &'static Package> {
    let now = age(release.name);
    PACKAGES
        .iter()
        .filter(move |package| age(package.from) <= now && package.until.is_none_or(|until| now < age(until)))
}

/// The position of a release in the table of releases; the oldest is 0.
pub fn age(name: &str) -> usize {
    RELEASES.iter().position(|release| release.name == name).unwrap_or(RELEASES.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn programs(name: &str) -> BTreeSet<&'static str> {
        wanted(Release::find(name).unwrap())
            .filter(|p| p.required)
            .flat_map(|p| p.programs)
            .copied()
            .collect()
    }

    #[test]
    fn tables_name_only_known_releases() {
        let in_packages = PACKAGES.iter().flat_map(|package| [Some(package.from), package.until]).flatten();
        let in_minima = MINIMA.iter().flat_map(|minimum| minimum.versions).map(|(from, _)| *from);
        for name in in_packages.chain(in_minima) {
            assert!(Release::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn wanted_programs_follow_hosttools_of_each_release() {
        // (release, needed, not needed), from HOSTTOOLS of the release branches.
        let table: [(&str, &[&str], &[&str]); 7] = [
            ("dunfell", &["rpcgen", "gawk", "chrpath"], &["mkfifo", "zstd", "lz4c", "xz"]),
            ("hardknott", &["mkfifo"], &["zstd", "lz4c"]),
            ("honister", &["lz4c", "pzstd", "zstd"], &["unzstd"]),
            ("scarthgap", &["bunzip2", "lz4c", "truncate", "unzstd"], &["lz4", "xz", "timeout"]),
            ("walnascar", &["lz4"], &["lz4c", "xz"]),
            ("whinlatter", &["xz"], &["lz4", "lz4c", "timeout"]),
            ("master", &["timeout", "xz"], &["lz4"]),
        ];
        for (name, wanted, not_wanted) in table {
            let programs = programs(name);
            for program in wanted {
                assert!(programs.contains(program), "{name} wants {program}");
            }
            for program in not_wanted {
                assert!(!programs.contains(program), "{name} does not want {program}");
            }
        }
    }
}
