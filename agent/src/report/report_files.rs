//! The reports that are files in the output directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use agent_types::error::Result;

use super::reports::{Report, Reports};
use super::summary::Summary;
use super::{junit, page, result};

impl Reports {
    /// The files in the output directory.
    pub fn files(out: &Path) -> Reports {
        let file = |name, write| ReportFile { name, out: out.to_owned(), write };
        Reports {
            reports: vec![
                Box::new(file("junit.xml", junit::write)),
                Box::new(file("report.html", page::write)),
            ],
            result: Some(Box::new(file("result.json", result::write))),
            ..Reports::default()
        }
    }
}

/// For a file system that answers slowly.
pub const FILE_DEADLINE: Duration = Duration::from_secs(60);

/// A report that is a file.
struct ReportFile {
    name: &'static str,
    out: PathBuf,
    write: fn(&Summary, &Path) -> Result<()>,
}

impl Report for ReportFile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn deadline(&self) -> Duration {
        FILE_DEADLINE
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let (out, write) = (self.out.clone(), self.write);
        // A thread of its own: a dead file server may hold it forever.
        let writing = tokio::task::spawn_blocking(move || write(&summary, &out));
        Box::pin(async {
            writing.await.unwrap_or_else(|broken| std::panic::resume_unwind(broken.into_panic()))
        })
    }
}
