//! Reads manifest, flags, lock and known failures, and makes [`Settings`] of them, or reports all problems.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agent_fs::untrusted;
use agent_types::base_result::FailOn;
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::job_id::JobId;
use agent_types::release::Release;
use agent_types::secrets;
use agent_types::tiers::Trust;
use agent_yocto::layer_conf::LayerConf;
use agent_yocto::path_rules::{self, PatternFault};
use url::Url;

use super::environment::AgentEnvironment;
use super::github_actions::GitHubActions;
use super::manifest::UnvalidatedManifest;
use super::paths::{self, ProjectRoot};
use super::problem::{Diagnostic, KeyPath, Problems};
use super::repos::{self, Repos, Surroundings};
use super::reproduction::reproduction;
use super::request::{OnlyLayers, Request};
use super::rules::Rules;
use super::rules_report::{self, RulesReport};
use super::settings::{
    Artifacts, Build, BuildConfig, Check, CheckScope, Destination, DeviceTests, KnownFailure, LayerOrder,
    Repo, RepoSource, Report, ResultPlace, Secret, Settings, Test,
};
use super::trust::{self, TrustInputs};
use super::validate::{self, Sections};
use super::validator::Validator;
use super::whole_manifest::{self, Loaded, Whole};
use super::{known_failures, lock_file, shared, structure};

/// Loads the settings of a job. `cwd` is the current directory, `now` the current time.
///
/// # Errors
/// Usage, with all problems of the input; machine, if a directory that this machine should have does not
/// exist.
pub fn load(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    now: SystemTime,
) -> Result<Loaded<Settings>> {
    match load_or_problems(request, env, cwd, now)? {
        Loaded::Needs(repos) => Ok(Loaded::Needs(repos)),
        Loaded::Ready(Ok(settings)) => Ok(Loaded::Ready(settings)),
        Loaded::Ready(Err(problems)) => Err(refused(problems, &request.rules)),
    }
}

/// The error for problems of the input.
pub fn refused(problems: Problems, rules: &Rules) -> Error {
    let error = Error::from(problems);
    match rules {
        Rules::OfBase(base) => error.hint(format!("these files are those of the base {}", base.shown())),
        Rules::OfCheckout | Rules::NoBase { .. } => error,
    }
}

/// Loads the settings of a job, or finds all problems of the input.
///
/// # Errors
/// As [`load`], except for problems.
pub fn load_or_problems(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    now: SystemTime,
) -> Result<Loaded<std::result::Result<Settings, Problems>>> {
    let project_root = paths::find(request, env, cwd)?;
    let mut problems = Problems::default();
    let whole = match whole_manifest::read(request, env, cwd, &project_root, &mut problems)? {
        Some(Loaded::Needs(repos)) => return Ok(Loaded::Needs(repos)),
        Some(Loaded::Ready(whole)) => Some(whole),
        None => None,
    };
    let read =
        whole.as_ref().and_then(|whole| read(whole, request, env, cwd, &project_root, now, &mut problems));
    if !problems.is_empty() {
        return Ok(Loaded::Ready(Err(problems)));
    }
    // Without a problem, the manifest was read.
    let nothing = || Error::internal("the manifest was not read, and nothing says why");
    let (whole, read) = whole.zip(read).ok_or_else(nothing)?;
    settings(read, &whole.text, request, env, cwd, project_root, now)
        .map(|settings| Loaded::Ready(Ok(settings)))
}

/// All inputs for the trust in the source.
pub(super) fn evidence<'a>(request: &Request, env: &'a AgentEnvironment) -> TrustInputs<'a> {
    let (codebuild, branches) = (env.codebuild.as_ref(), env.trusted_branches.as_deref());
    TrustInputs { codebuild, github: env.github_actions.as_ref(), branches, trusted_flag: request.trusted }
}

/// Whether the source is trusted; known before any of its files is read.
pub fn is_trusted(request: &Request, env: &AgentEnvironment) -> bool {
    // Errors in it are reported when the manifest is read.
    trust::judge(&evidence(request, env)).is_ok_and(|judged| judged.trust.is_trusted())
}

/// The trust in the source of this build without `--trusted`. Needs no manifest.
///
/// # Errors
/// Usage, when the variable of the trusted branches is not a regular expression.
pub fn source_trust(env: &AgentEnvironment) -> Result<Trust> {
    Ok(trust::judge(&evidence(&Request::default(), env))?.trust)
}

/// The directory whose commit decides about the trust, where the service resolved one and the source may be trusted.
pub fn commit_to_confirm(env: &AgentEnvironment) -> Option<&Path> {
    let decides = trust::depends_on_commit(&evidence(&Request::default(), env));
    env.source_dir().map(|(_, directory)| directory).filter(|_| decides)
}

/// Everything that was read, independent of paths on this machine.
struct Read {
    release: &'static Release,
    repos: Repos,
    sections: Sections,
    yocto_check_layer: bool,
    tries_templates: bool,
    scopes: Scopes,
    known_failures: Vec<KnownFailure>,
    rules: RulesReport,
}

/// What the checks of `[check]` look at.
struct Scopes {
    oelint: CheckScope,
    patches: CheckScope,
    cve: CheckScope,
}

fn read(
    whole: &Whole,
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    project_root: &ProjectRoot,
    now: SystemTime,
    problems: &mut Problems,
) -> Option<Read> {
    let tree = &whole.tree;
    let (raw, meant): (UnvalidatedManifest, _) = structure::read(tree, problems);
    let mut check = Validator { tree, problems, meant };
    let around = Surroundings { project_root, cwd, codebuild: env.codebuild.as_ref() };
    let mut repos = repos::validate(&mut check, &raw, &around);
    for (name, text) in &whole.texts {
        repos.secrets.extend(secrets_in(text, name, &repos.secrets));
    }
    let sections = validate::validate(&mut check, &raw, project_root, cwd);
    let known_failures = read_known_failures(&sections, project_root, now, &mut check);
    if !request.ignore_lock {
        lock_file::apply(request, project_root, tree, &mut repos, problems);
    }
    whole_manifest::pin_included(&whole.repos, tree, &mut repos, problems);
    let named = whole.local.iter().chain(&sections.known_failures).map(PathBuf::as_path);
    let named: Vec<_> = named.collect();
    let rules = rules_report::report(project_root, &named);
    Some(Read {
        release: Release::find(raw.release.as_deref()?)?,
        repos,
        sections,
        yocto_check_layer: raw.check.yocto_check_layer.unwrap_or(true),
        tries_templates: raw.check.templateconf.unwrap_or(true),
        scopes: Scopes {
            oelint: raw.check.oelint.unwrap_or_default(),
            patches: raw.check.patches.unwrap_or_default(),
            cve: raw.check.cve.unwrap_or_default(),
        },
        known_failures,
        rules,
    })
}

/// Values anywhere in the manifest that look like secrets; `local_conf` may contain URLs, too.
fn secrets_in(bytes: &[u8], name: &str, known: &[Secret]) -> Vec<Secret> {
    let found = secrets::values(&String::from_utf8_lossy(bytes)).into_iter();
    let is_new = |value: &String| value.len() >= 8 && !known.iter().any(|known| known.value == *value);
    found.filter(is_new).map(|value| Secret { origin: name.to_owned(), value }).collect()
}

fn read_known_failures(
    sections: &Sections,
    project_root: &ProjectRoot,
    now: SystemTime,
    check: &mut Validator,
) -> Vec<KnownFailure> {
    let Some(file) = &sections.known_failures else { return Vec::new() };
    match untrusted::read_named(&project_root.rules_file(file), untrusted::PAGE) {
        Ok(bytes) => {
            let name = lock_file::beside(project_root, file);
            known_failures::read(&name, &bytes, &day(now), check.problems)
        }
        Err(error) => {
            check.value(
                &KeyPath::root().key("check").key("known_failures"),
                Diagnostic::new(error.to_string()),
            );
            Vec::new()
        }
    }
}

fn settings(
    read: Read,
    manifest: &[u8],
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    project_root: ProjectRoot,
    now: SystemTime,
) -> Result<Settings> {
    let Read { release, repos, sections, yocto_check_layer, tries_templates, scopes, known_failures, rules } =
        read;
    let Repos { repos, priorities, secrets, notices } = repos;
    let paths = paths::resolve(request, env, cwd, &sections.name, release)?;
    let only = request.layers.as_ref();
    let layers = only.map_or(sections.layers, |only| only.layers.clone());
    paths::check_fits(&paths, &layers)?;
    core_is_usable(&project_root.checkout, &repos)?;
    let patterns = patterns(&layers, &repos)?;
    let distro = sections.distro.unwrap_or_else(|| default_distro(&repos).to_owned());
    let codebuild = env.codebuild.as_ref();
    let trust::Judgement { trust, lost } = trust::judge(&evidence(request, env))?;
    let hooks = if only.is_some() { Vec::new() } else { sections.hooks };
    let hooks_closed = hooks_closed(request, &project_root, &trust).filter(|_| !hooks.is_empty());
    let device = sections.device.filter(|_| only.is_none());
    let device = device
        .map(|device| device.routed(trust.is_trusted(), env.publishes_device_files, rules.closed.as_deref()));
    let artifact_rules = if only.is_some() || rules.closed.is_some() {
        Vec::new()
    } else {
        let of_device = device.iter().flat_map(DeviceTests::artifact_rules);
        sections.rules.into_iter().chain(of_device).collect()
    };
    let lock = lock_file::lock_file(&project_root);
    let reproduction = reproduction(request, env, &project_root, &trust, manifest, lock.as_deref());
    let (cache, cache_notices) =
        shared::cache(&sections.cache, trust, env.source_commit(), &paths, release.name);
    let destination = sections.destination.as_ref().filter(|_| only.is_none());
    let (kms_key_id, may_publish) = (sections.kms_key_id.as_deref(), rules.closed.is_none());
    let place = ResultPlace::of(&cache, destination, kms_key_id, may_publish, sections.report_url.as_deref());
    // A change whose base is not known must not choose what counts.
    let fail_on = if may_publish { sections.fail_on } else { FailOn::All };
    let report = Report { fail_on, place };
    let job = JobIdentity {
        id: JobId::new(now),
        name: sections.name,
        release: release.name.to_owned(),
        machines: sections.machines.clone(),
        cell: request.cell.clone(),
        commit: None,
        tree: None,
        dirty: false,
        build: build_name(env, now),
        codebuild: codebuild.and_then(|build| build.build_id.clone()),
        layer: project_root.checkout.clone(),
        manifest: project_root.manifest_name.clone(),
        reproduce: reproduce(request, &project_root, only),
        url: page(env).map(|url| url.to_string()),
    };
    let is_trusted = cache.trust.is_trusted();
    let recipe_notice = (!env.recipe_credentials.is_empty()).then(|| match is_trusted {
        true => "layer code gets the credentials of BUILD_AGENT_RECIPE_CREDENTIALS".to_owned(),
        false => "the source is not trusted, so recipes get no credentials".to_owned(),
    });
    let tries_templates = tries_templates && sections.templateconf.is_some() && only.is_none();
    Ok(Settings {
        release,
        job,
        checkout: project_root.checkout,
        layers,
        repos,
        completes_repos: only.is_some_and(|only| only.built_in.is_some()),
        config: BuildConfig {
            machines: sections.machines,
            distro,
            local_conf: sections.local_conf,
            bblayers_conf: sections.bblayers_conf,
            multiconfigs: sections.multiconfigs,
            env: sections.env,
            local_conf_first: request.definition.is_some(),
        },
        layer_order: LayerOrder { priorities, ..sections.layer_order },
        templateconf: sections.templateconf,
        buildtools: sections.buildtools,
        check: Check {
            bitbake_layers: sections.bitbake_layers,
            yocto_check_layer: yocto_check_layer || request.check_layers || only.is_some(),
            machines: sections.check_machines,
            max_parallel_bitbakes: sections.max_parallel_bitbakes,
            known_failures,
            templateconf: tries_templates,
            parse_machines: sections.parse_machines,
            oelint: scopes.oelint,
            patches: scopes.patches,
            cve: scopes.cve,
            cve_database: sections.cve_database,
            // A failure that was there before must not hide a new one.
            keep_going: request.keep_going || !fail_on.is_all(),
            signature_cache: !request.no_signature_cache,
            prefetch: !request.no_prefetch,
            write_signatures: request.write_signatures,
        },
        build: Build {
            targets: if only.is_some() { Vec::new() } else { sections.targets },
            fetch_only: request.fetch_only,
            changed: sections.changed && only.is_none() && !request.fetch_only,
            reverse_dependencies: sections.reverse_dependencies,
            fresh: request.fresh.unwrap_or(env.ci),
            keeps_workspace: !env.ci,
        },
        test: if only.is_some() { Test::default() } else { sections.test },
        device,
        change_base: request.change_base.clone(),
        has_rules_of_base: matches!(project_root.rules, Rules::OfBase(_)),
        cache,
        artifacts: Artifacts {
            destination: sections.destination.unwrap_or_else(|| Destination::Directory(paths.out.clone())),
            rules: artifact_rules,
            kms_key_id: sections.kms_key_id,
        },
        report,
        github: sections.github,
        limits: sections.limits,
        cost: sections.cost,
        reproduction,
        hooks,
        hooks_closed: hooks_closed.as_ref().map(|(why, _)| why.clone()),
        paths,
        build_user: request.build_user.clone(),
        machine_share: request.machine_share.max(1),
        program_path: env.path.clone(),
        network: env.network.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        git_mirrors: git_mirrors(env),
        recipe_credentials: if is_trusted { env.recipe_credentials.clone() } else { Vec::new() },
        secrets: env.secrets().iter().cloned().chain(secrets).collect(),
        notices: [
            request.notices.clone(),
            env.notices.clone(),
            notices,
            cache_notices,
            patterns,
            rules.notices,
            recipe_notice.into_iter().collect(),
        ]
        .concat(),
        warnings: lost
            .map(|lost| (format!("the source is not trusted: {}", lost.why), lost.hint.to_owned()))
            .into_iter()
            .chain(rules.warnings)
            .chain(hooks_closed.map(|(why, hint)| (format!("no hook runs: {why}"), hint)))
            .collect(),
        artifacts_closed: rules.closed.clone(),
    })
}

fn git_mirrors(env: &AgentEnvironment) -> Vec<(Url, Url)> {
    let mirrors = env.git_sites.mirrors.iter();
    mirrors.filter_map(|mirror| Some((Url::parse(&mirror.from).ok()?, mirror.to.clone()))).collect()
}

/// Why the manifest's hooks do not run, and what to do: hooks of an untrusted source are not trusted either. A manifest
/// from elsewhere or from the base is not the source's.
fn hooks_closed(request: &Request, project_root: &ProjectRoot, trust: &Trust) -> Option<(String, String)> {
    let may_run = matches!(project_root.rules, Rules::OfBase(_))
        || request.manifest_text.is_some()
        || request.accept_manifest
        || trust.is_trusted();
    let hint =
        "once the base branch has the hooks, they run; by hand: --trusted, --base REF or --accept-manifest";
    (!may_run).then(|| ("the source is not trusted, and the hooks are its own".to_owned(), hint.to_owned()))
}

/// Problems of layers whose `BBFILE_PATTERN` does not match their path; notices, if BitBake continues anyway.
fn patterns(layers: &[PathBuf], repos: &[Repo]) -> Result<Vec<String>> {
    let of_repos = repos.iter().flat_map(|repo| {
        let path = match &repo.source {
            RepoSource::Path(path) => Some(path),
            RepoSource::Git(_) => None,
        };
        path.into_iter().flat_map(|path| repo.layers.iter().map(move |layer| path.join(layer)))
    });
    let mut notices = Vec::new();
    for layer in layers.iter().cloned().chain(of_repos) {
        // Unreadable files are reported by the code that needs them.
        let Ok(conf) = LayerConf::read(&layer) else { continue };
        let shown = layer.display();
        match path_rules::pattern_fault(&layer, &conf) {
            None => {}
            Some(PatternFault::MatchesNothing(variable)) => notices.push(format!(
                "{variable} in {shown}/conf/layer.conf takes the layer's path for a regular expression, which then matches \
                 no recipe of the layer: write ${{LAYERDIR_RE}} instead of ${{LAYERDIR}}, or move the layer"
            )),
            Some(PatternFault::NoExpression(variable)) => {
                let message = format!(
                    "{variable} in {shown}/conf/layer.conf takes the layer's path for a regular expression, which it is not: \
                     BitBake would refuse it"
                );
                let hint = "write ${LAYERDIR_RE} instead of ${LAYERDIR} in it, or move the layer";
                return Err(Error::usage(message).hint(hint));
            }
        }
    }
    Ok(notices)
}

/// Validates the path of OE-Core if the checkout under test contains it and no repo does. For repositories of
/// a server, the checkout stage does this.
fn core_is_usable(checkout: &Path, repos: &[Repo]) -> Result<()> {
    let holds_core = |directory: &Path| directory.join("oe-init-build-env").is_file();
    let by_a_repo = |repo: &Repo| match &repo.source {
        RepoSource::Git(_) => true,
        RepoSource::Path(path) => holds_core(path),
    };
    if !holds_core(checkout) || repos.iter().any(by_a_repo) {
        return Ok(());
    }
    path_rules::usable_core(checkout)
}

/// poky's own distro if its distro layer is present, else OE-Core's default.
fn default_distro(repos: &[Repo]) -> &'static str {
    let is_meta_poky = |layer: &PathBuf| layer.ends_with("meta-poky");
    let has_meta_poky = repos.iter().any(|repo| repo.layers.iter().any(is_meta_poky));
    if has_meta_poky { "poky" } else { "nodistro" }
}

fn reproduce(request: &Request, project_root: &ProjectRoot, only: Option<&OnlyLayers>) -> Vec<String> {
    if let Some(built_in) = only.and_then(|only| only.built_in.as_ref()) {
        return [built_in.as_slice(), &request.options].concat();
    }
    let mut command = vec!["build-agent".to_owned(), "run".to_owned(), project_root.manifest_name.clone()];
    let sha256 = request.manifest_sha256.iter();
    command.extend(sha256.flat_map(|sha256| ["--manifest-sha256".to_owned(), sha256.clone()]));
    command.extend(request.cell.iter().flat_map(|cell| ["--cell".to_owned(), cell.clone()]));
    command.extend(request.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    command.extend(request.options.iter().cloned());
    command
}

/// `2026-01-02`, in UTC.
fn day(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string().chars().take(10).collect()
}

/// Distinguishes builds of one commit: the service's number, or a time.
fn build_name(env: &AgentEnvironment, now: SystemTime) -> String {
    let number = env.codebuild.as_ref().and_then(|build| build.build_number);
    let run = env.github_actions.as_ref().and_then(|run| Some((run.run_id?, run.run_attempt.unwrap_or(1))));
    match (number, run) {
        // On GitHub's runner in CodeBuild, each job is a build of its own.
        (Some(number), _) => number.to_string(),
        // The jobs of a matrix have the same run and attempt.
        (None, Some((run, attempt))) => format!("{run}-{attempt}-{:08x}", chance(now)),
        (None, None) => build_id(now),
    }
}

/// The service's page of this build.
fn page(env: &AgentEnvironment) -> Option<Url> {
    let by_codebuild = || env.codebuild.as_ref()?.public_url.clone();
    env.github_actions.as_ref().and_then(GitHubActions::url).or_else(by_codebuild)
}

/// `20260102T030405Z-0f5d7e0c`: sorts by time, and differs for two builds in one second.
pub fn build_id(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    format!("{time}-{:08x}", chance(now))
}

fn chance(now: SystemTime) -> u32 {
    // Seeded in each process and for each state: <https://doc.rust-lang.org/std/hash/struct.RandomState.html>.
    let mut chance = RandomState::new().build_hasher();
    chance.write_u32(std::process::id());
    chance.write_u32(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos());
    chance.finish() as u32
}
