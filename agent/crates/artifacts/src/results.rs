//! Where the results of jobs lie in a store, by commit.
//!
//! ```text
//! results/v1/<name>/<release>/<machines>/<commit>/<build>/    the reports of one job
//! results/v1/<name>/<release>/<machines>/<commit>/latest.json what later jobs are compared with; written last
//! ```
//!
//! A cell of a matrix has its identifier in the place of the machines.

use sha2::{Digest, Sha256};

use crate::records::RecordStore;
use crate::store::{join, segment};
use agent_types::artifact::Destination;
use agent_types::error::Result;
use agent_types::events::JobIdentity;
use agent_types::words::hexadecimal;

/// The part of the store for this layout.
const TOP: &str = "results/v1";

/// A longer list of machines becomes a digest.
const LONGEST: usize = 80;

const INDEX: &str = "latest.json";

/// Opens the store of results: the share, or the destination of artifacts.
///
/// # Errors
/// As [`RecordStore::open`].
pub async fn open(root: &Destination, is_share: bool, kms_key_id: Option<&str>) -> Result<RecordStore> {
    RecordStore::open(root, is_share, kms_key_id, INDEX).await
}

/// The results of all commits of a job.
pub fn of_job(job: &JobIdentity) -> String {
    let configuration = match job.cell.clone().unwrap_or_else(|| job.machines.join("+")) {
        long if long.len() > LONGEST => {
            let digest = hexadecimal(&Sha256::digest(&long)[..8]);
            format!("{}-machines-{digest}", job.machines.len())
        }
        configuration => configuration,
    };
    let parts = [&job.name, &job.release, &configuration].map(|part| segment(part));
    format!("{TOP}/{}", parts.join("/"))
}

/// What later jobs are compared with.
pub fn index(job: &JobIdentity, commit: &str) -> String {
    format!("{}/{}/{INDEX}", of_job(job), segment(commit))
}

/// The directory for the reports of this job.
pub fn directory(job: &JobIdentity) -> String {
    let mut commit = job.commit.clone().unwrap_or_else(|| "unversioned".into());
    if job.dirty {
        commit.push_str("-dirty");
    }
    format!("{}/{}/{}", of_job(job), segment(&commit), segment(&job.build))
}

/// A text as one part of a path.
pub fn part(text: &str) -> String {
    segment(text)
}

/// A path below another one; either may be empty.
pub fn joined(one: &str, other: &str) -> String {
    join(one, other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn job() -> JobIdentity {
        JobIdentity {
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: vec!["a".into(), "b".into()],
            commit: Some("0123".into()),
            build: "17".into(),
            ..JobIdentity::default()
        }
    }

    #[test]
    fn each_job_has_a_place_of_its_own() {
        let many: Vec<String> = (0..40).map(|number| format!("machine-{number}")).collect();
        let hostile = ["..", "a/b", ""].map(str::to_owned).to_vec();
        for (job, wanted) in [
            (job(), "results/v1/meta-x/scarthgap/a+b/0123/17"),
            (JobIdentity { dirty: true, ..job() }, "results/v1/meta-x/scarthgap/a+b/0123-dirty/17"),
            (JobIdentity { commit: None, ..job() }, "results/v1/meta-x/scarthgap/a+b/unversioned/17"),
            (JobIdentity { machines: Vec::new(), ..job() }, "results/v1/meta-x/scarthgap/_/0123/17"),
            (JobIdentity { cell: Some("c_1".into()), ..job() }, "results/v1/meta-x/scarthgap/c_1/0123/17"),
            (
                JobIdentity { machines: hostile, name: "..".into(), ..job() },
                "results/v1/%2E%2E/scarthgap/..+a%2Fb+/0123/17",
            ),
        ] {
            assert_eq!(directory(&job), wanted);
        }
        let one = of_job(&JobIdentity { machines: many.clone(), ..job() });
        let other = of_job(&JobIdentity { machines: many[1..].to_vec(), ..job() });
        assert!(one.len() < 120 && one.contains("/40-machines-") && one != other, "{one}");
        assert_eq!(index(&job(), "0123"), "results/v1/meta-x/scarthgap/a+b/0123/latest.json");
    }
}
