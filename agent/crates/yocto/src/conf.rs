//! Generates `bblayers.conf` and `local.conf` with pure functions.

use std::fmt::Write;
use std::path::PathBuf;

use agent_types::error::Result;
use agent_types::tiers::Tiers;
use url::Url;

use super::git_mirrors;
use super::hash_server::Serve;
use super::mirrors::{self, EndpointMirrors};
use super::parallelism::Parallelism;
use super::path::{plain_path, text_of};
use super::path_rules::PathUse;
use agent_types::release::Release;

/// The purpose of a build directory; it affects its `local.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// bitbake-layers and builds.
    Build,
    /// yocto-check-layer: only signatures are computed, nothing is fetched or run.
    CheckLayer,
    /// Signatures of what a build would build.
    Signatures,
}

/// An image build of poky takes about so much disk space with `rm_work` and caches, in bytes. With less, builds delete
/// the work directories of finished recipes.
pub const SPACE_TO_BUILD: u64 = 50_000_000_000;

/// `[config]` of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildConfig {
    /// At least one machine. The first is the machine of the checks; each is built.
    pub machines: Vec<String>,
    pub distro: String,
    /// Appended to `local.conf` unchanged.
    pub local_conf: String,
    /// The beginning of `bblayers.conf`, unchanged.
    pub bblayers_conf: String,
    /// `BBMULTICONFIG`; empty: the agent does not set it.
    pub multiconfigs: Vec<String>,
    /// Variables of BitBake's environment.
    pub env: Vec<(String, String)>,
    /// Whether `local_conf` comes before the values for MACHINE, DISTRO and BBMULTICONFIG, which then are only
    /// defaults. So it is in kas, whose texts may set them.
    pub local_conf_first: bool,
}

/// The input of `local.conf`.
#[derive(Clone, Debug)]
pub struct LocalConf<'a> {
    pub release: &'a Release,
    pub purpose: Purpose,
    pub config: &'a BuildConfig,
    /// The text of a layer's `local.conf.sample`; may be empty.
    pub template: &'a str,
    /// Differs from the manifest's first machine if a layer under test provides that one.
    pub machine: &'a str,
    /// The same for the distro.
    pub distro: &'a str,
    pub downloads: &'a PathBuf,
    pub sstate: &'a PathBuf,
    /// Addresses that begin with the first, begin with the second.
    pub git_mirrors: &'a [(Url, Url)],
    /// Which parts of the share are read, and which one is written.
    pub tiers: &'a Tiers,
    /// The agent's server, if the share is in a bucket.
    pub endpoint: Option<&'a EndpointMirrors>,
    pub hash_server: &'a Serve,
    pub parallelism: Parallelism,
    /// Whether builds delete their work directories, because the disk is short.
    pub rm_work: bool,
}

/// Generates `bblayers.conf` with the layers in the given order.
///
/// # Errors
/// If a layer's path has characters that BitBake's list variables do not support.
pub fn bblayers(layers: &[PathBuf]) -> Result<String> {
    bblayers_with(layers, "")
}

/// The same with lines at the beginning. They may set BBPATH.
///
/// # Errors
/// As [`bblayers`].
pub fn bblayers_with(layers: &[PathBuf], lines: &str) -> Result<String> {
    let (lines, operator) = match lines.trim().is_empty() {
        true => (String::new(), "="),
        false => (format!("# [config] bblayers_conf\n{}\n\n", lines.trim_end()), "?="),
    };
    // The version variables refer to the values that the sanity check compares them with, so they are right
    // in every release (meta/conf/sanity.conf, poky-sanity.bbclass).
    let mut text = format!(
        "# Written by build-agent for this job.\n\
         {lines}\
         LCONF_VERSION = \"${{LAYER_CONF_VERSION}}\"\n\
         POKY_BBLAYERS_CONF_VERSION = \"${{REQUIRED_POKY_BBLAYERS_CONF_VERSION}}\"\n\
         \n\
         BBPATH {operator} \"${{TOPDIR}}\"\n\
         BBFILES ?= \"\"\n\
         \n\
         BBLAYERS ?= \" \\\n",
    );
    for layer in layers {
        let path = text_of(layer, PathUse::Layer, "the layer")?;
        let _ = writeln!(text, "  {path} \\");
    }
    text.push_str("  \"\n");
    Ok(text)
}

/// Generates `local.conf`: first the manifest's values, then the settings of the job, then the manifest's own
/// text, which so takes precedence.
///
/// # Errors
/// If a directory has characters that a configuration file does not support.
pub fn local(conf: &LocalConf) -> Result<String> {
    let downloads = plain_path(conf.downloads)?;
    let sstate = plain_path(conf.sstate)?;
    let halt = conf.release.disk_monitor_halt();
    let hash_server = match conf.purpose {
        Purpose::Build => conf.hash_server.render()?,
        // Signatures do not depend on it, and it must not make the check fail.
        Purpose::CheckLayer | Purpose::Signatures => Serve::Nothing.render()?,
    };
    let parallelism = match conf.purpose {
        Purpose::Build => {
            conf.parallelism.render(conf.release, &format!("{}\n{}", conf.template, conf.config.local_conf))
        }
        // They compile nothing.
        Purpose::CheckLayer | Purpose::Signatures => {
            let cores = conf.parallelism.resources.cores;
            format!("BB_NUMBER_THREADS ?= \"{cores}\"\nPARALLEL_MAKE ?= \"-j {cores}\"\n")
        }
    };
    let mut names = String::new();
    let operator = if conf.config.local_conf_first { "??=" } else { "?=" };
    for (variable, value) in [("MACHINE", conf.machine), ("DISTRO", conf.distro)] {
        let _ = writeln!(names, "{variable} {operator} \"{value}\"");
    }
    if !conf.config.multiconfigs.is_empty() {
        let _ = writeln!(names, "BBMULTICONFIG ?= \"{}\"", conf.config.multiconfigs.join(" "));
    }
    let (before, after) =
        if conf.config.local_conf_first { (String::new(), names) } else { (names + "\n", String::new()) };
    let mut text = format!(
        "# Written by build-agent for this job.\n\
         CONF_VERSION = \"${{LOCALCONF_VERSION}}\"\n\
         \n\
         {before}\
         DL_DIR ?= \"{downloads}\"\n\
         SSTATE_DIR ?= \"{sstate}\"\n\
         {parallelism}\
         PATCHRESOLVE = \"noop\"\n\
         \n\
         {hash_server}\
         \n\
         BB_DISKMON_DIRS ??= \"\\\n    \
             STOPTASKS,${{TMPDIR}},1G,100K \\\n    \
             STOPTASKS,${{DL_DIR}},1G,100K \\\n    \
             STOPTASKS,${{SSTATE_DIR}},1G,100K \\\n    \
             {halt},${{TMPDIR}},100M,1K \\\n    \
             {halt},${{DL_DIR}},100M,1K \\\n    \
             {halt},${{SSTATE_DIR}},100M,1K\"\n\
         \n\
         # Whether some web server answers is no property of a layer.\n\
         CONNECTIVITY_CHECK_URIS ?= \"\"\n"
    );
    match conf.purpose {
        Purpose::Build => {
            // The share comes first: BitBake prepends it later.
            text += &git_mirrors::render(conf.git_mirrors, conf.release);
            text += &mirrors::render(conf.tiers, conf.endpoint, conf.release)?;
            // In older releases, only local.conf.sample switches them on. They change no signature.
            text.push_str("\n# What tasks use, for the reports.\nINHERIT += \"buildstats\"\n");
            if conf.rm_work {
                text.push_str("\n# Disk space is short.\nINHERIT += \"rm_work\"\n");
            }
        }
        Purpose::CheckLayer | Purpose::Signatures => {
            let separator = conf.release.overrides.separator();
            let _ = write!(
                text,
                "\n# Signatures need no prebuilt libc, so its download must not be able to fail the check.\n\
                 INHERIT{separator}remove = \"uninative\"\n\
                 \n\
                 # yocto-check-layer asks its other questions with this one. With the same for bitbake -p all of\n\
                 # them share the caches of parsed recipes.\n\
                 BB_SIGNATURE_HANDLER = \"OEBasicHash\"\n"
            );
        }
    }
    if !conf.template.trim().is_empty() {
        let _ = write!(text, "\n# [config] templateconf: local.conf.sample\n{}\n", conf.template.trim_end());
    }
    if !conf.config.local_conf.trim().is_empty() {
        let _ = write!(text, "\n# [config] local_conf\n{}\n", conf.config.local_conf.trim_end());
    }
    if !after.is_empty() {
        let _ = write!(text, "\n{after}");
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parallelism::Resources;
    use agent_types::share::Share;
    use agent_types::tiers::{Access, Trust};

    fn render(release: &str, purpose: Purpose, local_conf: &str) -> String {
        render_with(release, purpose, local_conf, false)
    }

    fn render_with(release: &str, purpose: Purpose, local_conf: &str, rm_work: bool) -> String {
        let config = BuildConfig {
            machines: vec!["qemuarm64".into()],
            distro: "poky".into(),
            local_conf: local_conf.into(),
            ..BuildConfig::default()
        };
        local(&LocalConf {
            release: Release::find(release).unwrap(),
            purpose,
            config: &config,
            template: "PACKAGE_CLASSES ?= \"package_ipk\"\n",
            machine: "qemuarm64",
            distro: "poky",
            downloads: &"/w/downloads".into(),
            sstate: &"/w/sstate".into(),
            git_mirrors: &[],
            tiers: &Tiers::new(
                &Share::new("/efs"),
                Access::ReadWrite,
                &Trust::Trusted { why: String::new() },
            ),
            endpoint: None,
            hash_server: &Serve::Address("hash:8686".into()),
            parallelism: Parallelism::of(Resources { cores: 3, bytes: None, is_limited: false }),
            rm_work,
        })
        .unwrap()
    }

    #[test]
    fn local_conf_speaks_the_language_of_the_release() {
        for (release, purpose, has, has_not) in [
            (
                "dunfell",
                Purpose::CheckLayer,
                &["INHERIT_remove = \"uninative\"", "ABORT,${TMPDIR}"][..],
                "HALT",
            ),
            ("hardknott", Purpose::CheckLayer, &["INHERIT_remove"], "INHERIT:remove"),
            ("honister", Purpose::CheckLayer, &["INHERIT:remove", "ABORT,"], "HALT"),
            ("kirkstone", Purpose::CheckLayer, &["INHERIT:remove", "HALT,${TMPDIR}"], "ABORT"),
            ("scarthgap", Purpose::Build, &["MACHINE ?= \"qemuarm64\"", "\"-j 3\""], "uninative"),
        ] {
            let text = render(release, purpose, "");
            for wanted in has {
                assert!(text.contains(wanted), "{release}: no {wanted} in\n{text}");
            }
            assert!(!text.contains(has_not), "{release}: {has_not} in\n{text}");
        }
    }

    #[test]
    fn only_builds_use_the_share_and_the_hash_server() {
        for (purpose, uses) in [(Purpose::Build, true), (Purpose::CheckLayer, false)] {
            let text = render("scarthgap", purpose, "");
            for words in ["SSTATE_MIRRORS", "PREMIRRORS", "BB_HASHSERVE = \"hash:8686\"", "OEEquivHash"] {
                assert_eq!(text.contains(words), uses, "{purpose:?} {words}: {text}");
            }
            assert_eq!(text.contains("BB_HASHSERVE = \"\""), !uses, "{text}");
            assert!(text.contains("SSTATE_DIR ?= \"/w/sstate\""), "local in any case: {text}");
        }
    }

    #[test]
    fn builds_on_a_short_disk_delete_their_work() {
        for (purpose, short, has) in
            [(Purpose::Build, true, true), (Purpose::Build, false, false), (Purpose::CheckLayer, true, false)]
        {
            let text = render_with("scarthgap", purpose, "", short);
            assert_eq!(text.contains("\nINHERIT += \"rm_work\"\n"), has, "{purpose:?} {short}: {text}");
        }
    }

    #[test]
    fn only_builds_write_statistics() {
        for release in ["dunfell", "scarthgap", "master"] {
            for (purpose, has) in
                [(Purpose::Build, true), (Purpose::CheckLayer, false), (Purpose::Signatures, false)]
            {
                let text = render(release, purpose, "");
                assert_eq!(
                    text.contains("\nINHERIT += \"buildstats\"\n"),
                    has,
                    "{release} {purpose:?}: {text}"
                );
            }
        }
    }

    #[test]
    fn only_check_layer_sets_the_signature_handler() {
        for release in ["dunfell", "kirkstone", "scarthgap", "master"] {
            for (purpose, has) in [(Purpose::Build, false), (Purpose::CheckLayer, true)] {
                let text = render(release, purpose, "");
                let found = text.contains("\nBB_SIGNATURE_HANDLER = \"OEBasicHash\"\n");
                assert_eq!(found, has, "{release} {purpose:?}: {text}");
            }
        }
    }

    #[test]
    fn text_of_the_manifest_comes_last() {
        for (purpose, line) in [
            (Purpose::Build, "DL_DIR = \"/elsewhere\""),
            (Purpose::CheckLayer, "BB_SIGNATURE_HANDLER = \"OEEquivHash\""),
        ] {
            let text = render("scarthgap", purpose, &format!("{line}\n\n"));
            let template = "# [config] templateconf: local.conf.sample\nPACKAGE_CLASSES ?= \"package_ipk\"\n";
            assert!(text.ends_with(&format!("{template}\n# [config] local_conf\n{line}\n")), "{text}");
        }
    }

    #[test]
    fn bblayers_keeps_the_order_and_rejects_paths_that_bitbake_cannot_read() {
        let text = bblayers(&["/w/poky/meta".into(), "/w/meta-x".into()]).unwrap();
        assert!(text.ends_with("BBLAYERS ?= \" \\\n  /w/poky/meta \\\n  /w/meta-x \\\n  \"\n"), "{text}");
        for bad in ["/w/meta x", "/w/meta\"x", "/w/${X}", "/w/a\nb", "/w/a:b", "/w/a*"] {
            assert!(bblayers(&[bad.into()]).is_err(), "{bad:?}");
        }
        for good in ["/w/job@2/meta", "/w/~/meta", "/w/100%/meta", "/w/c++/meta"] {
            assert!(bblayers(&[good.into()]).unwrap().contains(&format!("\n  {good} \\\n")), "{good}");
            assert!(plain_path(Path::new(good)).is_err(), "no place for builds: {good}");
        }
    }
}
