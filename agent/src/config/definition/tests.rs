//! Definitions whose rules come from the base of a change.

use fs_err as fs;

use super::super::rules::{BaseFiles, BaseTree};
use super::*;

#[test]
fn files_from_the_definitions_own_repository_are_those_of_the_base() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let (checkout, base) = (top.join("checkout"), top.join("base"));
    let trees = vec![BaseTree { commit: "0".repeat(40), root: base.clone() }];
    let of_base = BaseFiles { checkout: checkout.clone(), name: "main".into(), trees, began: None };
    for own in ["own:", "own:\n    path: .", "own:\n    path: ../checkout/kas/.."] {
        let text = format!(
            "header:\n  version: 14\n  includes:\n    - repo: own\n      file: kas/common.yml\nrepos:\n  {own}\n  \
             core:\n    url: https://a.invalid/core\n    branch: main\n"
        );
        for (tree, distro) in [(&checkout, "of-change"), (&base, "of-base")] {
            fs::create_dir_all(tree.join("kas")).unwrap();
            fs::write(tree.join("kas.yml"), &text).unwrap();
            let common = format!("header:\n  version: 14\ndistro: {distro}\n");
            fs::write(tree.join("kas/common.yml"), common).unwrap();
        }
        fs::create_dir_all(checkout.join(".git")).unwrap();
        for (rules, wanted) in [(Rules::OfBase(of_base.clone()), "of-base"), (Rules::OfCheckout, "of-change")]
        {
            let request = Request { manifest: Some("kas.yml".into()), rules, ..Request::default() };
            let (env, variables) = (AgentEnvironment::default(), BTreeMap::new());
            let read = |fetched: &Fetched| super::read(&request, &env, &variables, &checkout, fetched);
            let Reading::Needs(needed) = read(&Fetched::default()).unwrap() else { panic!("{own}") };
            let mut fetched = Fetched::default();
            for (key, source) in needed {
                let RepoSource::Path(path) = &source else { panic!("{own}") };
                fetched.add(key, source.clone(), path.clone(), None);
            }
            let Reading::Done(translated, _) = read(&fetched).unwrap() else { panic!("{own}") };
            let distro = translated.tree.child("config").and_then(|config| config.child("distro"));
            assert_eq!(distro.and_then(Node::as_text), Some(wanted), "{own}");
            // A change of the file is reported as one of the rules.
            let is_named = translated.files.contains(&checkout.join("kas/common.yml"));
            assert_eq!(is_named, wanted == "of-base", "{own}: {:?}", translated.files);
        }
    }
}
