//! Runs all checks of the doctor in parallel and collects their findings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::{RepoSource, Settings};
use agent_fs::untrusted;
use agent_process::credentials::CredentialSources;
use agent_process::{Environment, Interrupt, Redactor, Runner, User, shared_memory};
use agent_types::error::Result;
use agent_types::events;
use agent_types::release::Release;
use agent_types::stage::Stage;
use agent_yocto::conf_syntax::Variables;
use agent_yocto::layer_conf::certain_words;

use super::check_programs::Installed;
use super::finding::{Finding, Findings};
use super::{check_programs, credentials, isolation, machine, sources, tools, user, workdir};
use agent_process::Prober;

/// What the machine is checked for.
#[derive(Clone, Debug)]
pub struct Subject {
    pub release: &'static Release,
    /// The work directory. It need not exist.
    pub work: PathBuf,
    /// The checkout under test and its layers; `None` without a manifest.
    pub checkout: Option<(PathBuf, Vec<PathBuf>)>,
    /// Name and URL of each git repo.
    pub sources: Vec<(String, Url)>,
    /// Programs that the manifest and its layers need in addition to those of the release.
    pub programs: Vec<String>,
    /// Whether buildtools of the manifest come before the programs of the machine.
    pub has_buildtools: bool,
    /// Programs of `[check]`.
    pub check_programs: Vec<Installed>,
    /// Whether targets are built. A check alone needs less space and memory.
    pub builds: bool,
}

impl Subject {
    /// The subject without a manifest: any build of the release.
    pub fn of_release(release: &'static Release, work: PathBuf) -> Subject {
        Subject {
            release,
            work,
            checkout: None,
            sources: Vec::new(),
            programs: Vec::new(),
            has_buildtools: false,
            check_programs: Vec::new(),
            builds: true,
        }
    }
}

impl From<&Settings> for Subject {
    fn from(settings: &Settings) -> Subject {
        let mut sources: Vec<(String, Url)> = Vec::new();
        for repo in &settings.repos {
            // Several repos may share one URL: ask its server once.
            if let RepoSource::Git(git) = &repo.source
                && sources.iter().all(|(_, url)| *url != git.url)
            {
                sources.push((repo.name.clone(), git.url.clone()));
            }
        }
        Subject {
            release: settings.release,
            work: settings.paths.work.clone(),
            checkout: Some((settings.checkout.clone(), settings.layers.clone())),
            sources,
            programs: programs(settings),
            has_buildtools: settings.buildtools.is_some(),
            check_programs: settings
                .check_programs()
                .into_iter()
                .map(|program| (program, settings.find_program(program).ok()))
                .collect(),
            builds: settings.build.changed || !settings.build.targets.is_empty(),
        }
    }
}

/// Collects `HOSTTOOLS` of the manifest's configuration and of the layers under test, and the programs that
/// testimage adds (`bitbake.conf` of OE-Core). Values that only BitBake can evaluate are skipped.
fn programs(settings: &Settings) -> Vec<String> {
    const OF_TESTIMAGE: [&str; 6] = ["ip", "ping", "ps", "scp", "ssh", "stty"];
    let local = Variables::parse(&settings.config.local_conf);
    let confs = settings.layers.iter().filter_map(|layer| {
        let file = layer.join("conf/layer.conf");
        Some(Variables::parse(&untrusted::read_text(&file, untrusted::PAGE).ok()?))
    });
    let words = |variables: &Variables, name: &str| -> Vec<String> {
        variables.value(name).as_ref().map(certain_words).unwrap_or_default()
    };
    let mut programs: Vec<String> = words(&local, "HOSTTOOLS");
    programs.extend(confs.flat_map(|conf| words(&conf, "HOSTTOOLS")));
    let is_test = |word: &String| matches!(word.as_str(), "testimage" | "testsdk");
    if words(&local, "IMAGE_CLASSES").iter().any(is_test) {
        programs.extend(OF_TESTIMAGE.map(str::to_owned));
    }
    // Skip words that cannot be the name of a program.
    programs.retain(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+[".contains(c)));
    programs.sort();
    programs.dedup();
    programs
}

/// Everything that the doctor needs as input.
#[derive(Clone, Debug)]
pub struct DoctorInput {
    pub subject: Subject,
    /// Whether the agent is root and so drops to the build user.
    pub agent_is_root: bool,
    /// The user that would run layer code, or why there is none.
    pub build_user: Result<User>,
    /// `HOME` in the agent's own environment.
    pub home_variable: Option<PathBuf>,
    /// The places of credentials that the agent's environment names.
    pub credentials: CredentialSources,
    /// The environment of a job's child processes.
    pub environment: Environment,
    pub runner: Runner,
}

/// Makes a runner for the doctor's short commands: events are discarded, and the grace is short.
/// The commands' output goes to the directory `logs`.
pub fn runner(logs: PathBuf, interrupt: Interrupt, redactor: Redactor) -> Runner {
    let (events, mut listener) = events::channel();
    tokio::spawn(async move { while listener.recv().await.is_some() {} });
    Runner {
        stage: Stage::Configure,
        events,
        interrupt,
        redactor,
        logs,
        stall: Duration::from_secs(30),
        grace: Duration::from_secs(1),
        log_limit: agent_process::LOG_LIMIT,
        commands: Arc::default(),
    }
}

/// Checks the machine. Every check has a time limit; all together take 30 seconds at most.
pub async fn run_checks(input: &DoctorInput) -> Findings {
    let Subject { release, work, checkout, sources, programs, has_buildtools, check_programs, builds } =
        &input.subject;
    let prober =
        Prober { runner: input.runner.clone(), environment: input.environment.clone(), log: "doctor" };
    // Only root can switch to another user.
    let user = input.build_user.as_ref().ok().filter(|_| input.agent_is_root);
    let home = input.build_user.as_ref().map(|user| user.home.clone()).unwrap_or_default();
    let of_checkout = async {
        match checkout {
            Some((top, layers)) => {
                let facts = sources::gather(&prober, user, top, layers, sources).await;
                sources::judge(top, input.build_user.as_ref().ok(), &facts)
            }
            None => Vec::<Finding>::new(),
        }
    };
    let kept = checkout.iter().map(|(top, _)| top.clone()).chain([work.clone()]).collect();
    let (user_facts, tool_facts, can_run, workdir_facts, memory_facts, isolation_facts, access, of_checkout) = tokio::join!(
        user::gather(&prober, user, &home, input.home_variable.clone()),
        tools::gather(&prober, user, release, programs),
        check_programs::gather(&prober, user, check_programs),
        workdir::gather(&prober, work),
        shared_memory::look(&prober, user),
        isolation::gather(&prober, user),
        credentials::gather(&prober, user, &input.credentials, kept),
        of_checkout,
    );
    let mut findings = user::judge(input.agent_is_root, &input.build_user, &user_facts);
    findings.extend(tools::below(*has_buildtools, tools::judge(release, programs, &tool_facts)));
    findings.extend(check_programs::judge(check_programs, &can_run));
    findings.extend(workdir::judge(work, *builds, &workdir_facts));
    findings.push(match shared_memory::judge(&memory_facts) {
        None => Finding::ok("/dev/shm", "writable"),
        Some(unusable) => Finding::failed("/dev/shm", unusable.why, unusable.fix),
    });
    findings.extend(machine::judge(release, *builds, &machine::gather()));
    findings.push(isolation::judge(release, &isolation_facts));
    findings.push(credentials::judge(access));
    findings.extend(of_checkout);
    Findings::new(findings)
}

/// The checks that come before each job: what would end it late, or with words that name everything but the cause. They
/// ask no server, and take a fraction of a second. Only failures are returned, as an error of the machine.
pub async fn before_job(subject: &Subject, prober: &Prober, user: Option<&User>) -> Result<()> {
    let Subject { release, work, programs, has_buildtools, check_programs, builds, .. } = subject;
    let (memory_facts, workdir_facts, tool_facts, can_run) = tokio::join!(
        shared_memory::look(prober, user),
        workdir::gather(prober, work),
        tools::gather_presence(prober, user, release, programs),
        check_programs::gather(prober, user, check_programs),
    );
    if let Some(unusable) = shared_memory::judge(&memory_facts) {
        return Err(unusable.into());
    }
    let mut findings = workdir::judge(work, *builds, &workdir_facts);
    findings.extend(tools::below(*has_buildtools, tools::judge_installed(release, programs, &tool_facts)));
    findings.extend(check_programs::judge(check_programs, &can_run));
    Findings::new(findings).error().map_or(Ok(()), Err)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State;

    /// Runs the real scripts on this machine.
    #[tokio::test]
    async fn checks_run_on_this_machine() {
        let logs = tempfile::tempdir().unwrap();
        let work = tempfile::tempdir().unwrap();
        let mut environment = Environment::default();
        environment.set("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
        let release = Release::find("scarthgap").unwrap();
        let nowhere = work.path().join("not/made/yet");
        let checkout = work.path().to_path_buf();
        let gone = Url::from_file_path(work.path().join("gone.git")).unwrap();
        let input = DoctorInput {
            subject: Subject {
                checkout: Some((checkout.clone(), vec![checkout.clone(), checkout.join("no-layer")])),
                sources: vec![("gone".into(), gone)],
                ..Subject::of_release(release, nowhere)
            },
            agent_is_root: false,
            build_user: Ok(User { name: me.name, uid: me.uid.as_raw(), gid: me.gid.as_raw(), home: me.dir }),
            home_variable: None,
            credentials: CredentialSources::default(),
            environment,
            runner: runner(logs.path().into(), Interrupt::new(None), Redactor::default()),
        };
        let Findings(findings) = run_checks(&input).await;
        let state = |name: &str| findings.iter().find(|f| f.name == name).map(|f| f.state);
        // These findings are the same on every machine.
        assert_eq!(state("git checkout"), Some(State::Warning), "{findings:#?}");
        assert_eq!(state("layers"), Some(State::Failed), "{findings:#?}");
        assert_eq!(state("remote gone"), Some(State::Failed), "{findings:#?}");
        assert!(state("/dev/shm").is_some() && state("credentials").is_some());
        assert!(state("disk space").is_some() && state("file system").is_some(), "{findings:#?}");
        assert!(state("python3").is_some() || state("host tools") == Some(State::Failed), "{findings:#?}");
        // The checks leave no files and do not create the work directory.
        assert_eq!(fs_err::read_dir(work.path()).unwrap().count(), 0);
        for finding in &findings {
            assert_eq!(finding.fix.is_some(), finding.state != State::Ok, "{finding:?}");
        }
    }
}
