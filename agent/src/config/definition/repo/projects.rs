//! The projects of a manifest of `repo`, with what other elements change in them.

use std::collections::BTreeMap;
use std::path::Path;

use url::Url;

use super::super::super::paths;
use super::super::super::problem::{Diagnostic, Place, Problems};
use super::super::Surroundings;
use super::super::address;
use super::super::build::{self, Table};
use super::xml::Element;

/// Elements without effect on the repositories.
const IGNORED: [&str; 6] =
    ["notice", "repo-hooks", "superproject", "contactinfo", "manifest-server", "annotation"];

/// One repository.
#[derive(Clone, Debug)]
struct Project {
    name: String,
    path: String,
    remote: String,
    revision: String,
    /// The branch that a commit lies on.
    upstream: Option<String>,
    groups: Vec<String>,
    place: Place,
    /// Files that repo would link or copy out of it.
    files: Vec<String>,
}

/// A server.
#[derive(Clone, Debug)]
struct Remote {
    name: String,
    fetch: String,
    revision: Option<String>,
    place: Place,
}

#[derive(Debug, Default)]
pub struct Projects {
    remotes: Vec<Remote>,
    remote: Option<String>,
    revision: Option<String>,
    upstream: Option<String>,
    projects: Vec<Project>,
    /// Projects that are the checkout itself.
    own: Vec<String>,
}

struct Reader<'a> {
    projects: Projects,
    problems: &'a mut Problems,
}

impl Projects {
    pub fn read(
        elements: &[Element],
        around: &Surroundings,
        origin: Option<&Url>,
        problems: &mut Problems,
    ) -> Projects {
        let mut reader = Reader { projects: Projects::default(), problems };
        // Servers and defaults apply to the whole manifest.
        for element in elements {
            match element.name.as_str() {
                "remote" => reader.remote(element),
                "default" => reader.default(element),
                _ => {}
            }
        }
        for element in elements {
            match element.name.as_str() {
                "project" => reader.project(element, None),
                "extend-project" => reader.extend(element),
                "remove-project" => reader.remove(element),
                "remote" | "default" => {}
                name if IGNORED.contains(&name) => {}
                name => {
                    let mistake =
                        Diagnostic::new("is not an element of a manifest of repo that is known here");
                    reader.fault(&element.place, name, mistake);
                }
            }
        }
        let mut projects = reader.projects;
        projects.choose(around);
        projects.remove_own(origin);
        projects
    }

    /// `[repos]`
    pub fn table(
        &self,
        around: &Surroundings,
        origin: Option<&Url>,
        notices: &mut Vec<String>,
        problems: &mut Problems,
    ) -> Table {
        let place = self.projects.first().map(|project| project.place.clone());
        let place = place.unwrap_or_else(|| Place::File { file: "".into(), line: 1, column: 1 });
        let mut table = Table::new(&place);
        let mut named: BTreeMap<String, &Project> = BTreeMap::new();
        for name in &self.own {
            notices.push(format!("project {name} is the checkout itself"));
        }
        for (project, name) in self.projects.iter().zip(self.names()) {
            if !project.files.is_empty() {
                notices.push(format!(
                    "{}: files that repo would link or copy are not made: {}",
                    project.place,
                    project.files.join(", ")
                ));
            }
            let mut repo = Table::new(&project.place);
            match self.url(project, origin) {
                Ok(url) => repo.add("url", build::text(url, &project.place)),
                Err(mistake) => problems.add(project.place.clone(), Some("project".into()), mistake),
            }
            for (key, value) in project.reference() {
                repo.add(key, build::text(value, &project.place));
            }
            table.add(&name, repo.node());
            if let Some(other) = named.insert(name.clone(), project) {
                let mistake = Diagnostic::new(format!("`{name}` is also the name of project {}", other.name));
                let mistake = mistake.hint("give one of them another `path`");
                problems.add(project.place.clone(), Some("project".into()), mistake);
            }
        }
        if !around.choice.is_empty() {
            notices.push(format!("the projects are those of the groups {}", around.choice.join(", ")));
        }
        table
    }

    /// The names of the repositories: the last part of the path, or all of it where two projects have the same last part.
    fn names(&self) -> Vec<String> {
        let last = |project: &Project| {
            let last = Path::new(&project.path).file_name();
            last.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for project in &self.projects {
            *counts.entry(last(project)).or_default() += 1;
        }
        let name = |project: &Project| {
            let name = last(project);
            paths::sanitised(if counts.get(&name) == Some(&1) { &name } else { &project.path })
        };
        self.projects.iter().map(name).collect()
    }

    fn url(&self, project: &Project, origin: Option<&Url>) -> Result<String, Diagnostic> {
        let remote = self.remotes.iter().find(|remote| remote.name == project.remote);
        let Some(remote) = remote else {
            return Err(Diagnostic::new(format!("no `remote` is named `{}`", project.remote)));
        };
        let base = base(&remote.fetch, origin).ok_or_else(|| {
            Diagnostic::new(format!(
                "the address of `{}` is relative to that of the repository of the manifest, which is not known",
                remote.name
            ))
            .hint("clone that repository with git, so that it has a remote `origin`")
        })?;
        Ok(format!("{}/{}", base.trim_end_matches('/'), project.name))
    }

    /// The groups of `--choose`; without it, all but `notdefault`.
    fn choose(&mut self, around: &Surroundings) {
        let default = ["default".to_owned()];
        let words = if around.choice.is_empty() { &default[..] } else { around.choice };
        self.projects.retain(|project| {
            let has = |group: &str| match group {
                "all" => true,
                "default" => !project.groups.iter().any(|group| group == "notdefault"),
                _ => project.groups.iter().any(|own| own == group),
            };
            // The last word that names a group of the project decides.
            words.iter().fold(false, |is_in, word| match word.strip_prefix('-') {
                Some(group) => is_in && !has(group),
                None => is_in || has(word),
            })
        });
    }

    /// The manifest may lie in a repository that it names.
    fn remove_own(&mut self, origin: Option<&Url>) {
        let plain = |url: &str| url.trim_end_matches('/').trim_end_matches(".git").to_owned();
        let Some(own) = origin.map(|origin| plain(origin.as_str())) else { return };
        let is_own: Vec<bool> = self
            .projects
            .iter()
            .map(|project| self.url(project, origin).is_ok_and(|url| plain(&url) == own))
            .collect();
        let mut is_own = is_own.into_iter();
        let own = &mut self.own;
        self.projects.retain(|project| {
            let is_own = is_own.next().unwrap_or(false);
            own.extend(is_own.then(|| project.name.clone()));
            !is_own
        });
    }
}

impl Project {
    /// `revision` is a commit, `refs/tags/NAME`, or a branch.
    fn reference(&self) -> Vec<(&'static str, String)> {
        let text = self.revision.as_str();
        let branch = |name: &str| name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
        if matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let upstream = self.upstream.iter().filter(|upstream| !upstream.starts_with("refs/tags/"));
            let upstream = upstream.map(|upstream| ("branch", branch(upstream)));
            return upstream.chain([("commit", text.to_owned())]).collect();
        }
        match text.strip_prefix("refs/tags/") {
            Some(tag) => vec![("tag", tag.to_owned())],
            None => vec![("branch", branch(text))],
        }
    }
}

impl Reader<'_> {
    fn fault(&mut self, place: &Place, element: &str, mistake: Diagnostic) {
        self.problems.add(place.clone(), Some(element.to_owned()), mistake);
    }

    fn needed<'e>(&mut self, element: &'e Element, key: &str) -> Option<&'e str> {
        let found = element.get(key);
        if found.is_none() {
            self.fault(&element.place, &element.name, Diagnostic::new(format!("has no `{key}`")));
        }
        found
    }

    fn remote(&mut self, element: &Element) {
        let (Some(name), Some(fetch)) = (self.needed(element, "name"), self.needed(element, "fetch")) else {
            return;
        };
        let revision = element.get("revision").map(str::to_owned);
        let new =
            Remote { name: name.to_owned(), fetch: fetch.to_owned(), revision, place: element.place.clone() };
        match self.projects.remotes.iter().find(|remote| remote.name == name) {
            None => self.projects.remotes.push(new),
            Some(old) if (&old.fetch, &old.revision) == (&new.fetch, &new.revision) => {}
            Some(old) => {
                let mistake = Diagnostic::new(format!("`{name}` has another address in {}", old.place));
                self.fault(&element.place, "remote", mistake);
            }
        }
    }

    fn default(&mut self, element: &Element) {
        let projects = &mut self.projects;
        let slots = [
            ("remote", &mut projects.remote),
            ("revision", &mut projects.revision),
            ("upstream", &mut projects.upstream),
        ];
        let mut differs = false;
        for (key, slot) in slots {
            let value = element.get(key).map(str::to_owned);
            differs |= slot.is_some() && value.is_some() && *slot != value;
            *slot = slot.take().or(value);
        }
        if differs {
            let mistake = Diagnostic::new("contradicts another `default`");
            self.fault(&element.place, "default", mistake);
        }
    }

    fn project(&mut self, element: &Element, outer: Option<&Project>) {
        let Some(own) = self.needed(element, "name") else { return };
        let own_path = element.get("path").unwrap_or(own).trim_end_matches('/');
        // A project in another one is relative to it.
        let below = |outer: &str, own: &str| format!("{outer}/{own}");
        let (name, path) = match outer {
            Some(outer) => (below(&outer.name, own), below(&outer.path, own_path)),
            None => (own.to_owned(), own_path.to_owned()),
        };
        let mut groups = words(element.get("groups"));
        groups.extend([format!("name:{name}"), format!("path:{path}")]);
        let remote = element.get("remote").map(str::to_owned);
        let Some(remote) = remote.or_else(|| self.projects.remote.clone()) else {
            let mistake = Diagnostic::new("has no `remote`, and there is no default");
            return self.fault(&element.place, "project", mistake);
        };
        let of_remote = || {
            let remote = self.projects.remotes.iter().find(|other| other.name == remote)?;
            remote.revision.clone()
        };
        let revision = element.get("revision").map(str::to_owned).or_else(of_remote);
        let Some(revision) = revision.or_else(|| self.projects.revision.clone()) else {
            let mistake = Diagnostic::new("has no `revision`, and there is no default");
            return self.fault(&element.place, "project", mistake);
        };
        let upstream = element.get("upstream").map(str::to_owned).or_else(|| self.projects.upstream.clone());
        let (place, files) = (element.place.clone(), files(element));
        let project = Project { name, path, remote, revision, upstream, groups, place, files };
        if self.projects.projects.iter().any(|other| other.path == project.path) {
            let mistake = Diagnostic::new(format!("another project has the path `{}`", project.path));
            self.fault(&element.place, "project", mistake);
        }
        self.projects.projects.push(project.clone());
        for inner in element.children.iter().filter(|inner| inner.name == "project") {
            self.project(inner, Some(&project));
        }
    }

    fn extend(&mut self, element: &Element) {
        let Some(name) = self.needed(element, "name") else { return };
        let path = element.get("path");
        let mut is_known = false;
        for project in &mut self.projects.projects {
            if project.name != name || path.is_some_and(|path| path != project.path) {
                continue;
            }
            is_known = true;
            let text = |key: &str| element.get(key).map(str::to_owned);
            project.path = text("dest-path").unwrap_or_else(|| project.path.clone());
            project.revision = text("revision").unwrap_or_else(|| project.revision.clone());
            project.remote = text("remote").unwrap_or_else(|| project.remote.clone());
            project.upstream = text("upstream").or_else(|| project.upstream.clone());
            project.groups.extend(words(element.get("groups")));
            project.files.extend(files(element));
        }
        if !is_known {
            self.fault(&element.place, "extend-project", unknown(name));
        }
    }

    fn remove(&mut self, element: &Element) {
        let (name, path) = (element.get("name"), element.get("path"));
        if name.is_none() && path.is_none() {
            let mistake = Diagnostic::new("has neither `name` nor `path`");
            return self.fault(&element.place, "remove-project", mistake);
        }
        let before = self.projects.projects.len();
        self.projects.projects.retain(|project| {
            name.is_some_and(|name| name != project.name) || path.is_some_and(|path| path != project.path)
        });
        let is_optional = element.get("optional").is_some_and(|word| ["true", "yes", "1"].contains(&word));
        if self.projects.projects.len() == before && !is_optional {
            self.fault(&element.place, "remove-project", unknown(name.or(path).unwrap_or_default()));
        }
    }
}

/// The address of a server. `None`, if it is relative and that of the manifest is not known.
fn base(fetch: &str, origin: Option<&Url>) -> Option<String> {
    let url = address::url(fetch.trim_end_matches('/'));
    match Url::parse(&url) {
        // As repo joins them: the last part of the path is replaced.
        Err(url::ParseError::RelativeUrlWithoutBase) => Some(origin?.join(&url).ok()?.into()),
        _ => Some(url),
    }
}

fn unknown(name: &str) -> Diagnostic {
    Diagnostic::new(format!("no project `{name}` comes before it"))
}

fn words(text: Option<&str>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The `linkfile` and `copyfile` of a project.
fn files(element: &Element) -> Vec<String> {
    let files = element.children.iter().filter(|file| ["linkfile", "copyfile"].contains(&file.name.as_str()));
    files.filter_map(|file| Some(format!("{} -> {}", file.get("src")?, file.get("dest")?))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_relative_to_that_of_the_manifest() {
        let origin = Url::parse("https://host/group/manifests/default").unwrap();
        for (fetch, alone, joined) in [
            ("https://far/git/", Some("https://far/git"), "https://far/git"),
            ("git@far:group", Some("ssh://git@far/group"), "ssh://git@far/group"),
            ("/srv/git", Some("file:///srv/git"), "file:///srv/git"),
            ("..", None, "https://host/group/"),
            ("../..", None, "https://host/"),
            ("../mirrors", None, "https://host/group/mirrors"),
            ("mirrors", None, "https://host/group/manifests/mirrors"),
        ] {
            assert_eq!(base(fetch, None).as_deref(), alone, "{fetch}");
            assert_eq!(base(fetch, Some(&origin)).as_deref(), Some(joined), "{fetch}");
        }
    }
}
