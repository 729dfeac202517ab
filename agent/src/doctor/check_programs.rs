//! Checks that the programs of `[check]` are installed, if the manifest asks for such a check.

use std::path::PathBuf;

use crate::config::CheckProgram;
use agent_process::{Answer, Prober, User};

use super::finding::Finding;

/// A program, and where it is installed.
pub type Installed = (CheckProgram, Option<PathBuf>);

/// Prints the paths that the user cannot run.
const RUNS: &str = r#"
for path do
  [ -x "$path" ] || echo "refused $path"
done
"#;

/// Asks whether the build user can run the programs.
pub async fn gather(prober: &Prober, user: Option<&User>, programs: &[Installed]) -> Answer {
    let paths: Vec<&str> =
        programs.iter().filter_map(|(_, path)| path.as_ref().and_then(|path| path.to_str())).collect();
    match paths.is_empty() {
        true => Answer::Nothing("not asked".into()),
        false => prober.script("check programs", RUNS, &paths, user).await,
    }
}

/// One finding for each program.
pub fn judge(programs: &[Installed], answer: &Answer) -> Vec<Finding> {
    let lines = answer.lines().unwrap_or_default();
    let of_program = |(program, path): &Installed| {
        let Some(path) = path else {
            return Finding::failed(program.name, "it is not installed", program.install);
        };
        let path = path.display();
        match lines.iter().any(|line| *line == format!("refused {path}")) {
            true => {
                let found = format!("the build user cannot run {path}");
                Finding::failed(program.name, found, program.install)
            }
            false => Finding::ok(program.name, path.to_string()),
        }
    };
    programs.iter().map(of_program).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{OELINT, SBOM_CVE_CHECK};
    use crate::doctor::State;

    #[test]
    fn only_a_program_that_the_build_user_can_run_is_ok() {
        let at = |path: &str| Some(PathBuf::from(path));
        let said = Answer::Said { ok: true, lines: vec!["refused /root/bin/sbom-cve-check".into()] };
        let programs =
            [(OELINT, at("/usr/bin/oelint-adv")), (SBOM_CVE_CHECK, at("/root/bin/sbom-cve-check"))];
        let findings = judge(&programs, &said);
        assert_eq!(findings[0].state, State::Ok);
        assert_eq!(findings[1].state, State::Failed);
        assert_eq!(findings[1].found, "the build user cannot run /root/bin/sbom-cve-check");
        let missing = judge(&[(OELINT, None)], &Answer::Nothing("not asked".into()));
        assert_eq!((missing[0].state, missing[0].fix.as_deref()), (State::Failed, Some(OELINT.install)));
        assert_eq!(judge(&[], &said), []);
    }
}
