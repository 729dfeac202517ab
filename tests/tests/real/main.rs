//! The fixtures against real BitBake and OE-Core, where their addresses answer.
//!
//! Nothing here stands in for anything: the manifests are unmodified, git clones upstream, and
//! yocto-check-layer computes the signatures of the whole world. One test at a time, because each
//! takes all cores.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ahead;
mod builds;
mod checks;
mod fixture;
mod memo;
mod parses;
mod share;
mod starter;
mod stops;

const POKY: &str = "https://git.yoctoproject.org/poky";
const OE_CORE: &str = "https://git.openembedded.org/openembedded-core";
const BITBAKE: &str = "https://git.openembedded.org/bitbake";
