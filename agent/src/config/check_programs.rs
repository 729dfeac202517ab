//! Programs of `[check]` that are part of neither BitBake nor OE-Core.

use std::path::PathBuf;

use agent_types::error::{Error, Result};
use agent_yocto::cve;
use agent_yocto::environment::HOST_PATH;

use super::settings::{CheckScope, Settings};

/// A program, and how to get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckProgram {
    pub name: &'static str,
    pub install: &'static str,
}

/// For `oelint`.
pub const OELINT: CheckProgram = CheckProgram {
    name: "oelint-adv",
    install: "use the agent's image, or `pip install oelint-adv` where the build user can run it",
};

/// For `cve`, in releases without cve-check.
pub const SBOM_CVE_CHECK: CheckProgram = CheckProgram {
    name: cve::PROGRAM,
    install: "use the agent's image, or `pip install sbom-cve-check` where the build user can run it",
};

impl Settings {
    /// The programs that the manifest's checks need.
    pub fn check_programs(&self) -> Vec<CheckProgram> {
        let is_wanted = |scope: CheckScope| scope != CheckScope::Off;
        let oelint = is_wanted(self.check.oelint).then_some(OELINT);
        let has_database = self.check.cve_database.is_some();
        let needs_program = is_wanted(self.check.cve) && has_database && cve::needs_program(self.release);
        oelint.into_iter().chain(needs_program.then_some(SBOM_CVE_CHECK)).collect()
    }

    /// The path of the program in the agent's own PATH, or in that of BitBake.
    ///
    /// # Errors
    /// Machine, if it is not installed.
    pub fn find_program(&self, program: CheckProgram) -> Result<PathBuf> {
        let own = self.program_path.as_deref().unwrap_or_default();
        let directories = std::env::split_paths(own).chain(std::env::split_paths(HOST_PATH));
        let paths = directories.filter(|directory| directory.is_absolute());
        let found = paths.map(|directory| directory.join(program.name)).find(|path| path.is_file());
        let missing = || Error::machine(format!("`{}` is not installed", program.name)).hint(program.install);
        found.ok_or_else(missing)
    }
}
