//! Reads every input of a query from disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use agent_process::{Mount, User};

use super::digest::Digest;
use super::key::{Inputs, LAYERS, readable};
use super::protocol::Encoder;
use super::stat_cache::StatCache;
use super::tree::Surroundings;
use super::{
    CacheResult, Invocation, NotCacheable, admission, hermeticity, home, host, layers, python_packages,
    query, tree,
};
use agent_fs::read;

/// Raised when a key of the same inputs must not be the same any more.
const FORMAT: &str = "6";

/// No configuration file is larger.
const LONGEST_CONF: u64 = 4 << 20;

/// What BitBake and its tools make in a build directory. Anything else there could be found through
/// BBPATH before the layers' files.
const BUILD_ENTRIES: [&str; 11] = [
    "bitbake-cookerdaemon.log",
    "bitbake.lock",
    "bitbake.sock",
    "cache",
    "conf",
    "hashserve.sock",
    "locked-sigs.inc",
    // The shell parser's tables (ply, in the current directory).
    "pyshlextab.py",
    "pyshtables.py",
    "sstate-cache",
    "downloads",
];

/// Where one run of yocto-check-layer takes place. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its build directory.
    pub build: PathBuf,
    /// Holds `bin/bitbake`.
    pub bitbake: PathBuf,
    /// Holds `meta/` and `scripts/`.
    pub oe_core: PathBuf,
    /// Runs BitBake.
    pub user: User,
    /// The agent's own directories, which may lie in a checkout.
    pub own: Vec<PathBuf>,
    /// Stores on the share whose checkouts never change: each is read once in a run.
    pub immutable: Vec<PathBuf>,
    /// A tree in the place of which BitBake sees another one.
    pub replaced: Option<Replaced>,
}

/// A tree that BitBake sees at the path of another one, with the agent's own directories that lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub directory: PathBuf,
    /// The real path of the top of a work tree.
    pub seen_at: PathBuf,
}

impl Place {
    /// Where the tree lies that BitBake sees at this path.
    fn directory_of(&self, root: &Path) -> PathBuf {
        match &self.replaced {
            Some(replaced) if replaced.seen_at == root => replaced.directory.clone(),
            _ => root.to_owned(),
        }
    }

    /// The mounts that let BitBake see it: first the agent's own directories, which would be hidden otherwise.
    pub(super) fn mounts_of_replaced(&self) -> Vec<Mount> {
        let Some(replaced) = &self.replaced else { return Vec::new() };
        let mut mounts: Vec<Mount> = replaced
            .own_below(&self.own)
            .map(|(own, inner)| Mount { directory: own.clone(), over: inner })
            .collect();
        mounts.push(Mount { directory: replaced.directory.clone(), over: replaced.seen_at.clone() });
        mounts
    }
}

impl Replaced {
    /// Those of the agent's own directories that lie in the replaced tree, each with its place in the other one.
    pub fn own_below<'a>(&'a self, own: &'a [PathBuf]) -> impl Iterator<Item = (&'a PathBuf, PathBuf)> + 'a {
        own.iter().filter_map(|own| {
            let inner = own.strip_prefix(&self.seen_at).ok().filter(|inner| *inner != Path::new(""))?;
            own.is_dir().then(|| (own, self.directory.join(inner)))
        })
    }
}

/// Everything that the answer of a BitBake depends on that finds the directory `at` in the place of the
/// build directory.
///
/// # Errors
/// When it depends on something that no key covers, or something cannot be read.
pub fn collect_at(
    at: &Path,
    place: &Place,
    invocation: &Invocation,
    cache: &StatCache,
) -> CacheResult<Inputs> {
    let build = real(&place.build)?;
    if invocation.cwd != build {
        return Err(NotCacheable("BitBake was called in another directory than this check's".into()));
    }
    let mut inputs = Inputs::default();
    inputs.add("format of the store", format!("{FORMAT} of {}", env!("CARGO_PKG_VERSION")).as_bytes());
    add_call(&mut inputs, place, invocation);
    let conf = configuration(at)?;
    let text = conf
        .get(Path::new("bblayers.conf"))
        .ok_or_else(|| NotCacheable("there is no conf/bblayers.conf".into()))?;
    let layers = layers::of_bblayers(&String::from_utf8_lossy(text))?;
    let trees = trees(place, &layers)?;
    add_environment(&mut inputs, invocation, &trees)?;
    add_configuration(&mut inputs, &build, &conf, &trees)?;
    let path =
        invocation.variable("PATH").ok_or_else(|| NotCacheable("BitBake was called without PATH".into()))?;
    host::add(&mut inputs, path, &trees)?;
    home::add(&mut inputs, &place.user.home)?;
    python_packages::add(&mut inputs, invocation, place.user.uid, &trees)?;
    let mut real_layers = Vec::new();
    for layer in &layers {
        real_layers.push(real(layer)?);
    }
    inputs.add_list(LAYERS, layers.iter().chain(&real_layers).map(|layer| layer.as_os_str().as_bytes()));
    let mut skip = place.own.clone();
    let mut readable = trees.clone();
    if let Some(replaced) = &place.replaced {
        skip.extend(replaced.own_below(&place.own).map(|(_, inner)| inner));
        readable.push(replaced.directory.clone());
    }
    for root in &trees {
        let around = Surroundings { skip: &skip, trees: &readable };
        let directory = place.directory_of(root);
        let is_immutable = place.immutable.iter().any(|store| root.starts_with(store));
        let mut tree = match cache.immutable(root) {
            Some(tree) => tree,
            None => tree::read(&directory, &around, cache)?,
        };
        if is_immutable {
            cache.add_immutable(root, &tree);
        }
        // OE-Core always asks for its own commit.
        tree.tracked.asks_git |= real(&place.oe_core)?.starts_with(root);
        inputs.add_tree(admission::part_of_tree(root), tree);
    }
    Ok(inputs)
}

/// The trees of these layers as they are now, by the names of their parts; one that cannot be read is skipped.
/// `around` are layers to which their links may lead.
pub fn trees_of(
    place: &Place,
    layers: &[PathBuf],
    around: &[PathBuf],
    cache: &StatCache,
) -> BTreeMap<String, Digest> {
    let all: Vec<PathBuf> = layers.iter().chain(around).cloned().collect();
    let Ok(trees) = trees(place, &all) else { return BTreeMap::new() };
    let around = Surroundings { skip: &place.own, trees: &trees };
    let of_layer = |layer: &PathBuf| {
        let root = root_of(&real(layer).ok()?, &place.own);
        let tree = tree::read(&root, &around, cache).ok()?;
        Some((admission::part_of_tree(&root), tree.listing.digest()))
    };
    layers.iter().filter_map(of_layer).collect()
}

/// The call itself and who calls.
fn add_call(inputs: &mut Inputs, place: &Place, invocation: &Invocation) {
    inputs.add_list(
        "the words of the call",
        query::decisive(&invocation.argv).iter().map(|word| word.as_bytes()),
    );
    inputs.add("build directory", invocation.cwd.as_os_str().as_bytes());
    let mut manner = Encoder::default();
    manner.number(invocation.umask.into()).number(invocation.joined.into());
    inputs.add("umask and streams", manner.finish());
    let user = &place.user;
    let mut who = Encoder::default();
    who.bytes(user.name.as_bytes()).number(user.uid.into()).number(user.gid.into());
    who.bytes(user.home.as_os_str().as_bytes());
    inputs.add("build user", who.finish());
}

/// The whole environment, less what says nothing about a build.
fn add_environment(inputs: &mut Inputs, invocation: &Invocation, trees: &[PathBuf]) -> CacheResult<()> {
    let foreign = foreign_directories(invocation, trees);
    let mut names = BTreeSet::new();
    for (name, value) in &invocation.environment {
        if !names.insert(name) {
            return Err(NotCacheable(format!("the variable {} is there twice", readable(name))));
        }
        // The marker by which the agent knows its children is different in each run.
        if name != agent_process::MARKER && !foreign.contains(name) {
            inputs.add(format!("environment {}", readable(name)), value.as_bytes());
        }
    }
    Ok(())
}

/// Variables by which the agent lets git read directories of another owner (`safe.directory`), where
/// these are none of the trees. The checkout under test lies at another path in each CodeBuild build,
/// and has no part in queries about the layers beside it.
fn foreign_directories(invocation: &Invocation, trees: &[PathBuf]) -> BTreeSet<OsString> {
    let mut foreign = BTreeSet::new();
    for number in 0..invocation.environment.len() {
        let (key, value) = (format!("GIT_CONFIG_KEY_{number}"), format!("GIT_CONFIG_VALUE_{number}"));
        let is_safe = invocation.variable(&key).is_some_and(|name| name == "safe.directory");
        let is_foreign = |directory: &OsStr| {
            let real = fs::canonicalize(directory).unwrap_or_else(|_| directory.into());
            let touches = trees.iter().any(|tree| tree.starts_with(&real) || real.starts_with(tree));
            !touches && real.is_absolute() && !directory.as_bytes().contains(&b'*')
        };
        if is_safe && invocation.variable(&value).is_some_and(is_foreign) {
            foreign.insert(value.into());
        }
    }
    foreign
}

/// Every file of `conf/` in the build directory, by its path there.
fn configuration(build: &Path) -> CacheResult<BTreeMap<PathBuf, Vec<u8>>> {
    for entry in fs::read_dir(build)? {
        let name = entry?.file_name();
        let known = BUILD_ENTRIES.iter().any(|known| name == *known) || name.as_bytes().starts_with(b"tmp");
        if !known {
            return Err(NotCacheable(format!(
                "`{}` in the build directory is nothing that BitBake makes",
                readable(&name)
            )));
        }
    }
    let conf = build.join("conf");
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(&conf) {
        let entry = entry.map_err(|error| NotCacheable(format!("cannot read the configuration: {error}")))?;
        let path = entry.path().strip_prefix(&conf).unwrap_or(entry.path()).to_owned();
        let kind = entry.file_type();
        if kind.is_file() {
            files.insert(path, read::whole(entry.path(), LONGEST_CONF)?);
        } else if !kind.is_dir() {
            return Err(NotCacheable(format!("conf/{} is neither file nor directory", path.display())));
        }
    }
    Ok(files)
}

fn add_configuration(
    inputs: &mut Inputs,
    build: &Path,
    conf: &BTreeMap<PathBuf, Vec<u8>>,
    trees: &[PathBuf],
) -> CacheResult<()> {
    let known: Vec<PathBuf> = trees.iter().cloned().chain([build.to_owned()]).collect();
    for (path, content) in conf {
        let relative = Path::new("conf").join(path);
        let refused = |what: String| {
            Err(NotCacheable(format!("{} reaches outside of the layers: {what}", relative.display())))
        };
        for named in hermeticity::absolute_paths(content) {
            // Links to checkouts lead to what is covered; that they still do is an input.
            let real = real(&named)?;
            if !known.iter().any(|known| real.starts_with(known)) {
                return refused(named.display().to_string());
            }
            // BitBake makes its own directories when it first needs them.
            if real != named || !real.starts_with(build) {
                let name = format!("where {} leads", readable(named.as_os_str()));
                inputs.add(name, real.as_os_str().as_bytes());
            }
        }
        // A file right in conf/ lies nowhere deep.
        if let Some(line) = hermeticity::reaches_out(&relative, content) {
            return refused(line);
        }
        inputs.add(readable(relative.as_os_str()), content);
    }
    Ok(())
}

/// The roots of all files that recipes may read: the repositories of the layers, BitBake, OE-Core.
fn trees(place: &Place, layers: &[PathBuf]) -> CacheResult<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for path in layers.iter().chain([&place.bitbake, &place.oe_core]) {
        roots.push(root_of(&real(path)?, &place.own));
    }
    roots.sort_unstable();
    roots.dedup();
    let covered = |root: &PathBuf| {
        let hidden =
            |other: &PathBuf| place.own.iter().any(|own| own.starts_with(other) && root.starts_with(own));
        roots.iter().any(|other| other != root && root.starts_with(other) && !hidden(other))
    };
    Ok(roots.iter().filter(|root| !covered(root)).cloned().collect())
}

/// The work tree that holds the directory; without git the directory itself. A work tree that holds
/// it only by way of the agent's `own` directories, which are not looked into, is not meant.
fn root_of(directory: &Path, own: &[PathBuf]) -> PathBuf {
    let top = directory.ancestors().find(|path| path.join(".git").symlink_metadata().is_ok());
    let hidden = |top: &Path| own.iter().any(|own| own.starts_with(top) && directory.starts_with(own));
    top.filter(|top| !hidden(top)).unwrap_or(directory).to_owned()
}

fn real(path: &Path) -> CacheResult<PathBuf> {
    fs::canonicalize(path).map_err(|error| NotCacheable(format!("{}: {error}", path.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "inputs_tests.rs"]
mod tests;
