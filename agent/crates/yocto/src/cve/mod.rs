//! The CVE check of recipes: how a release can do it, the configuration of BitBake for it, and its reports.
//!
//! Up to whinlatter, `cve-check.bbclass` compares each recipe with a prepared database. From wrynose on there is no such
//! class: `vex.bbclass` lists the product names, the version and the patches of each recipe, and the program
//! sbom-cve-check compares them with the database ([`sbom`]). The tasks of both classes read only metadata, and here
//! they fetch nothing: [`CLASS`] removes their dependency on the download of the database.

mod recipes;
mod report;
pub mod sbom;

use std::fmt::Write;
use std::path::Path;

use agent_fs::untrusted;
use agent_types::release::Release;

use crate::preflight::since;

pub use recipes::RecipeList;
pub use report::{Compared, Issue, Report, compare};

/// How a release can check its recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `cve-check.bbclass`
    CveCheck,
    /// `vex.bbclass` and the program sbom-cve-check.
    Vex,
}

/// The program of [`Method::Vex`].
pub const PROGRAM: &str = "sbom-cve-check";

/// Whether recipes of the release are checked by [`PROGRAM`].
pub fn needs_program(release: &Release) -> bool {
    since::since(release, since::NO_CVE_CHECK)
}

/// The name of [`CLASS`].
const CLASS_NAME: &str = "build-agent-cve";

/// A class that is inherited after the release's own.
const CLASS: &str = "# Written by build-agent: the database is prepared, and nothing is downloaded.\n\
                     do_cve_check[depends] = \"\"\n";

/// The directories of one check, all absolute.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Gets a directory `classes`.
    pub classes: &'a Path,
    /// Gets a file for each recipe.
    pub reports: &'a Path,
    /// The database of [`Method::CveCheck`]; a lock file is made beside it.
    pub database: &'a Path,
}

impl Method {
    /// What the release can do. `core`: OE-Core's `meta`.
    ///
    /// # Errors
    /// Why it cannot check at all.
    pub fn of(core: &Path) -> Result<Method, String> {
        let class =
            |name: &str| untrusted::read_text(&core.join("classes").join(name), untrusted::SOURCE).ok();
        match (class("cve-check.bbclass"), class("vex.bbclass")) {
            (Some(text), _) if text.contains("CVE_CHECK_RECIPE_FILE_JSON") => Ok(Method::CveCheck),
            (Some(_), None) => {
                Err("the cve-check.bbclass of this release fetches the sources and writes no JSON".into())
            }
            (_, Some(_)) => Ok(Method::Vex),
            (None, None) => Err("its OE-Core has neither cve-check.bbclass nor vex.bbclass".into()),
        }
    }

    /// The task that writes the report of a recipe.
    pub fn task(self) -> &'static str {
        match self {
            Method::CveCheck => "cve_check",
            Method::Vex => "generate_vex",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Method::CveCheck => "cve-check",
            Method::Vex => "vex",
        }
    }

    /// The text of `conf/auto.conf`, which BitBake reads before `local.conf`.
    pub fn conf(self, places: &Places) -> String {
        let (classes, reports) = (places.classes.display(), places.reports.display());
        let mut text = format!(
            "# Written by build-agent for the CVE check.\n\
             BBPATH .= \":{classes}\"\n\
             INHERIT += \"{} {CLASS_NAME}\"\n\
             CVE_CHECK_DIR = \"{reports}\"\n\
             CVE_CHECK_RECIPE_FILE_JSON = \"{reports}/${{PN}}_cve.json\"\n",
            self.class()
        );
        if self == Method::CveCheck {
            let database = places.database.display();
            let _ = write!(
                text,
                "CVE_CHECK_DB_FILE = \"{database}\"\n\
                 CVE_CHECK_FORMAT_JSON = \"1\"\n\
                 CVE_CHECK_FORMAT_TEXT = \"0\"\n\
                 CVE_CHECK_COPY_FILES = \"1\"\n\
                 CVE_CHECK_COVERAGE = \"1\"\n\
                 CVE_CHECK_REPORT_PATCHED = \"1\"\n\
                 CVE_CHECK_CREATE_MANIFEST = \"0\"\n\
                 CVE_CHECK_SHOW_WARNINGS = \"0\"\n"
            );
        }
        text
    }
}

/// The class file, relative to [`Places::classes`], and its text.
pub fn class_file() -> (String, &'static str) {
    (format!("classes/{CLASS_NAME}.bbclass"), CLASS)
}

/// The name of a recipe's report in [`Places::reports`].
pub fn report_name(recipe: &str) -> String {
    format!("{recipe}_cve.json")
}

/// Whether these first bytes of a file are those of a database of [`Method::CveCheck`].
pub fn is_database(head: &[u8]) -> bool {
    head.starts_with(b"SQLite format 3\0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_of_the_release_decide_how_it_checks() {
        const JSON: &str = "CVE_CHECK_RECIPE_FILE_JSON ?= \"x\"";
        for (classes, wanted) in [
            // kirkstone
            (&[("cve-check", JSON)][..], Ok(Method::CveCheck)),
            // scarthgap to whinlatter
            (&[("cve-check", JSON), ("vex", "x")], Ok(Method::CveCheck)),
            // wrynose
            (&[("vex", "x")], Ok(Method::Vex)),
            // hardknott
            (&[("cve-check", "x")], Err("fetches the sources")),
            (&[], Err("neither")),
        ] {
            let core = tempfile::tempdir().unwrap();
            fs_err::create_dir(core.path().join("classes")).unwrap();
            for (name, text) in classes {
                fs_err::write(core.path().join(format!("classes/{name}.bbclass")), text).unwrap();
            }
            match (Method::of(core.path()), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{classes:?}"),
                (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
                (found, wanted) => panic!("{classes:?}: {found:?} and not {wanted:?}"),
            }
        }
    }

    #[test]
    fn the_configuration_has_the_prepared_database_and_no_download() {
        let places = Places {
            classes: Path::new("/w/cve/class"),
            reports: Path::new("/w/cve/reports"),
            database: Path::new("/w/cve/database.db"),
        };
        let conf = Method::CveCheck.conf(&places);
        for line in [
            "INHERIT += \"cve-check build-agent-cve\"\n",
            "BBPATH .= \":/w/cve/class\"\n",
            "CVE_CHECK_DB_FILE = \"/w/cve/database.db\"\n",
            "CVE_CHECK_RECIPE_FILE_JSON = \"/w/cve/reports/${PN}_cve.json\"\n",
        ] {
            assert!(conf.contains(line), "{line} is not in {conf}");
        }
        assert!(class_file().1.contains("do_cve_check[depends] = \"\"\n"));
        let vex = Method::Vex.conf(&places);
        assert!(vex.contains("INHERIT += \"vex build-agent-cve\"\n") && !vex.contains("DB_FILE"), "{vex}");
    }

    #[test]
    fn only_an_sqlite_file_is_a_database() {
        assert!(is_database(b"SQLite format 3\0\x10\0"));
        assert!(!is_database(b"SQLite") && !is_database(b"<html>"));
    }
}
