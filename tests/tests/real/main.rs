//! The fixtures with real BitBake and OE-Core, if their addresses reply.
//!
//! There are no stand-ins: the manifests are unmodified, git clones upstream, and yocto-check-layer computes the
//! signatures of the whole world. One test runs at a time, because each uses all cores.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bucket;
mod bucket_builds;
mod bucket_hashes;
mod build_limits;
mod builds;
mod buildtools;
mod changed;
mod changed_edits;
mod checks;
mod definitions;
mod development;
mod devices;
mod fixture;
mod guest;
mod local_caches;
mod matrix;
mod more_checks;
mod parse_cache;
mod prefetch;
mod share;
mod signature_cache;
mod starter;
mod stops;

const POKY: &str = "https://git.yoctoproject.org/poky";
const OE_CORE: &str = "https://git.openembedded.org/openembedded-core";
const BITBAKE: &str = "https://git.openembedded.org/bitbake";
