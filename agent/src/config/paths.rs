//! Finds the directories of a job: the checkout under test, its manifest, the work directory, the output.

use std::path::{Path, PathBuf};

use agent_types::error::{Error, Result};
use agent_types::release::Release;
use agent_types::share::Share;
use agent_yocto::path_rules::{self, PathUse};

use super::environment::{AgentEnvironment, CACHE, LocalCache};
use super::github_actions::WORKSPACE;
use super::manifest;
use super::request::Request;
use super::rules::Rules;
use super::settings::Paths;
use super::values;

pub use super::project_root::ProjectRoot;

/// Finds checkout and manifest. The checkout is the service's, else the git work tree with the
/// manifest, else the manifest's directory. For a downloaded manifest it is the one of `cwd`.
///
/// # Errors
/// If there is no manifest, or the service's checkout is not a directory.
pub fn find(request: &Request, env: &AgentEnvironment, cwd: &Path) -> Result<ProjectRoot> {
    if let Some(definition) = &request.definition {
        return Ok(definition.project_root.clone());
    }
    let cwd = canonical("the current directory", cwd)?;
    let service = service_checkout(env)?;
    if let Some((name, _)) = &request.manifest_text {
        let checkout = service.unwrap_or_else(|| work_tree(&cwd));
        return Ok(ProjectRoot {
            base: checkout.clone(),
            checkout,
            manifest: None,
            manifest_name: name.clone(),
            rules: request.rules.clone(),
        });
    }
    let file = match &request.manifest {
        Some(path) => cwd.join(path),
        None => default_manifest(service.as_deref(), &cwd, &request.rules),
    };
    let file = if names_directory(&file, &request.rules) { file.join(manifest::FILE_NAME) } else { file };
    let manifest_name = match &request.manifest {
        Some(given) if cwd.join(given) == file => given.clone(),
        _ => file.strip_prefix(&cwd).unwrap_or(&file).display().to_string(),
    };
    let mut rules = request.rules.clone();
    if let Rules::OfBase(files) = &request.rules
        && let Some(inner) = files.inner(&file)
    {
        if let Some(tree) = files.tree_with(&inner) {
            let base = files.checkout.join(inner.parent().unwrap_or(Path::new("")));
            let checkout = service.unwrap_or_else(|| files.checkout.clone());
            let rules = Rules::OfBase(files.narrowed(tree));
            let manifest = Some(tree.root.join(inner));
            return Ok(ProjectRoot { checkout, base, manifest, manifest_name, rules });
        }
        rules = Rules::NoBase {
            why: format!("the base {} has no `{manifest_name}`", files.shown()),
            hint: "when the file is on the base branch, its rules apply".to_owned(),
        };
    }
    if !file.is_file() {
        let what = if file.exists() { "is not a regular file" } else { "does not exist" };
        return Err(Error::usage(format!("the manifest `{}` {what}", file.display()))
            .hint("write one (docs/manifest.md), or check a layer without one: build-agent check LAYER"));
    }
    let base = canonical("the manifest's directory", file.parent().unwrap_or(&cwd))?;
    let checkout = service.unwrap_or_else(|| work_tree(&base));
    Ok(ProjectRoot { checkout, base, manifest: Some(file), manifest_name, rules })
}

/// Whether the path is a directory with a manifest. If the base of a change has a file there, the path is not one, even if
/// the change made it a directory.
fn names_directory(path: &Path, rules: &Rules) -> bool {
    if rules.has(path) {
        return false;
    }
    let in_base = match rules {
        Rules::OfBase(files) => files.file(path).is_dir(),
        Rules::OfCheckout | Rules::NoBase { .. } => false,
    };
    in_base || path.is_dir()
}

/// The checkout that the service made, if one runs the agent: `CODEBUILD_SRC_DIR` or `GITHUB_WORKSPACE`.
///
/// # Errors
/// If it is not a directory.
pub fn service_checkout(env: &AgentEnvironment) -> Result<Option<PathBuf>> {
    let Some((variable, directory)) = env.source_dir() else { return Ok(None) };
    is_text(variable, directory)?;
    if !directory.is_absolute() || !directory.is_dir() {
        let message = format!("{variable} is `{}`, which is not a directory", directory.display());
        return Err(Error::machine(message).hint(match variable {
            WORKSPACE => "let actions/checkout run first; a container needs the directory at the same path",
            _ => "CodeBuild sets it after its DOWNLOAD_SOURCE phase; do not change it",
        }));
    }
    canonical(variable, directory).map(Some)
}

/// The path without links, as text.
fn canonical(what: &str, path: &Path) -> Result<PathBuf> {
    let real = fs_err::canonicalize(path)?;
    is_text(what, &real)?;
    Ok(real)
}

/// Beside the work at hand, or at the top of its git work tree.
fn default_manifest(service: Option<&Path>, cwd: &Path, rules: &Rules) -> PathBuf {
    match service {
        Some(checkout) => checkout.join(manifest::FILE_NAME),
        None => {
            let here = cwd.join(manifest::FILE_NAME);
            if rules.has(&here) { here } else { work_tree(cwd).join(manifest::FILE_NAME) }
        }
    }
}

/// The top of the git work tree that contains the directory; without one, the directory itself.
pub fn work_tree(directory: &Path) -> PathBuf {
    // A file `.git` marks a linked work tree or a submodule.
    directory.ancestors().find(|above| above.join(".git").exists()).unwrap_or(directory).to_owned()
}

/// The work directory and the output directory of a job.
///
/// # Errors
/// If there is no work directory, or BitBake would reject it.
pub fn resolve(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    name: &str,
    release: &Release,
) -> Result<Paths> {
    let cwd = fs_err::canonicalize(cwd)?;
    let (top, origin) = top_of_work(request.work_dir.as_deref(), env)?;
    let last = request.cell.as_deref().unwrap_or(release.name);
    let work = values::normal(&cwd.join(top)).join(format!("{}-{last}", sanitised(name)));
    bitbake_accepts(&work, origin)?;
    let caches = shared_caches(request.work_dir.as_deref(), env, &cwd)?.unwrap_or_else(|| work.clone());
    Ok(Paths { work, caches, out: out_dir(request.out.as_deref(), &cwd)? })
}

/// The directory of the local caches that the jobs of this user share; `None` if each job has its own. In CI that is the
/// default: jobs of other repositories may run on the same machine.
///
/// # Errors
/// If BitBake would reject it, or it is not configured.
pub fn shared_caches(work_dir: Option<&Path>, env: &AgentEnvironment, cwd: &Path) -> Result<Option<PathBuf>> {
    match &env.local_cache {
        Some(LocalCache::Off) => Ok(None),
        None if env.ci => Ok(None),
        None => self::work_dir(work_dir, env, cwd).map(Some),
        Some(LocalCache::Directory(directory)) => {
            let directory = values::normal(&cwd.join(directory));
            is_text(CACHE, &directory)?;
            let real = path_rules::resolved(&directory);
            let fault =
                [&directory, &real].into_iter().find_map(|path| path_rules::fault(path, PathUse::Build));
            match fault {
                None => Ok(Some(directory)),
                Some(fault) => {
                    let shown = directory.display().to_string();
                    Err(Error::usage(format!("the directory of {CACHE}, {shown:?}, {fault}"))
                        .hint("name another directory, or write `off`: then each job has caches of its own"))
                }
            }
        }
    }
}

/// The directory of reports and logs, even if no manifest could be read.
///
/// # Errors
/// If the current directory no longer exists, or the path is not text.
pub fn out_dir(asked: Option<&Path>, cwd: &Path) -> Result<PathBuf> {
    let out = asked.unwrap_or(Path::new("build-agent-out"));
    let out = values::normal(&fs_err::canonicalize(cwd)?.join(out));
    is_text("the output directory", &out)?;
    Ok(out)
}

/// The stores of layer checkouts that a job without settings will use, as [`Paths::layers`] names them: with the shared
/// caches, and if it cannot use those. They may be the same.
///
/// # Errors
/// If the work directory or the directory of the shared caches is not configured, or cannot be used.
pub fn layer_stores(work_dir: Option<&Path>, env: &AgentEnvironment, cwd: &Path) -> Result<[PathBuf; 2]> {
    let own = self::work_dir(work_dir, env, cwd)?;
    let shared = shared_caches(work_dir, env, cwd)?.unwrap_or_else(|| own.clone());
    Ok([shared, own].map(|top| Share::new(top).layers()))
}

/// The directory with the work directories of all jobs.
///
/// # Errors
/// If it is not configured.
pub fn work_dir(asked: Option<&Path>, env: &AgentEnvironment, cwd: &Path) -> Result<PathBuf> {
    let (top, origin) = top_of_work(asked, env)?;
    let top = values::normal(&cwd.join(top));
    is_text(&format!("the work directory ({origin})"), &top)?;
    Ok(top)
}

/// The directory, and which setting named it.
fn top_of_work(asked: Option<&Path>, env: &AgentEnvironment) -> Result<(PathBuf, &'static str)> {
    Ok(match (asked, &env.work_dir) {
        (Some(directory), _) => (directory.to_path_buf(), "--work-dir"),
        (None, Some(directory)) => (directory.clone(), "the variable BUILD_AGENT_WORK_DIR"),
        (None, None) => (default_work_dir(env)?, "the default"),
    })
}

fn default_work_dir(env: &AgentEnvironment) -> Result<PathBuf> {
    if env.root {
        return Ok("/var/lib/build-agent".into());
    }
    let cache = env.xdg_cache_home.clone().or_else(|| env.home.as_ref().map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("build-agent")).ok_or_else(|| {
        Error::usage("no work directory: neither XDG_CACHE_HOME nor HOME is set").hint("give --work-dir DIR")
    })
}

/// Rejects a work directory in which BitBake could not build, before anything is cloned. BitBake asks the
/// kernel for its directory, so links do not help.
fn bitbake_accepts(work: &Path, origin: &str) -> Result<()> {
    const HINT: &str = "choose another directory with --work-dir or the variable BUILD_AGENT_WORK_DIR, such as \
         /var/tmp/build-agent; the layers may stay where they are";
    let real = path_rules::resolved(work);
    let shown = |path: &Path| format!("{:?}", path.display().to_string());
    let faulty =
        [work, &real].into_iter().find_map(|path| Some((path, path_rules::fault(path, PathUse::Build)?)));
    if let Some((path, fault)) = faulty {
        let leads = if path == work { String::new() } else { format!(" leads to {}, which", shown(path)) };
        let message = format!("the work directory {} ({origin}){leads} {fault}", shown(work));
        return Err(Error::usage(message).hint(HINT));
    }
    let length = work.as_os_str().len().max(real.as_os_str().len());
    if length > path_rules::LONGEST_WORK {
        let message = format!(
            "the work directory {} ({origin}) is {length} bytes long; above {} bytes, BitBake's TMPDIR below it \
             becomes too long for OE-Core",
            shown(work),
            path_rules::LONGEST_WORK
        );
        return Err(Error::usage(message).hint(HINT));
    }
    Ok(())
}

/// Rejects a layer whose name makes the `TMPDIR` of its check longer than OE-Core allows.
///
/// # Errors
/// Usage, with both possible fixes.
pub fn check_fits(paths: &Paths, layers: &[PathBuf]) -> Result<()> {
    for layer in layers {
        let name = layer.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let length = paths.check(&name).as_os_str().len() + "/tmp".len();
        if length > path_rules::LONGEST_TMPDIR {
            return Err(Error::usage(format!(
                "the TMPDIR of the check of `{name}` would be {length} bytes long, and OE-Core rejects more than {}",
                path_rules::LONGEST_TMPDIR
            ))
            .hint("use a shorter --work-dir, or a shorter name for the layer's directory"));
        }
    }
    Ok(())
}

/// Rejects paths that are not text: neither BitBake's configuration nor a report can name them.
///
/// # Errors
/// Usage, with the path as far as it can be shown.
pub fn is_text(what: &str, path: &Path) -> Result<()> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Error::usage(format!("{what} {:?} is not valid UTF-8", path.display().to_string())).hint(
            "rename the directory or file: the configuration of BitBake and the reports need paths in UTF-8",
        )),
    }
}

/// Replaces the characters that BitBake does not support in a path.
pub fn sanitised(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name.chars().map(|c| if good(c) { c } else { '-' }).collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "layer".into(),
        name => name.chars().take(100).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn scarthgap() -> &'static Release {
        Release::find("scarthgap").unwrap()
    }

    fn work(request: &Request, variables: &[(&str, &str)], root: bool) -> Result<PathBuf> {
        let mut env = AgentEnvironment::from_map(variables.iter().copied());
        env.root = root;
        resolve(request, &env, Path::new("/"), "meta-x", scarthgap()).map(|paths| paths.work)
    }

    #[test]
    fn work_directory_comes_from_the_nearest_source() {
        let flag = Request { work_dir: Some("/w".into()), ..Request::default() };
        let plain = Request::default();
        let all = [("BUILD_AGENT_WORK_DIR", "/v"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let table = [
            (work(&flag, &all, true), "/w/meta-x-scarthgap"),
            (work(&plain, &all, true), "/v/meta-x-scarthgap"),
            (work(&plain, &all[1..], true), "/var/lib/build-agent/meta-x-scarthgap"),
            (work(&plain, &all[1..], false), "/x/build-agent/meta-x-scarthgap"),
            (work(&plain, &all[2..], false), "/h/.cache/build-agent/meta-x-scarthgap"),
        ];
        for (found, wanted) in table {
            assert_eq!(found.unwrap(), Path::new(wanted));
        }
        assert!(work(&plain, &[], false).unwrap_err().hint.unwrap().contains("--work-dir"));
    }

    #[test]
    fn jobs_share_caches_except_in_ci() {
        let caches = |variables: &[(&str, &str)], flag: Option<&str>| {
            let all = [&[("HOME", "/h")], variables].concat();
            let env = AgentEnvironment::from_map(all);
            shared_caches(flag.map(Path::new), &env, Path::new("/cwd")).map_err(|error| error.message)
        };
        let directory = |path: &str| Ok(Some(PathBuf::from(path)));
        let table = [
            (caches(&[], None), directory("/h/.cache/build-agent")),
            (caches(&[("XDG_CACHE_HOME", "/x")], None), directory("/x/build-agent")),
            (caches(&[("BUILD_AGENT_WORK_DIR", "/v")], None), directory("/v")),
            (caches(&[], Some("w")), directory("/cwd/w")),
            (caches(&[("BUILD_AGENT_CACHE", "/c/x/")], Some("/w")), directory("/c/x")),
            (caches(&[("BUILD_AGENT_CACHE", "c")], None), directory("/cwd/c")),
            (caches(&[("BUILD_AGENT_CACHE", "off")], None), Ok(None)),
            (caches(&[("CI", "true")], None), Ok(None)),
            (caches(&[("CI", "true"), ("BUILD_AGENT_CACHE", "/c")], None), directory("/c")),
        ];
        for (found, wanted) in table {
            assert_eq!(found, wanted);
        }
        let refused = caches(&[("BUILD_AGENT_CACHE", "/a b")], None).unwrap_err();
        assert!(refused.contains("BUILD_AGENT_CACHE") && refused.contains("/a b"), "{refused}");
        let env = AgentEnvironment::from_map([("BUILD_AGENT_CACHE", "/c")]);
        assert_eq!(shared_caches(None, &env, Path::new("/")).unwrap(), Some("/c".into()), "without HOME");
    }

    #[test]
    fn layers_are_in_one_store_before_and_after_the_settings_are_known() {
        let plain = Request::default();
        for variables in [
            &[][..],
            &[("BUILD_AGENT_CACHE", "/c")],
            &[("BUILD_AGENT_CACHE", "off")],
            &[("BUILD_AGENT_WORK_DIR", "/w"), ("BUILD_AGENT_CACHE", "/c")],
            &[("CI", "true")],
        ] {
            let env = AgentEnvironment::from_map([&[("HOME", "/h")], variables].concat());
            let paths = resolve(&plain, &env, Path::new("/"), "meta-x", scarthgap()).unwrap();
            let without_caches = Paths { caches: paths.work.clone(), ..paths.clone() };
            let wanted = [paths.layers(), without_caches.layers()];
            assert_eq!(layer_stores(None, &env, Path::new("/")).unwrap(), wanted, "{variables:?}");
        }
    }

    #[test]
    fn rejects_work_directories_that_bitbake_rejects() {
        let long = format!("/{}", "x".repeat(300));
        for bad in [
            "/a b", "/a+b", "/a@b", "/a%b", "/a~b", "/ä", "/a\nb", "/a$b", "/a\"b", "/a:b", "/a,b", "/a;b",
            "/a*b", "/(a)", &long,
        ] {
            let request = Request { work_dir: Some(bad.into()), ..Request::default() };
            let error = work(&request, &[], false).unwrap_err();
            assert_eq!(error.class, agent_types::error::Class::Usage, "{bad}");
            assert!(error.message.contains("--work-dir"), "{error}");
        }
    }

    #[test]
    fn rejects_a_link_to_a_path_that_bitbake_rejects() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        fs_err::create_dir(top.join("job@2")).unwrap();
        std::os::unix::fs::symlink(top.join("job@2"), top.join("plain")).unwrap();
        let request = Request { work_dir: Some(top.join("plain/work")), ..Request::default() };
        let error = work(&request, &[], false).unwrap_err();
        assert!(error.message.contains("job@2/work/meta-x-scarthgap\", which has '@'"), "{error}");
        assert!(error.hint.unwrap().contains("BUILD_AGENT_WORK_DIR"));
    }

    #[test]
    fn rejects_paths_that_are_not_text() {
        use std::os::unix::ffi::OsStrExt;
        let bad = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/bad\xff"));
        let request = Request { work_dir: Some(bad.into()), ..Request::default() };
        let env = AgentEnvironment::default();
        let said = [
            work(&request, &[], false).unwrap_err(),
            out_dir(Some(bad), Path::new("/")).unwrap_err(),
            work_dir(Some(bad), &env, Path::new("/")).unwrap_err(),
        ];
        for error in said {
            assert_eq!(error.class, agent_types::error::Class::Usage);
            assert!(error.message.contains("is not valid UTF-8"), "{error}");
        }
    }

    #[test]
    fn check_directory_is_short_enough_for_oe_core() {
        let work = PathBuf::from(format!("/{}", "w".repeat(249)));
        let paths = Paths { caches: work.clone(), work, out: "/out".into() };
        // 250 + `/check/` + name + `/tmp` may be 400.
        for (length, fits) in [(139, true), (140, false)] {
            let layer = PathBuf::from(format!("/src/{}", "l".repeat(length)));
            assert_eq!(check_fits(&paths, &[layer]).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn names_become_safe_parts_of_paths() {
        for (name, wanted) in [
            ("meta-x", "meta-x"),
            ("a/../b c", "a-..-b-c"),
            ("..", "layer"),
            ("--", "layer"),
            ("ü+", "layer"),
        ] {
            assert_eq!(sanitised(name), wanted, "{name}");
        }
    }

    #[test]
    fn finds_the_work_tree_in_parent_directories() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let deep = top.join("a/b");
        fs_err::create_dir_all(&deep).unwrap();
        assert_eq!(work_tree(&deep), deep, "no git: the directory counts as itself");
        fs_err::write(top.join(".git"), "gitdir: /elsewhere\n").unwrap();
        assert_eq!(work_tree(&deep), top);
    }
}
