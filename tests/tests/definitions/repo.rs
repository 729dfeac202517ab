//! Manifests of `repo`.

use std::fs;

use serde_json::{Value, json};

use build_agent_tests::{Ran, Sandbox, commit, git};

fn call(sandbox: &Sandbox, command: &str, more: &[&str]) -> Ran {
    let file = sandbox.layer().join("default.xml").display().to_string();
    let (work, out) = (sandbox.work().display().to_string(), sandbox.out().display().to_string());
    let words = [&[command, &file, "--work-dir", &work, "--release", "scarthgap"], more].concat();
    let words = if command == "run" { [&words[..], &["--out", &out]].concat() } else { words };
    sandbox.call(words)
}

/// `name url key=value…` of each repository.
fn repos(sandbox: &Sandbox, more: &[&str]) -> Vec<String> {
    let ran = call(sandbox, "plan", &[&["--json"], more].concat());
    ran.assert_code(&[0]);
    let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
    let repo = |repo: &Value| {
        let text = |key: &str| Some(format!(" {key}={}", repo[key].as_str()?));
        let keys: String = ["branch", "tag", "commit"].into_iter().filter_map(text).collect();
        format!("{} {}{keys}", repo["name"].as_str().unwrap(), repo["url"].as_str().unwrap())
    };
    plan["settings"]["repos"].as_array().unwrap().iter().map(repo).collect()
}

#[test]
fn a_manifest_of_repo_gives_the_repositories() {
    let Some(sandbox) = Sandbox::new("a_manifest_of_repo_gives_the_repositories") else { return };
    let commit_id = "0123456789abcdef0123456789abcdef01234567";
    let base = format!(
        r#"<manifest>
  <remote name="here" fetch=".."/>
  <remote name="far" fetch="https://far.example/git/" revision="refs/tags/v1"/>
  <default remote="here" revision="main" sync-j="4"/>
  <project name="poky" path="sources/poky" revision="scarthgap">
    <linkfile src="README" dest="README"/>
    <project name="inner"/>
  </project>
  <project name="a/layers" path="sources/layers" groups="extra,notdefault"/>
  <project name="b/layers" remote="far"/>
  <project name="gone"/>
  <project name="fixed" remote="far" revision="{commit_id}" upstream="refs/heads/dev"/>
  <project name="meta-tested"/>
</manifest>"#
    );
    let top = r#"<?xml version="1.0" encoding="UTF-8"?>
<manifest>
  <include name="xml/base.xml"/>
  <remove-project name="gone"/>
  <remove-project name="never" optional="true"/>
  <extend-project name="fixed" remote="here"/>
</manifest>"#;
    let layer = sandbox.layer();
    fs::create_dir_all(layer.join("xml")).unwrap();
    fs::write(layer.join("xml/base.xml"), base).unwrap();
    fs::write(layer.join("default.xml"), top).unwrap();
    commit(&layer, "A manifest of repo");
    let ran = call(&sandbox, "plan", &[]);
    ran.assert_code(&[2]);
    ran.assert_says(&["xml/base.xml:5:3: project: the address of `here` is relative"]);
    git(&layer, ["remote", "add", "origin", "git@host.example:group/manifests/meta-tested.git"]);
    let of = |name: &str, rest: &str| format!("{name} ssh://git@host.example/group/{rest}");
    let wanted = [
        of("poky", "poky branch=scarthgap"),
        of("inner", "poky/inner branch=main"),
        "layers https://far.example/git/b/layers tag=v1".to_owned(),
        of("fixed", &format!("fixed branch=dev commit={commit_id}")),
    ];
    assert_eq!(repos(&sandbox, &[])[..4], wanted);
    let groups = repos(&sandbox, &["--choose", "default,extra,-name:poky/inner"]);
    let found = [
        of("poky", "poky branch=scarthgap"),
        of("sources-layers", "a/layers branch=main"),
        "b-layers https://far.example/git/b/layers tag=v1".to_owned(),
    ];
    assert_eq!(groups[..3], found);
    let ran = call(&sandbox, "lock", &[]);
    ran.assert_code(&[2]);
}

#[test]
fn a_manifest_of_repo_is_a_job() {
    let Some(sandbox) = Sandbox::new("a_manifest_of_repo_is_a_job") else { return };
    let upstream = sandbox.upstream();
    fs::remove_file(sandbox.manifest()).unwrap();
    let text = format!(
        "<manifest><remote name=\"o\" fetch=\"file://{}\"/><default remote=\"o\" revision=\"scarthgap\"/>\n\
         <project name=\"poky\"/></manifest>",
        upstream.parent().unwrap().display()
    );
    fs::write(sandbox.layer().join("default.xml"), &text).unwrap();
    commit(&sandbox.layer(), "A manifest of repo");
    let layers = r#"repos.poky.layers=["meta", "meta-poky"]"#;
    let ran = call(&sandbox, "run", &["--set", layers]);
    ran.assert_code(&[0]);
    assert_eq!(sandbox.result()["repos"][0]["commit"], json!(git(&upstream, ["rev-parse", "HEAD"]).trim()));
    call(&sandbox, "import", &["--set", layers]).assert_code(&[0]);
    let manifest = fs::read_to_string(sandbox.manifest()).unwrap();
    assert!(manifest.contains("branch = \"scarthgap\""), "{manifest}");

    for (from, to, said) in [
        ("<project name=\"poky\"/>", "<project/>", "default.xml:2:1: project: has no `name`"),
        (" remote=\"o\" revision", " revision", "has no `remote`, and there is no default"),
        (" revision=\"scarthgap\"", "", "has no `revision`, and there is no default"),
        ("remote=\"o\"", "remote=\"p\"", "no `remote` is named `p`"),
        ("<project name", "<projekt name", "projekt: is not an element"),
        ("<project name=\"poky\"/>", "<include name=\"default.xml\"/>", "includes itself"),
        ("<project name=\"poky\"/>", "<include name=\"../../x.xml\"/>", "lies outside of"),
        ("<project name=\"poky\"/>", "<remove-project name=\"x\"/>", "no project `x` comes before it"),
        (
            "<project name=\"poky\"/>",
            "<project name=\"poky\"/><project name=\"poky\"/>",
            "has the path `poky`",
        ),
        ("<manifest>", "<!DOCTYPE manifest><manifest>", "default.xml:1:1: has a document type"),
        ("</manifest>", "", "`manifest` is not closed"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(sandbox.layer().join("default.xml"), text.replace(from, to)).unwrap();
        let ran = call(&sandbox, "plan", &["--set", layers]);
        ran.assert_code(&[2]);
        ran.assert_says(&[said]);
    }
}
