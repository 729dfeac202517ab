//! The arguments of `build-agent lab request`.

use clap::Args;

#[derive(Debug, Args)]
pub struct LabRequest {
    /// result.json of the build: a path or s3://BUCKET/KEY
    pub result: String,
    /// Manifest of the base branch [default: build-agent.toml of the current directory]
    #[arg(long, value_name = "PATH")]
    pub manifest: Option<String>,
    /// Override a key of the manifest
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Commit that the build service has built
    #[arg(long, value_name = "SHA")]
    pub commit: String,
    /// Where the build published its artifacts: a directory or s3://BUCKET/PREFIX; no other files are used
    #[arg(long, value_name = "DIR|S3")]
    pub artifacts: String,
    /// The maintainers have accepted the commit, so that the tests run on every device
    #[arg(long)]
    pub trusted: bool,
    /// How CodeBuild ended the build; nothing is requested if this is not SUCCEEDED
    #[arg(long, value_name = "STATUS")]
    pub build_status: Option<String>,
}
