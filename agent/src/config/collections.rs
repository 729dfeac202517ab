//! Layers that other layers commonly depend on: which repository holds a collection, and what it
//! depends on itself.
//!
//! Source: `conf/layer.conf` of meta-openembedded at dunfell, kirkstone, scarthgap and master (the
//! union of what they depend on), and of meta-virtualization, meta-security, meta-arm,
//! meta-raspberrypi and meta-yocto at scarthgap. Their branches have the releases' names.

/// A collection (`BBFILE_COLLECTIONS`) and its home.
#[derive(Debug, PartialEq, Eq)]
pub struct WellKnown {
    pub collection: &'static str,
    pub repo: &'static str,
    pub url: &'static str,
    /// The layer's directory in the repository.
    pub layer: &'static str,
    /// `LAYERDEPENDS` without `core`.
    pub depends: &'static [&'static str],
}

const fn openembedded(
    collection: &'static str,
    layer: &'static str,
    depends: &'static [&'static str],
) -> WellKnown {
    let url = "https://git.openembedded.org/meta-openembedded";
    WellKnown { collection, repo: "meta-openembedded", url, layer, depends }
}

const fn yocto(
    collection: &'static str,
    repo: &'static str,
    url: &'static str,
    layer: &'static str,
    depends: &'static [&'static str],
) -> WellKnown {
    WellKnown { collection, repo, url, layer, depends }
}

const OE: &str = "openembedded-layer";
const PYTHON: &str = "meta-python";
const NETWORKING: &str = "networking-layer";

const VIRTUALIZATION: &str = "https://git.yoctoproject.org/meta-virtualization";
const SECURITY: &str = "https://git.yoctoproject.org/meta-security";
const ARM: &str = "https://git.yoctoproject.org/meta-arm";
const YOCTO: &str = "https://git.yoctoproject.org/meta-yocto";
const RASPBERRYPI: &str = "https://git.yoctoproject.org/meta-raspberrypi";

static WELL_KNOWN: [WellKnown; 18] = [
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
    yocto(
        "virtualization-layer",
        "meta-virtualization",
        VIRTUALIZATION,
        ".",
        &[OE, NETWORKING, "filesystems-layer", PYTHON],
    ),
    yocto("security", "meta-security", SECURITY, ".", &[OE]),
    yocto("tpm-layer", "meta-security", SECURITY, "meta-tpm", &[OE, PYTHON]),
    yocto("arm-toolchain", "meta-arm", ARM, "meta-arm-toolchain", &[]),
    yocto("meta-arm", "meta-arm", ARM, "meta-arm", &["arm-toolchain"]),
    yocto("yocto", "meta-yocto", YOCTO, "meta-poky", &[]),
    yocto("yoctobsp", "meta-yocto", YOCTO, "meta-yocto-bsp", &[]),
    yocto("raspberrypi", "meta-raspberrypi", RASPBERRYPI, ".", &[]),
];

/// The home of a collection, when it is a well-known one.
pub fn find(collection: &str) -> Option<&'static WellKnown> {
    WELL_KNOWN.iter().find(|known| known.collection == collection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_closed() {
        for known in &WELL_KNOWN {
            for depends in known.depends {
                assert!(find(depends).is_some(), "{} depends on {depends}", known.collection);
            }
            let twins = WELL_KNOWN.iter().filter(|other| other.repo == known.repo);
            assert!(twins.clone().all(|other| other.url == known.url), "{} has two addresses", known.repo);
            assert_eq!(twins.filter(|other| other.layer == known.layer).count(), 1, "{}", known.collection);
        }
    }
}
