//! The table of well-known layers: which repository contains a collection, and what the collection depends
//! on.
//!
//! Source: `conf/layer.conf` of each repository, the union over its branches for dunfell, kirkstone, scarthgap,
//! wrynose and master as far as it has them; of meta-virtualization, meta-arm, meta-raspberrypi and meta-yocto
//! scarthgap alone; of meta-security's `meta-hardening`, `meta-integrity` and `meta-parsec` kirkstone alone. Branches
//! have the releases' names where `branch` does not say otherwise. The collections and branches of meta-lts-mixins are
//! from the manifests of layers that use them.

use agent_types::release::Release;

/// A collection (`BBFILE_COLLECTIONS`) and its repository.
#[derive(Debug, PartialEq, Eq)]
pub struct WellKnown {
    pub collection: &'static str,
    pub repo: &'static str,
    pub url: &'static str,
    /// The layer's directory in the repository.
    pub layer: &'static str,
    /// `LAYERDEPENDS` without `core`.
    pub depends: &'static [&'static str],
    branch: Branch,
}

#[derive(Debug, PartialEq, Eq)]
enum Branch {
    /// The release's name.
    Release,
    /// The release's name, `/`, and this.
    Below(&'static str),
    /// The branch for releases up to the one of that name, and the branch for later ones.
    UpTo(&'static str, &'static str, &'static str),
}

impl WellKnown {
    /// The repository's branch for this release.
    pub fn branch(&self, release: &Release) -> String {
        match self.branch {
            Branch::Release => release.name.into(),
            Branch::Below(name) => format!("{}/{name}", release.name),
            Branch::UpTo(last, until, later) => {
                let position = |name| Release::names().position(|other| other == name);
                let is_later = position(release.name) > position(last);
                if is_later { later.into() } else { until.into() }
            }
        }
    }

    const fn with_branch(self, branch: Branch) -> WellKnown {
        WellKnown { branch, ..self }
    }
}

const fn openembedded(
    collection: &'static str,
    layer: &'static str,
    depends: &'static [&'static str],
) -> WellKnown {
    let url = "https://git.openembedded.org/meta-openembedded";
    WellKnown { collection, repo: "meta-openembedded", url, layer, depends, branch: Branch::Release }
}

const fn layer(
    collection: &'static str,
    repo: &'static str,
    url: &'static str,
    layer: &'static str,
    depends: &'static [&'static str],
) -> WellKnown {
    WellKnown { collection, repo, url, layer, depends, branch: Branch::Release }
}

const OE: &str = "openembedded-layer";
const PYTHON: &str = "meta-python";
const NETWORKING: &str = "networking-layer";

const VIRTUALIZATION: &str = "https://git.yoctoproject.org/meta-virtualization";
const SECURITY: &str = "https://git.yoctoproject.org/meta-security";
const ARM: &str = "https://git.yoctoproject.org/meta-arm";
const YOCTO: &str = "https://git.yoctoproject.org/meta-yocto";
const RASPBERRYPI: &str = "https://git.yoctoproject.org/meta-raspberrypi";

const CLANG: &str = "https://github.com/kraj/meta-clang";
const FREESCALE: &str = "https://github.com/Freescale/meta-freescale";
const FREESCALE_3RDPARTY: &str = "https://github.com/Freescale/meta-freescale-3rdparty";
const FREESCALE_DISTRO: &str = "https://github.com/Freescale/meta-freescale-distro";
const INTEL: &str = "https://git.yoctoproject.org/meta-intel";
const LTS_MIXINS: &str = "https://git.yoctoproject.org/meta-lts-mixins";
const MENDER: &str = "https://github.com/mendersoftware/meta-mender";
const QT5: &str = "https://github.com/meta-qt5/meta-qt5";
const QT6: &str = "https://code.qt.io/yocto/meta-qt6.git";
const RAUC: &str = "https://github.com/rauc/meta-rauc";
const RUST: &str = "https://github.com/meta-rust/meta-rust";
const SUNXI: &str = "https://github.com/linux-sunxi/meta-sunxi";
const SWUPDATE: &str = "https://github.com/sbabic/meta-swupdate";
const TEGRA: &str = "https://github.com/OE4T/meta-tegra";
const TI: &str = "https://git.yoctoproject.org/meta-ti";
const UPDATER: &str = "https://github.com/uptane/meta-updater";

static WELL_KNOWN: [WellKnown; 45] = [
    openembedded(OE, "meta-oe", &[]),
    openembedded(PYTHON, "meta-python", &[OE]),
    openembedded(NETWORKING, "meta-networking", &[OE, PYTHON]),
    openembedded("multimedia-layer", "meta-multimedia", &[OE, PYTHON]),
    openembedded("filesystems-layer", "meta-filesystems", &[OE, NETWORKING]),
    openembedded("gnome-layer", "meta-gnome", &[OE, NETWORKING, PYTHON]),
    openembedded("perl-layer", "meta-perl", &[OE]),
    openembedded("xfce-layer", "meta-xfce", &[OE, "gnome-layer", "multimedia-layer", PYTHON, NETWORKING]),
    openembedded("webserver", "meta-webserver", &[OE, NETWORKING]),
    openembedded("meta-initramfs", "meta-initramfs", &[]),
    layer(
        "virtualization-layer",
        "meta-virtualization",
        VIRTUALIZATION,
        ".",
        &[OE, NETWORKING, "filesystems-layer", PYTHON],
    ),
    layer("security", "meta-security", SECURITY, ".", &[OE]),
    layer("tpm-layer", "meta-security", SECURITY, "meta-tpm", &[OE, PYTHON]),
    layer("arm-toolchain", "meta-arm", ARM, "meta-arm-toolchain", &[]),
    layer("meta-arm", "meta-arm", ARM, "meta-arm", &["arm-toolchain"]),
    layer("yocto", "meta-yocto", YOCTO, "meta-poky", &[]),
    layer("yoctobsp", "meta-yocto", YOCTO, "meta-yocto-bsp", &[]),
    layer("raspberrypi", "meta-raspberrypi", RASPBERRYPI, ".", &[]),
    layer("harden-layer", "meta-security", SECURITY, "meta-hardening", &[OE]),
    layer("integrity", "meta-security", SECURITY, "meta-integrity", &[OE]),
    layer("parsec-layer", "meta-security", SECURITY, "meta-parsec", &["clang-layer"]),
    layer("meta-arm-bsp", "meta-arm", ARM, "meta-arm-bsp", &["meta-arm"]),
    layer("meta-arm-systemready", "meta-arm", ARM, "meta-arm-systemready", &[]),
    layer("clang-layer", "meta-clang", CLANG, ".", &[]),
    layer("rust-layer", "meta-rust", RUST, ".", &[OE]),
    layer("qt5-layer", "meta-qt5", QT5, ".", &[OE]),
    layer("qt6-layer", "meta-qt6", QT6, ".", &[OE, PYTHON]).with_branch(Branch::UpTo(
        "scarthgap",
        "lts-6.5",
        "dev",
    )),
    layer("freescale-layer", "meta-freescale", FREESCALE, ".", &[]),
    layer("freescale-3rdparty", "meta-freescale-3rdparty", FREESCALE_3RDPARTY, ".", &["freescale-layer"]),
    layer("freescale-distro", "meta-freescale-distro", FREESCALE_DISTRO, ".", &["yocto"]),
    layer("meta-ti-bsp", "meta-ti", TI, "meta-ti-bsp", &["meta-arm"]),
    layer("meta-ti-extras", "meta-ti", TI, "meta-ti-extras", &["meta-ti-bsp"]),
    layer("meta-beagle", "meta-ti", TI, "meta-beagle", &["meta-ti-bsp"]),
    layer("intel", "meta-intel", INTEL, ".", &[]),
    layer("tegra", "meta-tegra", TEGRA, ".", &[]),
    layer("sunxi", "meta-sunxi", SUNXI, ".", &[PYTHON, "meta-arm"]),
    layer("swupdate", "meta-swupdate", SWUPDATE, ".", &[OE]),
    layer("rauc", "meta-rauc", RAUC, ".", &[]),
    layer("sota", "meta-updater", UPDATER, ".", &[OE, PYTHON, "filesystems-layer"]),
    layer("mender", "meta-mender", MENDER, "meta-mender-core", &[]),
    layer("mender-demo", "meta-mender", MENDER, "meta-mender-demo", &["mender", OE]),
    layer("mender-qemu", "meta-mender", MENDER, "meta-mender-qemu", &["mender"]),
    layer("lts-u-boot-mixin", "meta-lts-mixins-u-boot", LTS_MIXINS, ".", &[])
        .with_branch(Branch::Below("u-boot")),
    layer("lts-go-mixin", "meta-lts-mixins-go", LTS_MIXINS, ".", &[]).with_branch(Branch::Below("go")),
    layer("scarthgap-rust-mixin", "meta-lts-mixins-rust", LTS_MIXINS, ".", &[])
        .with_branch(Branch::Below("rust")),
];

/// The repository of a well-known collection.
pub fn find(collection: &str) -> Option<&'static WellKnown> {
    WELL_KNOWN.iter().find(|known| known.collection == collection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_in_the_table() {
        for known in &WELL_KNOWN {
            for depends in known.depends {
                assert!(find(depends).is_some(), "{} depends on {depends}", known.collection);
            }
            let twins = WELL_KNOWN.iter().filter(|other| other.repo == known.repo);
            assert!(twins.clone().all(|other| other.url == known.url), "{} has two addresses", known.repo);
            assert!(
                twins.clone().all(|other| other.branch == known.branch),
                "{} has two branches",
                known.repo
            );
            assert_eq!(twins.filter(|other| other.layer == known.layer).count(), 1, "{}", known.collection);
            let names = WELL_KNOWN.iter().filter(|other| other.collection == known.collection);
            assert_eq!(names.count(), 1, "{}", known.collection);
        }
    }

    #[test]
    fn branches_follow_the_release() {
        let table = [
            ("clang-layer", "scarthgap", "scarthgap"),
            ("qt6-layer", "kirkstone", "lts-6.5"),
            ("qt6-layer", "scarthgap", "lts-6.5"),
            ("qt6-layer", "wrynose", "dev"),
            ("qt6-layer", "master", "dev"),
            ("lts-u-boot-mixin", "kirkstone", "kirkstone/u-boot"),
        ];
        for (collection, release, branch) in table {
            let release = Release::find(release);
            let found = find(collection).zip(release).map(|(known, release)| known.branch(release));
            assert_eq!(found.as_deref(), Some(branch), "{collection} on {release:?}");
        }
    }
}
