//! The layer that the agent writes for its tests: the suite for ptests, and an image for each group of recipes.

use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_types::release::Release;

use super::cases::{CODE, PLAN, Plan, SUITE};
use super::conf::{LOGIN_FEATURES, SshServer};
use super::conflicts::TestedRecipe;
use super::query;

/// How the name of each image for ptests begins; a number follows.
pub const IMAGE: &str = "build-agent-ptests-";

/// The layer on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestLayer(PathBuf);

/// Additional free space of an image for the files that tests create, in KiB.
const EXTRA_SPACE: u64 = 512 * 1024;

impl TestLayer {
    /// Writes the layer without images into an empty directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(directory: &Path, release: &Release) -> std::io::Result<TestLayer> {
        let layer = TestLayer(directory.to_owned());
        for part in ["conf", "recipes-tests", "lib/oeqa/runtime/cases"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("conf/layer.conf"), layer_conf(release))?;
        fs::write(layer.cases().join(format!("{SUITE}.py")), CODE)?;
        fs::write(directory.join(query::FILE_NAME), query::SCRIPT)?;
        Ok(layer)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file with the suite's plan.
    pub fn plan(&self) -> PathBuf {
        self.cases().join(PLAN)
    }

    fn cases(&self) -> PathBuf {
        self.0.join("lib/oeqa/runtime/cases")
    }

    /// The script that queries BitBake.
    pub fn query_script(&self) -> PathBuf {
        self.0.join(query::FILE_NAME)
    }

    /// Writes the suite's plan.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_plan(&self, plan: &Plan) -> std::io::Result<()> {
        fs::write(self.plan(), serde_json::to_string_pretty(plan)?)
    }

    /// Writes the image with the ptests of these recipes; its name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_image(
        &self,
        number: usize,
        recipes: &[&TestedRecipe],
        conf: ImageConf,
        release: &Release,
    ) -> std::io::Result<String> {
        let name = format!("{IMAGE}{number}");
        fs::write(self.0.join("recipes-tests").join(format!("{name}.bb")), image(recipes, conf, release))?;
        Ok(name)
    }
}

/// What the images for ptests have in common.
#[derive(Clone, Copy, Debug)]
pub struct ImageConf {
    pub ssh_server: SshServer,
    /// MiB.
    pub guest_memory: u64,
}

fn layer_conf(release: &Release) -> String {
    format!(
        "# Written by build-agent for this job.\n\
         BBPATH .= \":${{LAYERDIR}}\"\n\
         BBFILES += \"${{LAYERDIR}}/recipes-tests/*.bb\"\n\
         BBFILE_COLLECTIONS += \"build-agent-tests\"\n\
         BBFILE_PATTERN_build-agent-tests = \"^${{LAYERDIR_RE}}/\"\n\
         BBFILE_PATTERN_IGNORE_EMPTY_build-agent-tests = \"1\"\n\
         BBFILE_PRIORITY_build-agent-tests = \"1\"\n\
         LAYERDEPENDS_build-agent-tests = \"core\"\n\
         LAYERSERIES_COMPAT_build-agent-tests = \"{series}\"\n",
        series = release.series.join(" "),
    )
}

fn image(recipes: &[&TestedRecipe], conf: ImageConf, release: &Release) -> String {
    let names: Vec<&str> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    let packages: Vec<&str> =
        recipes.iter().flat_map(|recipe| recipe.ptests.iter().map(String::as_str)).collect();
    // The two servers exclude each other.
    let has_openssh = recipes.iter().any(|recipe| recipe.name == "openssh");
    let server = match conf.ssh_server {
        SshServer::Dropbear if has_openssh => SshServer::OpenSsh,
        server => server,
    };
    let separator = release.overrides.separator();
    format!(
        "# Written by build-agent for this job.\n\
         SUMMARY = \"Image with the ptests of {names}\"\n\
         LICENSE = \"MIT\"\n\
         inherit core-image\n\
         IMAGE_FEATURES += \"{feature} {LOGIN_FEATURES}\"\n\
         IMAGE_INSTALL = \"packagegroup-core-boot ptest-runner {packages}\"\n\
         IMAGE_LINGUAS = \"\"\n\
         IMAGE_ROOTFS_EXTRA_SPACE{separator}append = \" + {EXTRA_SPACE}\"\n\
         QB_MEM = \"-m {memory}\"\n\
         TEST_SUITES = \"{SUITE}\"\n",
        names = names.join(" "),
        feature = server.feature(),
        packages = packages.join(" "),
        memory = conf.guest_memory,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_has_the_suite_the_plan_and_the_images() {
        let directory = tempfile::tempdir().unwrap();
        let release = Release::find("scarthgap").unwrap();
        let layer = TestLayer::write(directory.path(), release).unwrap();
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text("conf/layer.conf").contains("LAYERSERIES_COMPAT_build-agent-tests = \"scarthgap\""));
        assert!(text("lib/oeqa/runtime/cases/build_agent_ptest.py").contains("class PtestTest("));
        let plan = Plan { ptests: Some(vec!["zlib".into()]), silence: 600, logs: "/w/logs".into() };
        layer.write_plan(&plan).unwrap();
        let written: serde_json::Value =
            serde_json::from_str(&text("lib/oeqa/runtime/cases/build_agent_ptest.plan")).unwrap();
        let wanted = serde_json::json!({ "ptests": ["zlib"], "silence": 600, "logs": "/w/logs" });
        assert_eq!(written, wanted);
        let recipe = |name: &str| TestedRecipe {
            name: name.into(),
            ptests: vec![format!("{name}-ptest")],
            ..TestedRecipe::default()
        };
        let conf = ImageConf { ssh_server: SshServer::Dropbear, guest_memory: 1024 };
        let name = layer.write_image(2, &[&recipe("curl"), &recipe("zlib")], conf, release).unwrap();
        assert_eq!(name, "build-agent-ptests-2");
        let image = text("recipes-tests/build-agent-ptests-2.bb");
        assert!(image.contains("ptest-runner curl-ptest zlib-ptest\""), "{image}");
        assert!(image.contains("\"ssh-server-dropbear empty-root-password"), "{image}");
        let name = layer.write_image(3, &[&recipe("openssh")], conf, release).unwrap();
        assert!(text(&format!("recipes-tests/{name}.bb")).contains("ssh-server-openssh"));
    }
}
