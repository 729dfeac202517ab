//! Where things lie: the checkout under test, its manifest, the work directory, the output.

use std::path::{Path, PathBuf};

use agent_types::error::{Error, Result};
use agent_types::release::Release;

use super::environment::AgentEnvironment;
use super::load::Request;
use super::manifest;
use super::settings::Places;
use super::values;

/// The checkout under test and the manifest's directory, both absolute and without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    pub checkout: PathBuf,
    /// Relative paths of the manifest start here.
    pub base: PathBuf,
    /// The manifest's file; `None` when its text came from elsewhere.
    pub manifest: Option<PathBuf>,
    /// How messages name it.
    pub manifest_name: String,
}

/// Finds checkout and manifest. The checkout is `CODEBUILD_SRC_DIR`, else the git work tree that the
/// manifest lies in, else the manifest's directory; for a manifest from elsewhere the one of `cwd`.
///
/// # Errors
/// When there is no manifest, or `CODEBUILD_SRC_DIR` is no directory.
pub fn find(request: &Request, env: &AgentEnvironment, cwd: &Path) -> Result<Ground> {
    let cwd = fs_err::canonicalize(cwd)?;
    let codebuild = codebuild_checkout(env)?;
    if let Some((name, _)) = &request.manifest_text {
        let checkout = codebuild.unwrap_or_else(|| work_tree(&cwd));
        return Ok(Ground { base: checkout.clone(), checkout, manifest: None, manifest_name: name.clone() });
    }
    let file = match &request.manifest {
        Some(path) => cwd.join(path),
        None => default_manifest(codebuild.as_deref(), &cwd),
    };
    let file = if file.is_dir() { file.join(manifest::FILE_NAME) } else { file };
    if !file.is_file() {
        let what = if file.exists() { "is no regular file" } else { "is not there" };
        return Err(Error::usage(format!("the manifest `{}` {what}", file.display()))
            .hint("write one (docs/manifest.md), or check a layer without one: build-agent check LAYER"));
    }
    let base = fs_err::canonicalize(file.parent().unwrap_or(&cwd))?;
    let checkout = codebuild.unwrap_or_else(|| work_tree(&base));
    let manifest_name = match &request.manifest {
        Some(given) if !cwd.join(given).is_dir() => given.clone(),
        _ => file.strip_prefix(&cwd).unwrap_or(&file).display().to_string(),
    };
    Ok(Ground { checkout, base, manifest: Some(file), manifest_name })
}

/// `CODEBUILD_SRC_DIR`, when CodeBuild runs the agent.
///
/// # Errors
/// When it is no directory.
pub fn codebuild_checkout(env: &AgentEnvironment) -> Result<Option<PathBuf>> {
    let Some(directory) = env.codebuild.as_ref().and_then(|build| build.src_dir.as_ref()) else {
        return Ok(None);
    };
    if !directory.is_absolute() || !directory.is_dir() {
        let message = format!("CODEBUILD_SRC_DIR is `{}`, which is no directory", directory.display());
        return Err(Error::machine(message)
            .hint("CodeBuild sets it after its DOWNLOAD_SOURCE phase; do not change it"));
    }
    Ok(Some(fs_err::canonicalize(directory)?))
}

/// Beside the work at hand, or at the top of its git work tree.
fn default_manifest(codebuild: Option<&Path>, cwd: &Path) -> PathBuf {
    match codebuild {
        Some(checkout) => checkout.join(manifest::FILE_NAME),
        None => {
            let here = cwd.join(manifest::FILE_NAME);
            if here.is_file() { here } else { work_tree(cwd).join(manifest::FILE_NAME) }
        }
    }
}

/// The top of the git work tree that the directory lies in; without one the directory itself.
pub fn work_tree(directory: &Path) -> PathBuf {
    // A file `.git` is a linked work tree or a submodule.
    directory.ancestors().find(|above| above.join(".git").exists()).unwrap_or(directory).to_owned()
}

/// The work directory and the output directory of a job.
///
/// # Errors
/// When there is no place for the work, or BitBake would refuse it.
pub fn places(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    name: &str,
    release: &Release,
) -> Result<Places> {
    let cwd = fs_err::canonicalize(cwd)?;
    let (top, origin) = top_of_work(request.work_dir.as_deref(), env)?;
    let work = values::normal(&cwd.join(top)).join(format!("{}-{}", sanitised(name), release.name));
    bitbake_accepts(&work, origin)?;
    Ok(Places { work, out: out_dir(request.out.as_deref(), &cwd)? })
}

/// The directory of reports and logs, also where no manifest could be read.
///
/// # Errors
/// When the current directory is gone.
pub fn out_dir(asked: Option<&Path>, cwd: &Path) -> Result<PathBuf> {
    let out = asked.unwrap_or(Path::new("build-agent-out"));
    Ok(values::normal(&fs_err::canonicalize(cwd)?.join(out)))
}

/// The directory that holds the work of all jobs.
///
/// # Errors
/// When nothing says where it is.
pub fn work_dir(asked: Option<&Path>, env: &AgentEnvironment, cwd: &Path) -> Result<PathBuf> {
    let (top, _) = top_of_work(asked, env)?;
    Ok(values::normal(&cwd.join(top)))
}

/// It, and who said so.
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
        Error::usage("there is no place for the work: neither XDG_CACHE_HOME nor HOME is set")
            .hint("give --work-dir DIR")
    })
}

/// What `sanity.bbclass` of OE-Core refuses in build paths, told before an hour of work; and what
/// cannot be written into the configuration.
fn bitbake_accepts(work: &Path, origin: &str) -> Result<()> {
    let bad = |c: char| !c.is_ascii_graphic() || "+@%~\"'$\\{}".contains(c);
    let text = work.display().to_string();
    let hint = "give another directory with --work-dir";
    if let Some(c) = text.chars().find(|c| bad(*c)) {
        return Err(Error::usage(format!(
            "the work directory {text:?} ({origin}) holds {c:?}, which BitBake refuses"
        ))
        .hint(hint));
    }
    // OE-Core allows 410 characters for TMPDIR; `check/<layer>/tmp` comes below this.
    if text.len() > 250 {
        return Err(Error::usage(format!(
            "the work directory `{text}` ({origin}) is {} characters long, too long for BitBake",
            text.len()
        ))
        .hint(hint));
    }
    Ok(())
}

/// A name with only the characters that BitBake takes in a path.
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
        places(request, &env, Path::new("/"), "meta-x", scarthgap()).map(|places| places.work)
    }

    #[test]
    fn the_work_directory_comes_from_the_nearest_source() {
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
    fn what_bitbake_refuses_is_refused_at_once() {
        for bad in [
            "/a b",
            "/a+b",
            "/a@b",
            "/a%b",
            "/a~b",
            "/ä",
            "/a\nb",
            "/a$b",
            "/a\"b",
            &format!("/{}", "x".repeat(300)),
        ] {
            let request = Request { work_dir: Some(bad.into()), ..Request::default() };
            let error = work(&request, &[], false).unwrap_err();
            assert_eq!(error.class, agent_types::error::Class::Usage, "{bad}");
            assert!(error.message.contains("--work-dir"), "{error}");
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
    fn the_work_tree_is_found_upwards() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let deep = top.join("a/b");
        fs_err::create_dir_all(&deep).unwrap();
        assert_eq!(work_tree(&deep), deep, "no git: the directory counts as itself");
        fs_err::write(top.join(".git"), "gitdir: /elsewhere\n").unwrap();
        assert_eq!(work_tree(&deep), top);
    }
}
