//! Checks that the host programs of a release are installed and recent enough.

use std::collections::BTreeSet;

use agent_process::User;
use agent_types::release::Release;

use super::finding::{Finding, State};
use super::packages::{MINIMA, Minimum, age, wanted};
use agent_process::{Answer, PROBE_LIMIT, Prober};

/// Up to honister, the sanity checks import `distutils`, which Python 3.12 removed.
const LAST_WITH_DISTUTILS: &str = "honister";
const FIRST_PYTHON_WITHOUT: &str = "3.12";

#[derive(Clone, Debug)]
pub struct ToolFacts {
    /// Lines `missing PROGRAM`: looked up in the job's PATH as the build user.
    pub present: Answer,
    /// Lines `PROGRAM FIRST-LINE-OF---version`.
    pub versions: Answer,
    /// Whether Perl has its modules: Debian's `perl-base` does not have them.
    pub perl: Answer,
}

/// Looks programs up as BitBake does: executable files in PATH, never shell built-ins.
const PRESENT: &str = r#"
for program do
  found=
  IFS=:
  for directory in $PATH; do
    if [ -f "$directory/$program" ] && [ -x "$directory/$program" ]; then found=1; break; fi
  done
  [ "$found" ] || echo "missing $program"
done
"#;

const VERSIONS: &str = r#"
for program do
  printf '%s ' "$program"
  { "$program" --version 2>&1 </dev/null || echo; } | head -n 1
done
"#;

/// The modules that OE-Core's sanity check requires.
const PERL: &str = "use Text::ParseWords; use Thread::Queue; use Data::Dumper; use File::Compare; \
                    use File::Copy; use FindBin;";

/// `named`: additional programs of the manifest.
pub async fn gather(prober: &Prober, user: Option<&User>, release: &Release, named: &[String]) -> ToolFacts {
    let programs = programs(release, named);
    let aged: Vec<&str> = MINIMA.iter().map(|minimum| minimum.program).collect();
    let (present, versions, perl) = tokio::join!(
        prober.script("tools", PRESENT, &programs, user),
        prober.script("versions", VERSIONS, &aged, user),
        prober.ask("perl", &["perl", "-e", PERL], user, &prober.environment, PROBE_LIMIT),
    );
    ToolFacts { present, versions, perl }
}

/// The same without their versions.
pub async fn gather_presence(
    prober: &Prober,
    user: Option<&User>,
    release: &Release,
    named: &[String],
) -> ToolFacts {
    let programs = programs(release, named);
    let (present, perl) = tokio::join!(
        prober.script("tools", PRESENT, &programs, user),
        prober.ask("perl", &["perl", "-e", PERL], user, &prober.environment, PROBE_LIMIT),
    );
    ToolFacts { present, versions: Answer::Nothing("not asked".into()), perl }
}

fn programs<'a>(release: &Release, named: &'a [String]) -> Vec<&'a str> {
    let of_release = wanted(release).flat_map(|package| package.programs).copied();
    of_release.chain(named.iter().map(String::as_str)).collect()
}

/// Checks whether they are installed.
pub fn judge_installed(release: &Release, named: &[String], facts: &ToolFacts) -> Vec<Finding> {
    let missing = missing(&facts.present);
    let mut findings = judge_presence(release, facts, &missing);
    findings.extend(judge_named(named, &missing));
    findings
}

pub fn judge(release: &Release, named: &[String], facts: &ToolFacts) -> Vec<Finding> {
    let missing = missing(&facts.present);
    let mut findings = judge_installed(release, named, facts);
    let versions = facts.versions.lines().unwrap_or_default();
    for minimum in MINIMA.iter().filter(|minimum| !missing.contains(minimum.program)) {
        findings.extend(judge_age(release, minimum, versions));
    }
    findings
}

/// The same findings if buildtools may bring what the machine lacks: BitBake decides.
pub fn below(buildtools: bool, findings: Vec<Finding>) -> Vec<Finding> {
    let weaken = |finding: Finding| match finding.state {
        State::Failed if buildtools => {
            let found = format!("{} (unless the buildtools bring it)", finding.found);
            Finding { state: State::Warning, found, ..finding }
        }
        _ => finding,
    };
    findings.into_iter().map(weaken).collect()
}

fn missing(present: &Answer) -> BTreeSet<String> {
    let lines = present.lines().unwrap_or_default();
    lines.iter().filter_map(|line| line.strip_prefix("missing ")).map(str::to_owned).collect()
}

/// Checks the programs in `HOSTTOOLS` of the manifest or of a layer. BitBake stops when one is missing.
fn judge_named(named: &[String], missing: &BTreeSet<String>) -> Option<Finding> {
    let lacking: Vec<&str> =
        named.iter().map(String::as_str).filter(|name| missing.contains(*name)).collect();
    if lacking.is_empty() {
        return None;
    }
    let programs = lacking.join(", ");
    let found = format!("missing: {programs}");
    let fix = format!(
        "install {programs} (`apt-file search bin/{}` finds the package), or remove it from HOSTTOOLS",
        lacking[0]
    );
    Some(Finding::failed("host tools of the manifest", found, fix))
}

fn judge_presence(release: &Release, facts: &ToolFacts, missing: &BTreeSet<String>) -> Vec<Finding> {
    const NAME: &str = "host tools";
    if facts.present.lines().is_none() {
        let found = format!("cannot be checked: {}", facts.present.complaint());
        return vec![Finding::failed(NAME, found, "apt-get install -y coreutils dash")];
    }
    let count = wanted(release)
        .filter(|package| package.required)
        .map(|package| package.programs.len())
        .sum::<usize>();
    let mut findings = Vec::new();
    for required in [true, false] {
        let lacking = wanted(release).filter(|package| package.required == required);
        let (mut programs, mut packages) = (Vec::new(), BTreeSet::new());
        for package in lacking {
            for program in package.programs.iter().filter(|program| missing.contains(**program)) {
                programs.push(*program);
                packages.insert(package.name);
            }
        }
        let perl_lacks = required && !missing.contains("perl") && facts.perl.lines().is_none();
        if perl_lacks {
            programs.push("perl's modules");
            packages.insert("perl");
        }
        if programs.is_empty() {
            continue;
        }
        let packages = packages.into_iter().collect::<Vec<_>>().join(" ");
        let fix = format!("apt-get install -y {packages}");
        let programs = programs.join(", ");
        findings.push(match required {
            true => Finding::failed(NAME, format!("missing for {}: {programs}", release.name), fix),
            false => Finding::warning("host tools of some recipes", format!("missing: {programs}"), fix),
        });
    }
    if findings.iter().all(|finding| finding.name != NAME) {
        let found = format!("all {count} programs that {} needs are installed", release.name);
        findings.insert(0, Finding::ok(NAME, found));
    }
    findings
}

fn judge_age(release: &Release, minimum: &Minimum, versions: &[String]) -> Option<Finding> {
    let program = minimum.program;
    let (_, least) = minimum.versions.iter().find(|(from, _)| age(release.name) >= age(from))?;
    let line = versions.iter().find_map(|line| line.strip_prefix(program)?.strip_prefix(' '));
    let Some(version) = line.and_then(version_in) else {
        let found = format!("`{program} --version` prints no version; {least} or later is needed");
        return Some(Finding::warning(program, found, format!("apt-get install -y --reinstall {program}")));
    };
    let too_new = program == "python3"
        && age(release.name) <= age(LAST_WITH_DISTUTILS)
        && !is_older(&version, FIRST_PYTHON_WITHOUT);
    if is_older(&version, least) {
        let found = format!("{version} is too old for {}, which needs {least} or later", release.name);
        let fix =
            "use a newer distribution as the image's base, or name buildtools in the manifest: [buildtools]";
        Some(Finding::failed(program, found, fix))
    } else if too_new {
        let found = format!(
            "{version} is too new for {}, which imports distutils; {FIRST_PYTHON_WITHOUT} removed it",
            release.name
        );
        Some(Finding::failed(
            program,
            found,
            "use an image with an older Python, e.g. debian:11 or ubuntu:20.04",
        ))
    } else {
        Some(Finding::ok(program, format!("{version} (needed: {least} or later)")))
    }
}

/// Takes the first word of a `--version` line that looks like a version. A distribution's package version in
/// brackets before it has the same numbers.
fn version_in(line: &str) -> Option<String> {
    line.split_whitespace()
        .map(|word| word.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default())
        .map(|version| version.trim_matches('.'))
        .find(|version| version.contains('.'))
        .map(str::to_owned)
}

/// Compares dotted versions as numbers. A missing part counts as 0.
fn is_older(version: &str, least: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|n| n.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>();
    let (mut version, mut least) = (numbers(version), numbers(least));
    let length = version.len().max(least.len());
    version.resize(length, 0);
    least.resize(length, 0);
    version < least
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State::{Failed, Ok as Fine, Warning};

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|&line| line.to_owned()).collect() }
    }

    fn release(name: &str) -> &'static Release {
        Release::find(name).unwrap()
    }

    #[test]
    fn fix_installs_all_missing_packages_with_one_command() {
        let all = ToolFacts { present: said(&[]), versions: said(&[]), perl: said(&[]) };
        assert_eq!(judge_presence(release("scarthgap"), &all, &BTreeSet::new())[0].state, Fine);

        let facts = ToolFacts {
            present: said(&["missing lz4c", "missing zstd", "missing pzstd", "missing unzip"]),
            perl: Answer::Said { ok: false, lines: vec!["Can't locate Thread/Queue.pm".into()] },
            ..all
        };
        let findings = judge_presence(release("scarthgap"), &facts, &missing(&facts.present));
        assert_eq!(findings[0].state, Failed);
        assert_eq!(findings[0].fix.as_deref(), Some("apt-get install -y lz4 perl zstd"));
        assert_eq!(findings[1].state, Warning);
        assert_eq!(findings[1].fix.as_deref(), Some("apt-get install -y unzip"));
    }

    #[test]
    fn unanswered_probe_is_never_ok() {
        let silent = || Answer::Nothing("no answer".into());
        let facts = ToolFacts { present: silent(), versions: silent(), perl: silent() };
        let findings = judge(release("scarthgap"), &[], &facts);
        assert!(findings.iter().all(|finding| finding.state != Fine), "{findings:?}");
    }

    #[test]
    fn rejects_missing_program_of_the_manifest() {
        let named = ["flex".to_owned(), "bison".to_owned()];
        assert_eq!(judge_named(&named, &BTreeSet::new()), None);
        let finding = judge_named(&named, &BTreeSet::from(["bison".to_owned(), "zstd".to_owned()])).unwrap();
        assert_eq!((finding.state, finding.found.as_str()), (Failed, "missing: bison"));
    }

    #[test]
    fn what_buildtools_may_bring_is_a_warning() {
        let findings = || vec![Finding::failed("gcc", "4.8 is too old", "x"), Finding::ok("git", "2.39")];
        assert_eq!(below(false, findings()), findings());
        let states: Vec<_> = below(true, findings()).into_iter().map(|finding| finding.state).collect();
        assert_eq!(states, [Warning, Fine]);
    }

    #[test]
    fn parses_version_from_real_version_lines() {
        let table = [
            ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "12.2.0"),
            ("git version 2.39.5 (Apple Git-154)", "2.39.5"),
            ("tar (GNU tar) 1.34", "1.34"),
            ("Python 3.11.2", "3.11.2"),
            ("Python 3.13.0rc1", "3.13.0"),
            ("GNU Make 4.3", "4.3"),
            ("GNU patch 2.7.6", "2.7.6"),
        ];
        for (line, version) in table {
            assert_eq!(version_in(line).as_deref(), Some(version), "{line}");
        }
        assert_eq!(version_in("sh: gcc: not found"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn compares_versions_as_numbers() {
        let table = [
            ("1.28", "1.28", false),
            ("1.9", "1.28", true),
            ("12.2.0", "8.0", false),
            ("8", "8.0", false),
            ("1.8.3", "1.8.3.1", true),
            ("3.10.1", "3.9", false),
        ];
        for (version, least, older) in table {
            assert_eq!(is_older(version, least), older, "{version} < {least}");
        }
    }

    #[test]
    fn version_limits_depend_on_the_release() {
        let table = [
            ("scarthgap", "python3", "Python 3.7.3", Failed),
            ("scarthgap", "python3", "Python 3.8.0", Fine),
            ("walnascar", "python3", "Python 3.8.0", Failed),
            ("dunfell", "python3", "Python 3.11.2", Fine),
            ("dunfell", "python3", "Python 3.12.1", Failed),
            ("kirkstone", "python3", "Python 3.12.1", Fine),
            ("scarthgap", "gcc", "gcc (X) 9.4.0", Fine),
            ("whinlatter", "gcc", "gcc (X) 9.4.0", Failed),
            ("scarthgap", "tar", "tar (GNU tar) 1.27", Failed),
            ("scarthgap", "tar", "bsdtar", Warning),
        ];
        for (name, program, line, state) in table {
            let minimum = MINIMA.iter().find(|minimum| minimum.program == program).unwrap();
            let finding = judge_age(release(name), minimum, &[format!("{program} {line}")]).unwrap();
            assert_eq!(finding.state, state, "{name}: {line}: {finding:?}");
        }
    }
}
