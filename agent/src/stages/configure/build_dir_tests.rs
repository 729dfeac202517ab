#![allow(clippy::unwrap_used)]

use super::*;

fn untrusted() -> Trust {
    Trust::Untrusted { why: "x".into(), pull_request: None }
}

fn build_dir(work: &Path) -> BuildDir {
    BuildDir {
        dir: work.join("build"),
        work: work.to_owned(),
        made_by: MadeBy::new("scarthgap", "2.8.1", Some("15".into()), &untrusted(), None),
        conf: WrittenConf { bblayers: "layers 1".into(), local: "local 1".into() },
        user: None,
        keeps_workspace: true,
    }
}

fn local(dir: &BuildDir) -> String {
    fs::read_to_string(dir.dir.join("conf/local.conf")).unwrap()
}

/// What an earlier job left in TMPDIR is there after the next one.
#[test]
fn only_the_same_goes_on_with_what_is_there() {
    let same = |_: &mut BuildDir| {};
    type Change = fn(&mut BuildDir);
    let table: [(Change, bool, bool, &str); 9] = [
        (same, false, true, "goes on"),
        (same, true, false, ""),
        (|dir| dir.conf.local = "local 2".into(), false, true, "goes on"),
        (
            |dir| dir.made_by.release = "styhead".into(),
            false,
            false,
            "the release was scarthgap and is styhead",
        ),
        (|dir| dir.made_by.bitbake = "2.8.2".into(), false, false, "BitBake's version"),
        (|dir| dir.made_by.layout = Some("16".into()), false, false, "OELAYOUT_ABI"),
        (|dir| dir.made_by.trust = "trusted".into(), false, false, "the trust in the source"),
        (|dir| dir.made_by.trust = "pull request 7".into(), false, false, "pull request 7"),
        (|dir| dir.made_by.user = Some(1), false, false, "the build user was the agent's own and is uid 1"),
    ];
    for (change, fresh, stays, said) in table {
        let work = tempfile::tempdir().unwrap();
        let mut dir = build_dir(work.path());
        dir.prepare(false, Reuse::AsConfigured).unwrap();
        fs::create_dir_all(dir.dir.join("tmp/work")).unwrap();
        change(&mut dir);
        let found = dir.prepare(fresh, Reuse::AsConfigured).unwrap();
        assert_eq!(dir.dir.join("tmp/work").exists(), stays, "{said}");
        assert_eq!(local(&dir), dir.conf.local, "{said}");
        assert!(found.warnings.is_empty(), "{found:?}");
        assert!(said.is_empty() == found.infos.is_empty(), "{found:?}");
        assert!(found.infos.iter().all(|info| info.contains(said)), "{found:?}");
    }
}

#[test]
fn a_directory_of_an_unknown_job_is_emptied() {
    for record in [None, Some("{"), Some("{}")] {
        let work = tempfile::tempdir().unwrap();
        let dir = build_dir(work.path());
        fs::create_dir_all(dir.dir.join("tmp")).unwrap();
        if let Some(record) = record {
            fs::write(work.path().join("build.json"), record).unwrap();
        }
        let said = dir.prepare(false, Reuse::WithEdits).unwrap();
        assert!(!dir.dir.join("tmp").exists());
        assert!(said.infos[0].contains("nothing says which job made it"), "{said:?}");
    }
}

/// A person's changes stay in a shell until the manifest asks for something else; a job never runs with them.
#[test]
fn edits_stay_for_a_shell_and_are_put_aside_by_a_job() {
    for (reuse, changed, wanted, put_aside) in [
        (Reuse::WithEdits, false, "edited", false),
        (Reuse::WithEdits, true, "local 2", true),
        (Reuse::AsConfigured, false, "local 1", true),
        (Reuse::AsConfigured, true, "local 2", true),
    ] {
        let work = tempfile::tempdir().unwrap();
        let mut dir = build_dir(work.path());
        dir.prepare(false, Reuse::AsConfigured).unwrap();
        fs::write(dir.dir.join("conf/local.conf"), "edited").unwrap();
        if changed {
            dir.conf.local = "local 2".into();
        }
        let said = dir.prepare(false, reuse).unwrap();
        assert_eq!(local(&dir), wanted);
        let old = fs::read_to_string(dir.dir.join("conf.old/local.conf")).ok();
        assert_eq!(old.as_deref(), put_aside.then_some("edited"));
        assert_eq!(said.warnings.len(), usize::from(put_aside), "{said:?}");
    }
    let work = tempfile::tempdir().unwrap();
    let dir = build_dir(work.path());
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    fs::write(dir.dir.join("conf/auto.conf"), "more").unwrap();
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    assert!(!dir.dir.join("conf/auto.conf").exists() && dir.dir.join("conf.old/auto.conf").exists());
}

/// BitBake's parse caches are valid as long as the configuration's files are not written.
#[test]
fn the_same_configuration_is_not_written_again() {
    let work = tempfile::tempdir().unwrap();
    let dir = build_dir(work.path());
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH;
    let file = fs::File::options().write(true).open(dir.dir.join("conf/local.conf")).unwrap();
    file.set_modified(old).unwrap();
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    assert_eq!(fs::metadata(dir.dir.join("conf/local.conf")).unwrap().modified().unwrap(), old);
}

/// Layer code owns the directory: the agent, which may be root, writes through no link in it.
#[test]
fn links_in_the_place_of_the_configuration_are_replaced_and_not_followed() {
    for name in ["conf", "conf/local.conf"] {
        let work = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let victim = elsewhere.path().join("local.conf");
        fs::write(&victim, "precious").unwrap();
        let dir = build_dir(work.path());
        dir.prepare(false, Reuse::AsConfigured).unwrap();
        let link = dir.dir.join(name);
        let to = if name == "conf" { elsewhere.path() } else { &victim };
        remove_tree(&link, work.path()).unwrap();
        std::os::unix::fs::symlink(to, &link).unwrap();
        dir.prepare(false, Reuse::AsConfigured).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
        assert_eq!(local(&dir), "local 1", "{name}");
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink(), "{name}");
    }
}

/// A person's workspace of devtool, with a recipe in work.
fn devtool(dir: &BuildDir) -> PathBuf {
    let workspace = dir.dir.join("workspace");
    for file in ["conf/layer.conf", "appends/x.bbappend", "sources/x/x.c"] {
        let path = workspace.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    workspace
}

fn with_workspace(bblayers: &str, workspace: &Path) -> String {
    format!("{}  {} \\\n  \"\n", bblayers.strip_suffix("  \"\n").unwrap(), workspace.display())
}

/// devtool adds its layer itself. A job takes it out, and a shell puts it back; neither is a change of a person.
#[test]
fn the_workspace_of_devtool_is_for_shells_only() {
    let work = tempfile::tempdir().unwrap();
    let mut dir = build_dir(work.path());
    dir.conf.bblayers = "BBLAYERS ?= \" \\\n  /x \\\n  \"\n".into();
    let bblayers = |dir: &BuildDir| fs::read_to_string(dir.dir.join("conf/bblayers.conf")).unwrap();
    dir.prepare(false, Reuse::WithEdits).unwrap();
    let workspace = devtool(&dir);
    let with = with_workspace(&dir.conf.bblayers, &workspace);
    fs::write(dir.dir.join("conf/bblayers.conf"), &with).unwrap();
    for (reuse, fresh) in [
        (Reuse::WithEdits, false),
        (Reuse::AsConfigured, false),
        (Reuse::WithEdits, false),
        (Reuse::Required, false),
        (Reuse::AsConfigured, true),
        (Reuse::WithEdits, true),
    ] {
        let said = dir.prepare(fresh, reuse).unwrap();
        let is_job = reuse == Reuse::AsConfigured;
        let wanted = if is_job { &dir.conf.bblayers } else { &with };
        assert_eq!(&bblayers(&dir), wanted, "{reuse:?} {fresh}");
        assert!(said.warnings.is_empty(), "{said:?}");
        let says = |text: &str| said.infos.iter().any(|info| info.contains(text));
        assert_eq!(says("are not part of this job"), is_job && !fresh, "{said:?}");
        assert_eq!(says("except for devtool's workspace"), fresh, "{said:?}");
        assert!(workspace.join("sources/x/x.c").is_file());
    }
    // The layers of the manifest change.
    dir.conf.bblayers = dir.conf.bblayers.replace("/x", "/y");
    let said = dir.prepare(false, Reuse::WithEdits).unwrap();
    assert_eq!(bblayers(&dir), with_workspace(&dir.conf.bblayers, &workspace));
    assert!(said.warnings.is_empty(), "{said:?}");
}

#[test]
fn the_workspace_of_another_trust_is_not_deleted_and_not_used() {
    let work = tempfile::tempdir().unwrap();
    let mut dir = build_dir(work.path());
    dir.prepare(false, Reuse::WithEdits).unwrap();
    let workspace = devtool(&dir);
    dir.made_by.trust = "trusted".into();
    let error = dir.prepare(false, Reuse::AsConfigured).unwrap_err();
    assert!(error.message.contains("may have changes that are nowhere else"), "{error}");
    assert!(workspace.join("sources/x/x.c").is_file());
    // In CI there is no person who works there.
    dir.keeps_workspace = false;
    dir.prepare(true, Reuse::AsConfigured).unwrap();
    assert!(!workspace.exists());
}

/// A job that was killed meanwhile has moved the workspace.
#[test]
fn a_workspace_that_was_moved_comes_back() {
    let work = tempfile::tempdir().unwrap();
    let dir = build_dir(work.path());
    dir.prepare(false, Reuse::WithEdits).unwrap();
    let workspace = devtool(&dir);
    Workspace::new(&dir.dir, &dir.work, "untrusted").save(None).unwrap();
    remove_tree(&dir.dir, work.path()).unwrap();
    // A job of another trust does not get it.
    let mut other = dir.clone();
    other.made_by.trust = "trusted".into();
    other.prepare(false, Reuse::WithEdits).unwrap();
    assert!(!workspace.exists());
    remove_tree(&dir.dir, work.path()).unwrap();
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    assert!(workspace.join("sources/x/x.c").is_file());
}

#[test]
fn a_required_directory_must_exist_and_is_never_emptied() {
    let work = tempfile::tempdir().unwrap();
    let mut dir = build_dir(work.path());
    let error = dir.prepare(false, Reuse::Required).unwrap_err();
    assert!(error.message.contains("it does not exist") && !dir.dir.exists(), "{error}");
    dir.prepare(false, Reuse::AsConfigured).unwrap();
    fs::create_dir(dir.dir.join("tmp")).unwrap();
    dir.prepare(false, Reuse::Required).unwrap();
    dir.made_by.bitbake = "2.8.2".into();
    let error = dir.prepare(false, Reuse::Required).unwrap_err();
    assert!(error.message.contains("BitBake's version was 2.8.1"), "{error}");
    assert!(dir.dir.join("tmp").is_dir());
}
