//! The order of the layers in BBLAYERS: BitBake searches files in it.

use std::path::{Path, PathBuf};

use crate::config::{LayerRank, Settings};
use crate::stages::checkout::ReadyRepo;

/// Orders the layers by descending priority. Among layers of one priority, the order is that of `layers`, or by name.
pub fn sort(mut layers: Vec<PathBuf>, settings: &Settings, repos: &[ReadyRepo]) -> Vec<PathBuf> {
    layers.sort_by_cached_key(|layer| rank(layer, settings, repos));
    layers
}

fn rank(layer: &Path, settings: &Settings, repos: &[ReadyRepo]) -> LayerRank {
    let order = &settings.layer_order;
    let inner = |top: &Path| layer.strip_prefix(top).map(Path::to_owned).unwrap_or_default();
    // A local directory may lie in another one; the repository that lists the layer is meant.
    let of_repo = repos.iter().find(|repo| repo.layers.iter().any(|other| other == layer));
    match of_repo {
        Some(repo) => order.of_repo(&repo.name, &inner(&repo.path)),
        None if settings.layers.iter().any(|other| other == layer) => {
            order.of_checkout(layer, &inner(&settings.checkout))
        }
        // OE-Core's own layer, which no repository lists.
        None => order.of_repo("", Path::new("")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::LayerOrder;
    use crate::stages::checkout::tests::settings;
    use agent_git::fixture::Bench;

    fn repo(name: &str, layers: &[&str]) -> ReadyRepo {
        let path = PathBuf::from("/r").join(name);
        // `components` drops the `.` of a repo that is a layer itself.
        let layers = layers.iter().map(|layer| path.join(layer).components().collect()).collect();
        ReadyRepo { name: name.into(), path, layers, commit: None, is_stored: true, shared_entry: None }
    }

    #[tokio::test]
    async fn priority_comes_first_then_the_manifests_order_or_the_names() {
        let bench = Bench::new();
        let mut settings = settings(&bench, "scarthgap", Vec::new());
        settings.checkout = "/src".into();
        settings.layers = vec!["/src/meta-n".into()];
        let repos = [repo("poky", &["meta", "meta-poky"]), repo("meta-x", &["."]), repo("a", &["b", "a"])];
        let given = ["/r/poky/meta", "/r/poky/meta-poky", "/r/meta-x", "/r/a/b", "/r/a/a", "/src/meta-n"];
        let given: Vec<PathBuf> = given.map(PathBuf::from).into();
        let high = |name: &str, path: &str, priority: i64| ((name.to_owned(), path.into()), priority);
        let by_name = |order: &mut LayerOrder| {
            order.by_name = true;
            order.checkout = "n".into();
        };
        type Case<'a> = (&'a dyn Fn(&mut LayerOrder), [&'a str; 6]);
        let table: [Case; 4] = [
            (&|_| {}, ["poky/meta", "poky/meta-poky", "meta-x", "a/b", "a/a", "meta-n"]),
            (
                &|order| order.priorities = [high("a", "a", 5), high("poky", "meta", -1)].into(),
                ["a/a", "poky/meta-poky", "meta-x", "a/b", "meta-n", "poky/meta"],
            ),
            (&by_name, ["a/a", "a/b", "meta-x", "meta-n", "poky/meta", "poky/meta-poky"]),
            (
                &|order| {
                    by_name(order);
                    order.priorities = [high("meta-x", "", 1)].into();
                    order.under_test = [("/src/meta-n".into(), 2)].into();
                },
                ["meta-n", "meta-x", "a/a", "a/b", "poky/meta", "poky/meta-poky"],
            ),
        ];
        for (change, wanted) in table {
            settings.layer_order = LayerOrder::default();
            change(&mut settings.layer_order);
            let sorted = sort(given.clone(), &settings, &repos);
            for (found, wanted) in sorted.iter().zip(wanted) {
                assert!(found.ends_with(wanted), "{sorted:?}");
            }
        }
    }
}
