//! `index.json`: the list of published objects. It is written last, so if it exists, all objects exist.

use serde::{Deserialize, Serialize};

use agent_types::events::JobIdentity;

/// Names the layout of the index. Its number rises when old readers could not read the new layout.
pub const SCHEMA: &str = "build-agent/index/v1";

/// All objects below a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub schema: String,
    /// The job that published; absent for `build-agent publish`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobIdentity>,
    /// Sorted by path.
    pub objects: Vec<Object>,
    pub totals: Totals,
}

/// A file or a link of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Relative to the published directory.
    pub path: String,
    /// Whether `path` and `link` are percent-encoded, because the name has bytes that are not text.
    #[serde(default, skip_serializing_if = "is_false")]
    pub encoded: bool,
    /// The whole S3 key, or the path relative to the destination directory; absent for a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Size on the build machine's disk; less than `bytes` for a sparse file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The text of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The `path` of the published file that the link finally resolves to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether the link leads out of the published directory.
    #[serde(default, skip_serializing_if = "is_false")]
    pub escaping: bool,
    /// Whether the target of the link does not exist, or the link is a loop.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dangling: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files.
    pub objects: u64,
    pub bytes: u64,
    pub links: u64,
}

impl Index {
    pub fn new(job: Option<JobIdentity>, mut objects: Vec<Object>) -> Index {
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        let mut totals = Totals::default();
        for object in &objects {
            match object.link {
                Some(_) => totals.links += 1,
                None => totals.objects += 1,
            }
            totals.bytes += object.bytes.unwrap_or_default();
        }
        Index { schema: SCHEMA.into(), job, objects, totals }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn index_is_sorted_and_round_trips_through_json() {
        let file = |path: &str, bytes| Object {
            path: path.into(),
            key: Some(format!("p/{path}")),
            bytes: Some(bytes),
            ..Object::default()
        };
        let link = Object { path: "a".into(), link: Some("b".into()), escaping: true, ..Object::default() };
        let index = Index::new(None, vec![file("c", 2), link, file("b", 3)]);
        let paths: Vec<&str> = index.objects.iter().map(|o| o.path.as_str()).collect();
        assert_eq!(paths, ["a", "b", "c"]);
        assert_eq!(index.totals, Totals { objects: 2, bytes: 5, links: 1 });
        let json = serde_json::to_string(&index).unwrap();
        assert!(json.contains(r#"{"path":"a","link":"b","escaping":true}"#), "{json}");
        assert_eq!(serde_json::from_str::<Index>(&json).unwrap(), index);
    }
}
