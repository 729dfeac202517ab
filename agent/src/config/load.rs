//! Reads manifest, flags, lock and known failures, and makes [`Settings`] of them; or tells all that
//! is wrong.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::events::JobIdentity;
use crate::untrusted;
use crate::yocto::Release;

use super::checker::Checker;
use super::environment::AgentEnvironment;
use super::manifest::UnvalidatedManifest;
use super::places::{self, Ground};
use super::problem::{KeyPath, Mistake, Problems};
use super::repos::{self, Repos, Surroundings};
use super::settings::{Artifacts, Build, BuildConfig, Check, Destination, KnownFailure, Repo, Settings};
use super::tree::{self, Node};
use super::trust::{self, Evidence};
use super::validate::{self, Sections};
use super::{flags, known_failures, lock, shared, structure};

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A path; `None`: `build-agent.toml` of the checkout under test.
    pub manifest: Option<String>,
    /// Name and text of a manifest that was fetched from elsewhere.
    pub manifest_text: Option<(String, String)>,
    /// Its digest, lower-case hexadecimal.
    pub manifest_sha256: Option<String>,
    /// `--set`, in their order.
    pub set: Vec<String>,
    pub work_dir: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub build_user: Option<String>,
    pub keep_going: bool,
    /// `--trusted`: a person vouches for the source.
    pub trusted: bool,
    /// What there is to say about how the manifest was had.
    pub notices: Vec<String>,
    /// Whether the lock is left aside: while it is being made anew.
    pub ignore_lock: bool,
}

/// Everything that a job needs to know. `cwd` is the current directory, `now` the present time.
///
/// # Errors
/// Of class usage with all problems of the input at once; of class machine when a directory that
/// this machine should have is not there.
pub fn load(request: &Request, env: &AgentEnvironment, cwd: &Path, now: SystemTime) -> Result<Settings> {
    let ground = places::find(request, env, cwd)?;
    let bytes = match (&request.manifest_text, &ground.manifest) {
        (Some((_, text)), _) => text.clone().into_bytes(),
        (None, Some(file)) => untrusted::read(file, untrusted::PAGE).map_err(unreadable)?,
        (None, None) => return Err(Error::internal("a manifest without text and without file")),
    };
    let mut problems = Problems::default();
    let read = read(&bytes, request, env, cwd, &ground, now, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into());
    }
    // Without a problem there is something that was read.
    let read = read.ok_or_else(|| Error::internal("the manifest was not read, and nothing says why"))?;
    settings(read, request, env, cwd, ground, now)
}

/// A file that cannot be read is as good as a manifest with mistakes.
fn unreadable(error: std::io::Error) -> Error {
    Error::usage("the manifest cannot be read").because(&error)
}

/// All that was read, without regard to where things lie on this machine.
struct Read {
    release: &'static Release,
    repos: Repos,
    sections: Sections,
    yocto_check_layer: bool,
    known_failures: Vec<KnownFailure>,
}

fn read(
    bytes: &[u8],
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    ground: &Ground,
    now: SystemTime,
    problems: &mut Problems,
) -> Option<Read> {
    let mut tree = tree::parse_bytes(&ground.manifest_name, bytes, problems)?;
    flags::apply(&mut tree, &request.set, problems);
    let (raw, meant): (UnvalidatedManifest, _) = structure::read(&tree, problems);
    let mut check = Checker { tree: &tree, problems, meant };
    let around = Surroundings { base: &ground.base, cwd, codebuild: env.codebuild.as_ref() };
    let mut repos = repos::validate(&mut check, &raw, &around);
    let sections = validate::validate(&mut check, &raw, ground, cwd);
    let known_failures = read_known_failures(&sections, ground, now, &mut check);
    if !request.ignore_lock {
        apply_lock(ground, &tree, &mut repos, problems);
    }
    Some(Read {
        release: Release::find(raw.release.as_deref()?)?,
        repos,
        sections,
        yocto_check_layer: raw.check.yocto_check_layer.unwrap_or(true),
        known_failures,
    })
}

fn read_known_failures(
    sections: &Sections,
    ground: &Ground,
    now: SystemTime,
    check: &mut Checker,
) -> Vec<KnownFailure> {
    let Some(file) = &sections.known_failures else { return Vec::new() };
    match untrusted::read(file, untrusted::PAGE) {
        Ok(bytes) => {
            let name = beside(ground, file);
            known_failures::read(&name, &bytes, &day(now), check.problems)
        }
        Err(error) => {
            check.value(&KeyPath::root().key("check").key("known_failures"), Mistake::new(error.to_string()));
            Vec::new()
        }
    }
}

fn apply_lock(ground: &Ground, tree: &Node, repos: &mut Repos, problems: &mut Problems) {
    let Some(file) = lock_file(ground) else { return };
    // A link that leads nowhere is no lock, and no permission to float either.
    if fs_err::symlink_metadata(&file).is_err() {
        return;
    }
    let name = beside(ground, &file);
    let written = match untrusted::read(&file, untrusted::PAGE) {
        Ok(bytes) => lock::read(&name, &bytes, problems),
        Err(error) => {
            let mistake = Mistake::new(format!("{name} cannot be read: {error}"));
            problems.add(tree.place.clone(), None, mistake.hint("mend or delete it, then build-agent lock"));
            None
        }
    };
    if let Some(written) = written {
        lock::apply(&written, tree, &mut repos.repos, problems, &mut repos.notices);
    }
}

/// A file near the manifest, as messages name it.
fn beside(ground: &Ground, file: &Path) -> String {
    let directory = Path::new(&ground.manifest_name).parent().unwrap_or(Path::new(""));
    match file.strip_prefix(&ground.base) {
        Ok(relative) => directory.join(relative).display().to_string(),
        Err(_) => file.display().to_string(),
    }
}

/// Where the lock of a manifest lies; a manifest from elsewhere has none.
fn lock_file(ground: &Ground) -> Option<PathBuf> {
    ground.manifest.as_ref().map(|_| ground.base.join(lock::FILE_NAME))
}

/// Where the lock for this request is or will be.
///
/// # Errors
/// When there is no manifest, or it came from elsewhere.
pub fn lock_path(request: &Request, env: &AgentEnvironment, cwd: &Path) -> Result<PathBuf> {
    let ground = places::find(request, env, cwd)?;
    lock_file(&ground).ok_or_else(|| {
        Error::usage(format!(
            "`{}` is not on this machine, so that no lock can lie beside it",
            ground.manifest_name
        ))
        .hint("lock a manifest that is a file")
    })
}

fn settings(
    read: Read,
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    ground: Ground,
    now: SystemTime,
) -> Result<Settings> {
    let Read { release, repos, sections, yocto_check_layer, known_failures } = read;
    let Repos { repos, secrets, notices } = repos;
    let places = places::places(request, env, cwd, &sections.name, release)?;
    let distro = sections.distro.unwrap_or_else(|| default_distro(&repos).to_owned());
    let codebuild = env.codebuild.as_ref();
    let evidence = Evidence { codebuild, branches: env.trusted_branches.as_deref(), word: request.trusted };
    let trust = trust::judge(&evidence)?;
    let layers = places::work_dir(request.work_dir.as_deref(), env, cwd)?.join("layers");
    let (cache, cache_notices) = shared::cache(&sections.cache, trust, codebuild, layers, &places);
    let job = JobIdentity {
        name: sections.name,
        release: release.name.to_owned(),
        commit: None,
        dirty: false,
        build: codebuild
            .and_then(|build| build.build_number)
            .map_or_else(|| timestamp(now), |number| number.to_string()),
        layer: ground.checkout.clone(),
        manifest: ground.manifest_name.clone(),
        reproduce: reproduce(request, &ground),
        url: codebuild.and_then(|build| build.public_url.as_ref()).map(ToString::to_string),
    };
    Ok(Settings {
        release,
        job,
        checkout: ground.checkout,
        layers: sections.layers,
        repos,
        completes_repos: false,
        config: BuildConfig { machines: sections.machines, distro, local_conf: sections.local_conf },
        check: Check {
            bitbake_layers: sections.bitbake_layers,
            yocto_check_layer,
            machines: sections.check_machines,
            side_by_side: sections.side_by_side,
            known_failures,
            keep_going: request.keep_going,
            memo: true,
        },
        build: Build { targets: sections.targets },
        cache,
        artifacts: Artifacts {
            destination: sections.destination.unwrap_or_else(|| Destination::Directory(places.out.clone())),
            rules: sections.rules,
            kms_key_id: sections.kms_key_id,
        },
        github: sections.github,
        limits: sections.limits,
        places,
        build_user: request.build_user.clone(),
        network: env.network.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        secrets: env.secrets().iter().cloned().chain(secrets).collect(),
        notices: [request.notices.clone(), env.notices.clone(), notices, sections.notices, cache_notices]
            .concat(),
    })
}

/// poky's own distro where poky's distro layer is there; else OE-Core's default.
fn default_distro(repos: &[Repo]) -> &'static str {
    let is_meta_poky = |layer: &PathBuf| layer.ends_with("meta-poky");
    let has_meta_poky = repos.iter().any(|repo| repo.layers.iter().any(is_meta_poky));
    if has_meta_poky { "poky" } else { "nodistro" }
}

fn reproduce(request: &Request, ground: &Ground) -> Vec<String> {
    let mut command = vec!["build-agent".to_owned(), "run".to_owned(), ground.manifest_name.clone()];
    let sha256 = request.manifest_sha256.iter();
    command.extend(sha256.flat_map(|sha256| ["--manifest-sha256".to_owned(), sha256.clone()]));
    command.extend(request.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    command
}

/// `2026-01-02`, in UTC.
fn day(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string().chars().take(10).collect()
}

/// `20260102T030405Z`
fn timestamp(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "")
}
