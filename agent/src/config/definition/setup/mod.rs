//! bitbake-setup: `*.conf.json` with a configuration and fragments of it chosen on the command line, and what
//! `bitbake-setup init` leaves in its `config/` directory. Also `setup-layers.json` of `oe-setup-layers`, which names
//! repositories only. The semantics are those of `bin/bitbake-setup` 2.19.

mod choice;

use std::path::{Path, PathBuf};

use agent_fs::untrusted;

use super::super::bitbake_variables::name_of_variable;
use super::super::problem::{Diagnostic, Place, Problems};
use super::super::tree::{Entry, Node, Value};
use super::super::{paths, values};
use super::build::{self, Table};
use super::lock::{LockFile, LockFormat, is_replaced};
use super::yaml::{Syntax, parse};
use super::{Parts, Question, Surroundings, Tree, address};

use choice::Choice;

/// What `bitbake-setup` writes beside a configuration: the revisions that it checked out.
const FIXED: &str = "sources-fixed-revisions.json";

/// Whether the file is one of bitbake-setup or of oe-setup-layers.
pub fn is_setup(root: &Node) -> bool {
    root.child("sources").is_some() || root.child("data").is_some_and(|data| data.child("sources").is_some())
}

/// The manifest that the file means.
pub fn translate(
    file: &Path,
    root: &Node,
    tree: &Tree,
    around: &Surroundings,
    problems: &mut Problems,
) -> Parts {
    let data = root.child("data").unwrap_or(root);
    let mut parts = Parts::default();
    parts.files.push(tree.named(file));
    let fixed = fixed_revisions(file, tree, around, &mut parts, problems);
    let sources = Sources::read(data, root, fixed.as_ref(), around, &mut parts, problems);
    let place = &data.place;
    let mut manifest = Table::new(place);
    manifest.add("version", build::integer(1, place));
    let stem = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(&stem);
    let stem = stem.strip_suffix(".conf").unwrap_or(stem).to_owned();
    let setup = data.child("bitbake-setup");
    if let Some(date) = data.child("expires").and_then(Node::as_text) {
        parts.notices.push(format!("{}: its authors support it until {date}", tree.shown(file)));
    }
    let configurations = setup.and_then(|setup| setup.child("configurations"));
    if let (Some(setup), None) = (setup, configurations) {
        let mistake =
            Diagnostic::new("has no `configurations`").hint("is the file of an older bitbake-setup?");
        problems.add(setup.place.clone(), Some("bitbake-setup".into()), mistake);
        return parts;
    }
    let Some(configurations) = configurations else {
        manifest.add("name", build::text(paths::sanitised(&stem), place));
        manifest.add("repos", sources.table(&[]).node());
        add_layers(&mut manifest, own_layer(around, place), place);
        parts.notices.push(format!(
            "{} names repositories and no layers: those that a job needs are named by --set 'repos.NAME.layers=[\"…\"]'",
            tree.shown(file)
        ));
        parts.manifest = Some(manifest.node());
        return parts;
    };
    let words = chosen_words(root, around);
    let skipped = root.child("skip-selection");
    let Some(choice) = choice::choose(configurations, &words, skipped, problems) else { return parts };
    manifest.add("name", build::text(paths::sanitised(&format!("{stem}-{}", choice.name)), place));
    let base = base_of_layers(file, root, tree);
    let layers = Layers::read(&choice, &sources, &base, around, &mut parts, problems);
    manifest.add("repos", sources.table(&layers.of_repos).node());
    let under_test = match layers.under_test.is_empty() {
        true => own_layer(around, place),
        false => layers.under_test,
    };
    add_layers(&mut manifest, under_test, place);
    manifest.add("config", configuration(&choice, around, place, &mut parts, problems));
    if let Some(buildtools) = choice.get("install-buildtools") {
        manifest.add("buildtools", buildtools_table(buildtools, problems));
        parts.notices.push(
            "bitbake-setup installs buildtools only on request, and this job uses them; \
             --set buildtools.enabled=false uses the tools of this machine or image"
                .into(),
        );
    }
    parts.manifest = Some(manifest.node());
    parts
}

/// `[buildtools]`
fn buildtools_table(buildtools: &Node, problems: &mut Problems) -> Node {
    let mut table = Table::new(&buildtools.place);
    for (key, name) in [("url", "url"), ("sha256sum", "sha256")] {
        match buildtools.child(key) {
            Some(node) => table.add(name, node.clone()),
            None => {
                let mistake = Diagnostic::new(format!("has no `{key}`"))
                    .hint("without a checksum, nothing that was downloaded is run");
                problems.add(buildtools.place.clone(), Some("install-buildtools".into()), mistake);
            }
        }
    }
    table.node()
}

/// `[layer]`; without a layer, the job only builds.
pub fn add_layers(manifest: &mut Table, layers: Vec<Node>, place: &Place) {
    let is_empty = layers.is_empty();
    let mut layer = Table::new(place);
    layer.add("paths", build::list(layers, place));
    manifest.add("layer", layer.node());
    if is_empty {
        let mut check = Table::new(place);
        check.add("yocto_check_layer", build::flag(false, place));
        manifest.add("check", check.node());
    }
}

/// The checkout itself, if it is a layer: a configuration for checks names only the other ones.
pub fn own_layer(around: &Surroundings, place: &Place) -> Vec<Node> {
    let is_layer = around.checkout.join("conf/layer.conf").is_file();
    if is_layer { vec![build::text(".", place)] } else { Vec::new() }
}

/// The words of the command line; without any, those that `bitbake-setup init` recorded.
fn chosen_words(root: &Node, around: &Surroundings) -> Vec<String> {
    if !around.choice.is_empty() {
        return around.choice.to_vec();
    }
    match root.child("non-interactive-cmdline-options").map(|node| &node.value) {
        // The first one is the file.
        Some(Value::Array(words)) => {
            words.iter().skip(1).filter_map(Node::as_text).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Where relative layers start: the directory of the file, or of the file that `bitbake-setup init` read.
fn base_of_layers(file: &Path, root: &Node, tree: &Tree) -> PathBuf {
    let recorded = root.child("data").and(root.child("path")).and_then(Node::as_text).map(PathBuf::from);
    let file = recorded.unwrap_or_else(|| tree.named(file));
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// The lock, without the pins that are being replaced.
fn fixed_revisions(
    file: &Path,
    tree: &Tree,
    around: &Surroundings,
    parts: &mut Parts,
    problems: &mut Problems,
) -> Option<Node> {
    let beside = file.with_file_name(FIXED);
    if beside == file {
        return None;
    }
    let shown = tree.shown(&beside);
    let lock = LockFile::new(LockFormat::Setup, tree.named(&beside), shown.clone());
    parts.files.push(lock.path.clone());
    if !beside.is_file() {
        parts.locks.push(lock);
        return None;
    }
    let bytes = tree
        .inside(&beside)
        .and_then(|real| untrusted::read_named(&real, untrusted::PAGE).map_err(|error| error.to_string()));
    match bytes {
        Ok(bytes) => {
            let fixed = parse(&shown, &bytes, Syntax::Json, problems, &mut parts.notices)?;
            let mut sources = fixed.child("sources").cloned();
            parts.locks.push(LockFile { tree: fixed, ..lock });
            if let Some(Value::Table(pins)) = sources.as_mut().map(|sources| &mut sources.value) {
                pins.retain(|pin| !is_replaced(around.updates, &pin.key));
            }
            sources
        }
        Err(why) => {
            let place = Place::File { file: shown.as_str().into(), line: 1, column: 1 };
            problems.add(place, None, Diagnostic::new(why));
            None
        }
    }
}

/// One source.
struct Source {
    name: String,
    /// In the directory of layers.
    path: String,
    table: Table,
    entry: Entry,
}

struct Sources(Vec<Source>);

impl Sources {
    fn read(
        data: &Node,
        root: &Node,
        fixed: Option<&Node>,
        around: &Surroundings,
        parts: &mut Parts,
        problems: &mut Problems,
    ) -> Sources {
        let overrides = root.child("source-overrides").and_then(|overrides| overrides.child("sources"));
        let mut sources = Vec::new();
        for entry in data.child("sources").map(Node::entries).unwrap_or_default() {
            // The checkout holds the file: it is there already.
            if entry.node.child("contains_this_file").is_some_and(|node| node.value == Value::Boolean(true)) {
                continue;
            }
            let node = overrides.and_then(|overrides| overrides.child(&entry.key)).unwrap_or(&entry.node);
            let path = node.child("path").and_then(Node::as_text).unwrap_or(&entry.key).to_owned();
            let mut table = Table::new(&entry.place);
            let fault = |problems: &mut Problems, place: &Place, mistake: Diagnostic| {
                problems.add(place.clone(), Some(format!("sources.{}", entry.key)), mistake);
            };
            if let Some(local) = node.child("local").and_then(|local| local.child("path")) {
                let directory = values::normal(&around.work_dir.join(local.as_text().unwrap_or_default()));
                table.add("path", build::text(directory.display().to_string(), &local.place));
            } else if let Some(remote) = node.child("git-remote") {
                let remotes = remote.child("remotes").map(Node::entries).unwrap_or_default();
                // The revision can be a branch of a remote: `mirror/master`.
                let rev = remote.child("rev").and_then(Node::as_text).unwrap_or_default();
                let of_rev = |remote: &&Entry| is_branch_of(&remote.key, rev);
                let named = remotes.iter().find(of_rev).or(remotes.first());
                let uri = remote.child("uri").or_else(|| named.and_then(|remote| remote.node.child("uri")));
                match uri {
                    Some(uri) => table.add("url", address::from_kas(uri)),
                    None => {
                        fault(problems, &remote.place, Diagnostic::new("has neither `uri` nor `remotes`"))
                    }
                }
                let of_fixed =
                    fixed.and_then(|fixed| fixed.child(&entry.key)?.child("git-remote")?.child("rev"));
                let is_missing = of_fixed.is_none() && remote.child("rev").is_none();
                if is_missing {
                    fault(problems, &remote.place, Diagnostic::new("has no `rev`"));
                }
                revision(&entry.key, remote, of_fixed, around, &mut table, parts);
            } else {
                fault(problems, &entry.place, Diagnostic::new("has neither `git-remote` nor `local`"));
            }
            parts.keys.push((entry.key.clone(), entry.key.clone()));
            sources.push(Source { name: entry.key.clone(), path, table, entry: entry.clone() });
        }
        Sources(sources)
    }

    /// The source that a layer lies in, and its path there.
    fn of_layer(&self, layer: &str) -> Option<(&Source, String)> {
        let layer = layer.trim_end_matches('/');
        let inner = |source: &Source| {
            if layer == source.path {
                return Some(".".to_owned());
            }
            Some(layer.strip_prefix(&source.path)?.strip_prefix('/')?.to_owned())
        };
        let fitting = self.0.iter().filter_map(|source| Some((source, inner(source)?)));
        fitting.max_by_key(|(source, _)| source.path.len())
    }

    /// `[repos]`, in the order of their layers. Priorities keep an order in which repositories alternate.
    fn table(&self, layers: &[(String, String, Place)]) -> Table {
        let place = self.0.first().map_or_else(unknown_place, |source| source.entry.place.clone());
        let mut order: Vec<&str> = Vec::new();
        for (name, ..) in layers {
            if !order.contains(&name.as_str()) {
                order.push(name);
            }
        }
        let rank =
            |source: &&Source| order.iter().position(|name| *name == source.name).unwrap_or(usize::MAX);
        let mut sorted: Vec<&Source> = self.0.iter().collect();
        sorted.sort_by_key(rank);
        let grouped = order.iter().flat_map(|name| layers.iter().filter(move |(other, ..)| other == name));
        let core_is_first = layers.first().is_none_or(|(_, layer, _)| layer == "meta");
        let is_grouped = grouped.eq(layers.iter()) && core_is_first;
        let mut table = Table::new(&place);
        for source in sorted {
            let mut repo = source.table.clone();
            let own = layers.iter().enumerate().filter(|(_, (name, ..))| *name == source.name);
            let items: Vec<Node> = own
                .map(|(at, (_, layer, place))| {
                    let path = build::text(layer.as_str(), place);
                    if is_grouped {
                        return path;
                    }
                    let mut table = Table::new(place);
                    table.add("path", path);
                    table.add("priority", build::integer((layers.len() - at) as i64, place));
                    table.node()
                })
                .collect();
            if !items.is_empty() {
                let place = items[0].place.clone();
                repo.add("layers", build::list(items, &place));
            }
            table.add(&source.name, repo.node());
        }
        table
    }
}

fn unknown_place() -> Place {
    Place::File { file: "".into(), line: 1, column: 1 }
}

fn is_branch_of(remote: &str, rev: &str) -> bool {
    rev.strip_prefix(remote).is_some_and(|rest| rest.starts_with('/'))
}

/// `rev` is a commit, a branch or a tag.
fn revision(
    key: &str,
    remote: &Node,
    fixed: Option<&Node>,
    around: &Surroundings,
    table: &mut Table,
    parts: &mut Parts,
) {
    let is_commit = |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    // oe-setup-layers writes HEAD for a checkout without a branch.
    let is_branch = |node: &&Node| !node.is_null() && node.as_text() != Some("HEAD");
    let branch = remote.child("branch").filter(is_branch);
    let rev = remote.child("rev");
    let fixed = fixed.filter(|rev| rev.as_text().is_some_and(is_commit));
    let commit = fixed.or(rev.filter(|rev| rev.as_text().is_some_and(is_commit)));
    if let Some(commit) = commit {
        table.add_some("branch", branch.cloned());
        return table.add("commit", commit.clone());
    }
    let Some(rev) = rev else { return };
    let text = rev.as_text().unwrap_or_default();
    let remotes = remote.child("remotes").map(Node::entries).unwrap_or_default();
    if let Some(remote) = remotes.iter().find(|remote| is_branch_of(&remote.key, text)) {
        return table.add("branch", build::text(&text[remote.key.len() + 1..], &rev.place));
    }
    if branch.and_then(Node::as_text) == Some(text) {
        return table.add("branch", rev.clone());
    }
    let known = (key.to_owned(), text.to_owned());
    let is_tag = text.starts_with("refs/tags/") || around.tags.contains(&known);
    if !is_tag {
        parts.questions.push(Question { key: key.to_owned(), name: key.to_owned(), text: text.to_owned() });
    }
    let plain = text.trim_start_matches("refs/tags/").trim_start_matches("refs/heads/");
    table.add(if is_tag { "tag" } else { "branch" }, build::text(plain, &rev.place));
}

/// The layers of a configuration.
struct Layers {
    /// Name of the source, path in it.
    of_repos: Vec<(String, String, Place)>,
    under_test: Vec<Node>,
}

impl Layers {
    fn read(
        choice: &Choice,
        sources: &Sources,
        base: &Path,
        around: &Surroundings,
        parts: &mut Parts,
        problems: &mut Problems,
    ) -> Layers {
        let mut layers = Layers { of_repos: Vec::new(), under_test: Vec::new() };
        for layer in choice.list("bb-layers") {
            let text = layer.as_text().unwrap_or_default();
            match sources.of_layer(text) {
                Some((source, inner)) => {
                    layers.of_repos.push((source.name.clone(), inner, layer.place.clone()))
                }
                None => {
                    let mistake = Diagnostic::new(format!("`{text}` lies in none of `sources`"));
                    problems.add(layer.place.clone(), Some("bb-layers".into()), mistake);
                }
            }
        }
        for layer in choice.list("bb-layers-file-relative") {
            let text = layer.as_text().unwrap_or_default();
            let path = values::normal(&base.join(text));
            if let Ok(inner) = path.strip_prefix(around.checkout) {
                let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
                layers.under_test.push(build::text(inner.display().to_string(), &layer.place));
            } else if path.parent() == around.checkout.parent() && !path.exists() {
                // The file names the checkout by the name of its directory, which is another one here.
                parts.notices.push(format!("{}: `{text}` is taken for the checkout itself", layer.place));
                layers.under_test.push(build::text(".", &layer.place));
            } else {
                let mistake = Diagnostic::new(format!("`{text}` lies outside of the checkout under test"));
                let hint = "name its repository in `sources`, and the layer in `bb-layers`";
                problems.add(layer.place.clone(), Some("bb-layers-file-relative".into()), mistake.hint(hint));
            }
        }
        if layers.of_repos.is_empty() && choice.get("oe-template").is_some() {
            let place = choice.get("oe-template").map_or_else(unknown_place, |node| node.place.clone());
            let mistake = Diagnostic::new("a configuration of templates alone is not supported");
            let hint =
                "name its layers in `bb-layers`; `[config] templateconf` of a manifest takes a template";
            problems.add(place, Some("oe-template".into()), mistake.hint(hint));
        } else if choice.get("oe-template").is_some() {
            parts.notices.push("`oe-template` is not used: the layers are those of `bb-layers`".into());
        }
        layers
    }
}

/// Machine and distro are fragments that BitBake has built in; the others are files of layers.
fn configuration(
    choice: &Choice,
    around: &Surroundings,
    place: &Place,
    parts: &mut Parts,
    problems: &mut Problems,
) -> Node {
    let mut config = Table::new(place);
    let mut more = Vec::new();
    let (mut machine, mut distro) = (None, None);
    for fragment in &choice.fragments {
        let text = fragment.as_text().unwrap_or_default();
        match text.split_once('/') {
            Some(("machine", name)) => machine = Some(build::text(name, &fragment.place)),
            Some(("distro", name)) => distro = Some(build::text(name, &fragment.place)),
            _ => more.push(text),
        }
    }
    if let Some(machine) = machine {
        let place = machine.place.clone();
        config.add("machines", build::list(vec![machine], &place));
    }
    // OE-Core's default.
    config.add("distro", distro.unwrap_or_else(|| build::text("nodistro", place)));
    let mut text = String::new();
    for fragment in &more {
        match fragment.chars().all(|c| c.is_ascii_alphanumeric() || "._/-+".contains(c)) {
            true => text += &format!("OE_FRAGMENTS += \"{fragment}\"\n"),
            false => {
                let mistake = Diagnostic::new(format!("`{fragment}` is not the name of a fragment"));
                problems.add(place.clone(), Some("oe-fragments".into()), mistake);
            }
        }
    }
    if !text.is_empty() {
        config.add("local_conf", build::text(text, place));
    }
    let mut env = Table::new(place);
    for variable in choice.list("bb-env-passthrough-additions") {
        let name = variable.as_text().unwrap_or_default();
        if let Err(mistake) = name_of_variable(name) {
            problems.add(variable.place.clone(), Some("bb-env-passthrough-additions".into()), mistake);
        } else if let Some(value) = around.variables.get(name) {
            parts.notices.push(format!("env {name}: the value is that of this machine's environment"));
            env.add(name, build::text(value.as_str(), &variable.place));
        }
    }
    config.add_table("env", env);
    config.node()
}
