//! kas itself, and the comparison of its view of a definition with the agent's plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use build_agent_tests::{agent, skip};

/// A definition: files in a directory, as on the command line.
#[derive(Clone, Debug)]
pub struct Case {
    pub dir: PathBuf,
    pub files: String,
}

/// How kas and the agent judge a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    Same,
    BothRefuse,
    /// The agent refuses something on purpose.
    ByDesign(String),
    /// Only a server knows.
    NeedsServer,
    Differs(String),
}

/// Python with kas: of `BUILD_AGENT_TEST_KAS`, of `BUILD_AGENT_TEST_VENV`, or of the system.
pub fn python(test: &str) -> Option<PathBuf> {
    let in_venv = |name: &str| std::env::var_os(name).map(|venv| Path::new(&venv).join("bin/python"));
    let all = [in_venv("BUILD_AGENT_TEST_KAS"), in_venv("BUILD_AGENT_TEST_VENV"), Some("python3".into())];
    let has_kas = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import kas"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = all.into_iter().flatten().find(has_kas);
    if found.is_none() {
        skip(
            test,
            "no kas in $BUILD_AGENT_TEST_KAS, $BUILD_AGENT_TEST_VENV or of the system (pip install kas)",
        );
    }
    found
}

/// What kas makes of the definitions.
pub fn views(python: &Path, cases: &[Case]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions/kas_view.py");
    let mut child = Command::new(python)
        .arg(script)
        .env_remove("KAS_WORK_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let jobs: Vec<Value> = cases.iter().map(|case| json!({ "dir": case.dir, "files": case.files })).collect();
    let text = Value::Array(jobs).to_string();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let Value::Array(views) = serde_json::from_slice(&output.stdout).unwrap() else { panic!("a list") };
    assert_eq!(views.len(), cases.len());
    views
}

/// The agent's plan, or its error.
pub fn plan(case: &Case) -> Result<Value, String> {
    let work = case.dir.join(".work");
    let output = agent()
        .args(["plan", &case.files, "--json", "--release", "scarthgap", "--work-dir"])
        .arg(work)
        .current_dir(&case.dir)
        .output()
        .unwrap();
    settings(&output, case)
}

/// The settings that `build-agent plan --json` printed, or its error.
pub fn settings(output: &Output, case: &dyn Debug) -> Result<Value, String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap()["settings"].clone()),
        Some(2) => Err(said),
        Some(4) => Err(format!("server: {said}")),
        code => panic!("{case:?}: exit status {code:?}: {said}"),
    }
}

/// Makes the local directories and layers that a definition names, as its project would have them.
pub fn make_local(view: &Value, dir: &Path) {
    for repo in view["repos"].as_array().into_iter().flatten().filter(|repo| repo["url"].is_null()) {
        let top = PathBuf::from(repo["path"].as_str().unwrap());
        if !top.starts_with(dir) {
            continue;
        }
        std::fs::create_dir_all(&top).unwrap();
        for layer in repo["layers"].as_array().unwrap() {
            let conf = top.join(layer.as_str().unwrap()).join("conf");
            std::fs::create_dir_all(&conf).unwrap();
            let file = conf.join("layer.conf");
            if !file.exists() {
                std::fs::write(file, "").unwrap();
            }
        }
    }
}

/// What the agent refuses on purpose, and a word of its message.
const BY_DESIGN: [(&str, &str); 18] = [
    ("two repositories of one name", "is also the name of"),
    // kas finds these later.
    ("a missing patch", "cannot read the patch"),
    ("a missing key", "cannot read the key"),
    ("a patch of an unknown repository", "is not one of `repos`"),
    ("a placeholder", "contains a space"),
    ("no repository at all", "names no repository"),
    ("Isar", "Isar is not supported"),
    ("Mercurial", "Mercurial"),
    ("the menu", "kas menu"),
    ("a signature of a local directory", "signatures of a local directory"),
    ("a key of a key server", "would come from a key server"),
    ("a short commit", "is an abbreviated commit id"),
    ("a credential", "name of a credential"),
    ("an own variable", "is set by the agent"),
    ("a clean task", "clean task"),
    ("a relative URL", "is not a URL"),
    ("a key that is no string", "not a string"),
    ("two merged values", "from two mappings"),
];

/// Compares the two.
pub fn compare(case: &Case, view: &Value, plan: &Result<Value, String>) -> Agreement {
    if view.get("missing").is_some() {
        return Agreement::NeedsServer;
    }
    let kas_error = view["error"].as_str();
    match (kas_error, plan) {
        (Some(_), Err(_)) => Agreement::BothRefuse,
        (Some(error), Ok(_)) => Agreement::Differs(format!("only kas refuses: {error}")),
        (None, Err(said)) if said.starts_with("server: ") => Agreement::NeedsServer,
        (None, Err(said)) => match BY_DESIGN.iter().find(|(_, words)| said.contains(words)) {
            Some((what, _)) => Agreement::ByDesign((*what).to_owned()),
            None => Agreement::Differs(format!("only the agent refuses: {said}")),
        },
        (None, Ok(plan)) => match differences(case, view, plan) {
            differences if differences.is_empty() => Agreement::Same,
            differences => Agreement::Differs(differences.join("; ")),
        },
    }
}

fn differences(case: &Case, view: &Value, plan: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut same = |what: &str, kas: Value, agent: Value| {
        if kas != agent {
            found.push(format!("{what}: kas {kas}, agent {agent}"));
        }
    };
    same("repos", repos_of_kas(case, view), repos_of_plan(plan));
    let layers = |pairs: Vec<(String, String)>| json!(pairs);
    let of_kas = view["bblayers"].as_array().unwrap().iter();
    let of_kas = of_kas.map(|pair| (text(&pair[0]), plain(&text(&pair[1])))).collect();
    let of_plan = plan["bblayers"].as_array().unwrap().iter();
    let of_plan = of_plan.map(|one| (text(&one["repo"]), plain(&text(&one["layer"])))).collect();
    same("layers", layers(of_kas), layers(of_plan));
    same("buildtools", view["buildtools"].clone(), plan["buildtools"].clone());
    let config = &plan["config"];
    same("machine", json!([view["machine"]]), config["machines"].clone());
    for key in ["distro", "local_conf", "bblayers_conf", "env"] {
        same(key, view[key].clone(), config[key].clone());
    }
    let sorted = |list: &Value| {
        let all: BTreeSet<String> = list.as_array().unwrap().iter().map(text).collect();
        json!(all)
    };
    same("multiconfigs", sorted(&view["multiconfigs"]), sorted(&config["multiconfigs"]));
    let task = text(&view["task"]);
    let with_task = |target: String| if task == "build" { target } else { format!("{target}:do_{task}") };
    let targets: Vec<String> =
        view["targets"].as_array().unwrap().iter().map(|target| with_task(text(target))).collect();
    same("targets", json!(targets), plan["build"]["targets"].clone());
    found
}

/// Which commit of each repository a definition names, except of the checkout.
type Wanted = BTreeMap<String, BTreeMap<&'static str, Value>>;

fn repos_of_kas(case: &Case, view: &Value) -> Value {
    let mut repos = Wanted::new();
    let checkout = case.dir.to_str().unwrap();
    for repo in view["repos"].as_array().unwrap() {
        let is_local = repo["url"].is_null();
        if is_local && text(&repo["path"]).trim_end_matches('/') == checkout {
            continue;
        }
        let mut wanted = BTreeMap::new();
        let refspec = repo["refspec"].as_str();
        let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_local {
            wanted.insert("path", json!(text(&repo["path"]).trim_end_matches('/')));
        } else {
            wanted.insert("url", json!(url(&text(&repo["url"]))));
            let commit = repo["commit"].as_str().or(refspec.filter(|text| is_commit(text)));
            let tag = repo["tag"].as_str().map(reference);
            let branch = repo["branch"].as_str().or(refspec.filter(|text| !is_commit(text))).map(reference);
            wanted.insert("commit", json!(commit));
            wanted.insert("branch", json!(branch));
            wanted.insert("tag", json!(tag));
        }
        let mut layers: Vec<String> =
            repo["layers"].as_array().unwrap().iter().map(|layer| plain(&text(layer))).collect();
        layers.sort();
        wanted.insert("layers", json!(layers));
        if !is_local {
            wanted.insert("patches", json!(repo["patches"].as_array().map_or(0, Vec::len)));
        }
        repos.insert(text(&repo["name"]), wanted);
    }
    json!(repos)
}

fn repos_of_plan(plan: &Value) -> Value {
    let mut repos = Wanted::new();
    for repo in plan["repos"].as_array().unwrap() {
        let of_plan = repo;
        let mut wanted = BTreeMap::new();
        if of_plan["path"].is_string() {
            wanted.insert("path", of_plan["path"].clone());
        } else {
            wanted.insert("url", json!(url(&text(&of_plan["url"]))));
            for key in ["commit", "branch", "tag"] {
                wanted.insert(key, of_plan[key].clone());
            }
            wanted.insert("patches", json!(repo["patches"].as_array().map_or(0, Vec::len)));
        }
        let mut layers: Vec<String> =
            repo["layers"].as_array().unwrap().iter().map(|layer| plain(&text(layer))).collect();
        layers.sort();
        wanted.insert("layers", json!(layers));
        repos.insert(text(&repo["name"]), wanted);
    }
    json!(repos)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A layer's path: the repository itself has several names.
fn plain(layer: &str) -> String {
    let parts = layer.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

fn reference(text: &str) -> String {
    let text = text.strip_prefix("refs/").unwrap_or(text);
    text.strip_prefix("heads/").or_else(|| text.strip_prefix("tags/")).unwrap_or(text).to_owned()
}

/// One form of the forms of an address.
fn url(text: &str) -> String {
    let text = text.trim_end_matches('/');
    match text.split_once(':') {
        Some((host, path)) if !text.contains("://") => {
            format!("ssh://{host}/{}", path.trim_start_matches('/'))
        }
        _ => text.to_owned(),
    }
}
