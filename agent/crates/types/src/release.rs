//! The table of supported Yocto releases.
//!
//! Sources: `bitbake/lib/bb/__init__.py` (version), `meta/classes*/sstate.bbclass`
//! (`SSTATE_VERSION`), `meta/conf/layer.conf` (`LAYERSERIES_CORENAMES`) of each release branch.

/// Syntax of overrides in configuration files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideSyntax {
    /// `VAR_append`, `VAR_pn-x`: dunfell to hardknott.
    Underscore,
    /// `VAR:append`, `VAR:pn-x`: honister and later, which reject the old form.
    Colon,
}

impl OverrideSyntax {
    pub const fn separator(self) -> char {
        match self {
            OverrideSyntax::Underscore => '_',
            OverrideSyntax::Colon => ':',
        }
    }
}

/// The repositories that contain BitBake and OE-Core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// The combined `poky` repository has a branch of the release's name.
    Poky,
    /// `bitbake` (whose branches have other names), `openembedded-core` and `meta-yocto`.
    Separate { bitbake_branch: &'static str },
}

/// A Yocto release.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    /// The code name, which is also the branch of OE-Core and of most layers.
    pub name: &'static str,
    /// `5.0`; `master` has the number of the next release.
    pub version: &'static str,
    /// The series that its OE-Core names in `LAYERSERIES_CORENAMES`.
    pub series: &'static [&'static str],
    /// The BitBake version of its first release; the tree in use may be newer (`bb.__version__`).
    pub bitbake: &'static str,
    pub overrides: OverrideSyntax,
    pub sources: Sources,
    /// `SSTATE_VERSION`.
    pub sstate_version: u8,
}

impl Release {
    /// The action of `BB_DISKMON_DIRS` that stops a build; it was renamed in kirkstone (BitBake 2.0).
    pub const fn disk_monitor_halt(&self) -> &'static str {
        if self.bitbake.as_bytes()[0] == b'1' { "ABORT" } else { "HALT" }
    }

    /// The list of variables that do not count for the hash of BitBake's configuration. From 2.0 on the old name is an
    /// error; older versions ignore the new name.
    pub const fn hash_config_ignore_vars(&self) -> &'static str {
        if self.bitbake.as_bytes()[0] == b'1' {
            "BB_HASHCONFIG_WHITELIST"
        } else {
            "BB_HASHCONFIG_IGNORE_VARS"
        }
    }

    /// The variable that passes environment variables to BitBake, by the version of the tree in use
    /// (`bb.__version__`, e.g. `2.8.1`). From 2.0 on the old name is an error; older versions ignore the new
    /// name.
    pub fn environment_allow_list(bitbake_version: &str) -> &'static str {
        if bitbake_version.starts_with("1.") { "BB_ENV_EXTRAWHITE" } else { "BB_ENV_PASSTHROUGH_ADDITIONS" }
    }

    /// The suffix of shared state archives.
    pub const fn sstate_suffix(&self) -> &'static str {
        if self.sstate_version < 10 { ".tgz" } else { ".tar.zst" }
    }

    /// The branch of BitBake's own repository. Before whinlatter, poky and OE-Core name the version.
    pub const fn bitbake_branch(&self) -> &'static str {
        match self.sources {
            Sources::Poky => self.bitbake,
            Sources::Separate { bitbake_branch } => bitbake_branch,
        }
    }

    /// Finds the release with this code name.
    pub fn find(name: &str) -> Option<&'static Release> {
        RELEASES.iter().find(|release| release.name == name)
    }

    /// The newest release that is not a development branch.
    pub fn newest_stable() -> &'static Release {
        let [.., newest, _master] = &RELEASES;
        newest
    }

    /// The code names, oldest first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RELEASES.iter().map(|release| release.name)
    }
}

const fn poky(
    name: &'static str,
    version: &'static str,
    series: &'static [&'static str],
    bitbake: &'static str,
    overrides: OverrideSyntax,
    sstate_version: u8,
) -> Release {
    Release { name, version, series, bitbake, overrides, sources: Sources::Poky, sstate_version }
}

const fn separate(
    name: &'static str,
    version: &'static str,
    series: &'static [&'static str],
    bitbake: &'static str,
    bitbake_branch: &'static str,
) -> Release {
    let sources = Sources::Separate { bitbake_branch };
    Release { name, version, series, bitbake, overrides: OverrideSyntax::Colon, sources, sstate_version: 14 }
}

use OverrideSyntax::{Colon, Underscore};

/// All releases, oldest first.
pub static RELEASES: [Release; 14] = [
    poky("dunfell", "3.1", &["dunfell"], "1.46", Underscore, 3),
    poky("gatesgarth", "3.2", &["gatesgarth"], "1.48", Underscore, 3),
    poky("hardknott", "3.3", &["hardknott"], "1.50", Underscore, 3),
    poky("honister", "3.4", &["honister"], "1.52", Colon, 7),
    poky("kirkstone", "4.0", &["kirkstone"], "2.0", Colon, 10),
    poky("langdale", "4.1", &["langdale"], "2.2", Colon, 10),
    poky("mickledore", "4.2", &["mickledore"], "2.4", Colon, 11),
    poky("nanbield", "4.3", &["nanbield"], "2.6", Colon, 11),
    poky("scarthgap", "5.0", &["scarthgap"], "2.8", Colon, 12),
    poky("styhead", "5.1", &["styhead"], "2.10", Colon, 14),
    poky("walnascar", "5.2", &["walnascar"], "2.12", Colon, 14),
    separate("whinlatter", "5.3", &["whinlatter"], "2.16", "2.16"),
    separate("wrynose", "6.0", &["wrynose"], "2.18", "2.18"),
    separate("master", "6.1", &["wrynose", "blacksail"], "2.19", "master"),
];
