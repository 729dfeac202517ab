//! Random definitions through kas and the agent: the rules of merging, includes, locks, defaults and overrides.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::kas::{Agreement, Case, compare, make_local, plan, python, views};
use build_agent_tests::git;

/// xorshift64*: the cases are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const COMMITS: [&str; 2] =
    ["0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"];

fn repo(random: &mut Random, id: &str) -> Value {
    let mut repo = Map::new();
    if random.chance(70) {
        let urls = ["https://a.example/x", "ssh://git@b.example/y.git", "git@c.example:z.git"];
        repo.insert("url".into(), if random.chance(8) { Value::Null } else { json!(random.one(&urls)) });
    }
    for (key, values) in [("branch", ["main", "refs/heads/next"]), ("tag", ["v1", "v2"]), ("commit", COMMITS)]
    {
        if random.chance(if key == "branch" { 50 } else { 8 }) {
            let null = random.chance(15) && key != "commit";
            repo.insert(key.into(), if null { Value::Null } else { json!(random.one(&values)) });
        }
    }
    if random.chance(15) {
        repo.insert("name".into(), json!(format!("{}{id}", random.one(&["zz", "aa", "mid"]))));
    }
    // Without one, a repository without a URL would be the checkout, as `this` is.
    repo.insert("path".into(), json!(random.one(&["one", "two/deep"])));
    if random.chance(50) {
        let mut layers = Map::new();
        for layer in [".", "meta", "meta-a", "meta/b", "Meta"] {
            if random.chance(35) {
                let value = match random.below(5) {
                    0 => json!("disabled"),
                    1 => json!({ "prio": random.below(5) as i64 - 2 }),
                    2 if random.chance(30) => {
                        json!(random.one(&[json!("excluded"), json!(0), json!(false), json!("no")]))
                    }
                    3 if random.chance(10) => json!({}),
                    _ => Value::Null,
                };
                layers.insert(layer.into(), value);
            }
        }
        repo.insert("layers".into(), Value::Object(layers));
    }
    Value::Object(repo)
}

fn file(random: &mut Random, includes: &[String], is_lock: bool) -> Value {
    let mut file = Map::new();
    let mut header = Map::new();
    header.insert("version".into(), json!(1 + random.below(23)));
    if !includes.is_empty() {
        header.insert("includes".into(), json!(includes));
    }
    file.insert("header".into(), Value::Object(header));
    let mut overrides = Map::new();
    for id in ["r1", "r2", "r3", "missing"] {
        if random.chance(if is_lock { 60 } else { 8 }) {
            let mut over = Map::new();
            if random.chance(80) {
                over.insert("commit".into(), json!(random.one(&COMMITS)));
            }
            if random.chance(20) {
                over.insert("branch".into(), if random.chance(30) { Value::Null } else { json!("over") });
            }
            if random.chance(20) {
                over.insert("url".into(), json!("https://over.example/x"));
            }
            overrides.insert(id.into(), Value::Object(over));
        }
    }
    if !overrides.is_empty() {
        file.insert("overrides".into(), json!({ "repos": overrides }));
    }
    if is_lock {
        return Value::Object(file);
    }
    let mut repos = Map::new();
    for id in ["r1", "r2", "r3", "this"] {
        if random.chance(60) {
            let value = if id == "this" { json!({}) } else { repo(random, id) };
            repos.insert(id.into(), value);
        }
    }
    if !repos.is_empty() {
        file.insert("repos".into(), Value::Object(repos));
    }
    if random.chance(25) {
        let (key, value) = *random.one(&[("branch", "default"), ("branch", "other"), ("tag", "v9")]);
        file.insert("defaults".into(), json!({ "repos": { key: value } }));
    }
    for (key, values) in [
        ("machine", ["qemuarm64", "board-1"]),
        ("distro", ["poky", "nodistro"]),
        ("task", ["build", "fetch"]),
    ] {
        if random.chance(40) {
            file.insert(key.into(), json!(random.one(&values)));
        }
    }
    if random.chance(50) {
        let targets = [
            json!("image"),
            json!(["a", "mc:x:b"]),
            json!(["multiconfig:y:c", "mc:x:d", "mc::e"]),
            json!([]),
        ];
        file.insert("target".into(), random.one(&targets[..3]).clone());
    }
    for key in ["local_conf_header", "bblayers_conf_header"] {
        if random.chance(50) {
            let mut parts = Map::new();
            for part in ["b", "a-1", "B", "ä", "10_x"] {
                if random.chance(40) {
                    parts.insert(
                        part.into(),
                        json!(format!("V{} = \"{}\"\n# ü\t\\", random.below(3), random.below(9))),
                    );
                }
            }
            file.insert(key.into(), Value::Object(parts));
        }
    }
    if random.chance(30) {
        let values = [json!("1"), Value::Null];
        file.insert("env".into(), json!({ "X_ONE": random.one(&values), "X_TWO": "two words" }));
    }
    buildtools(&mut Random(random.0 ^ 0xb0), &mut file);
    Value::Object(file)
}

/// With numbers of its own: the other keys of the cases stay as they are.
fn buildtools(random: &mut Random, file: &mut Map<String, Value>) {
    if !random.chance(30) {
        return;
    }
    let mut tools = json!({ "version": random.one(&["5.2", "1.0-rc1"]), "sha256sum": "a1".repeat(32) });
    for (key, value) in [("base_url", "https://x.example/t"), ("filename", "a b+ü.sh")] {
        if random.chance(40) {
            tools[key] = json!(value);
        }
    }
    file.insert("buildtools".into(), tools);
}

/// Writes a definition of several files that include one another; the names of its top files.
fn write(random: &mut Random, dir: &Path) -> String {
    let mut names: Vec<String> = Vec::new();
    let count = 1 + random.below(5);
    for number in 0..count {
        let name = random.one(&["f", "sub/f"]).to_string() + &format!("{number}.yml");
        let includes: Vec<String> = names.iter().filter(|_| random.chance(45)).cloned().collect();
        let path = dir.join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Flow style: JSON is YAML.
        std::fs::write(&path, file(random, &includes, false).to_string()).unwrap();
        if random.chance(25) {
            std::fs::write(path.with_extension("lock.yml"), file(random, &[], true).to_string()).unwrap();
        }
        names.push(name);
    }
    let mut top = vec![names[names.len() - 1].clone()];
    top.extend(names.iter().filter(|_| random.chance(25)).cloned());
    top.join(":")
}

#[test]
fn random_definitions_mean_the_same() {
    let name = "random_definitions_mean_the_same";
    let Some(python) = python(name) else { return };
    let count = if std::env::var("BUILD_AGENT_TEST_ALL").is_ok_and(|value| value == "1") { 600 } else { 120 };
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let mut random = Random(0x5eed_0016);
    let mut cases = Vec::new();
    for number in 0..count {
        let dir = top.join(format!("case-{number}"));
        std::fs::create_dir(&dir).unwrap();
        git(&dir, ["init", "--quiet"]);
        let files = write(&mut random, &dir);
        cases.push(Case { dir, files });
    }
    let (mut same, mut refused) = (0, 0);
    let mut differences = Vec::new();
    for (case, view) in cases.iter().zip(views(&python, &cases)) {
        make_local(&view, &case.dir);
        match compare(case, &view, &plan(case)) {
            Agreement::Same => same += 1,
            Agreement::BothRefuse | Agreement::ByDesign(_) => refused += 1,
            other => differences.push(format!("{} {}: {other:?}", case.dir.display(), case.files)),
        }
    }
    println!("{count} definitions: {same} the same, {refused} refused");
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(same >= count / 4, "{same} of {count}");
}
