//! Makes [`Settings`] from manifest, lock, environment and flags. Reports all problems at once with their
//! positions; nothing runs before they are fixed.

mod address;
mod bitbake_variables;
mod buildtools;
mod cell;
mod cells;
mod change;
mod change_base;
mod check_programs;
mod codebuild;
pub mod collections;
mod credential_sources;
mod definition;
mod device_section;
pub mod embedded;
mod environment;
mod explain;
mod flags;
mod git_sites;
mod github_actions;
mod hooks;
mod include;
mod included_repo;
mod known_failures;
mod lab;
mod load;
pub mod lock;
mod lock_file;
mod manifest;
mod matrix;
mod old_keys;
mod patches;
mod paths;
mod placeholders;
mod price_table;
mod problem;
mod project_root;
pub mod remote;
mod render;
mod repo_files;
mod repo_notation;
mod repos;
mod reproduction;
mod request;
mod requests;
mod resolved;
mod rules;
mod rules_report;
mod rules_source;
mod secrets_file;
mod settings;
mod shared;
mod signers;
mod structure;
mod templateconf;
mod tests_section;
mod tree;
mod trust;
mod validate;
mod validator;
mod values;
mod variable_secrets;
mod variables;
mod whole_manifest;

pub use address::git as parse_git_address;
pub use bitbake_variables::name_of_variable;
pub use cells::{load_matrix, without_problems};
pub use change::{BaseOfChange, ChangeBase, NO_BASE};
pub use change_base::change_base;
pub use check_programs::{CheckProgram, OELINT, SBOM_CVE_CHECK};
pub use codebuild::{CodeBuild, Trigger};
pub use definition::{
    Fetched, Float, Reading, ReleaseFrom, Translated, is_definition, read as read_definition, release_in,
};
pub use embedded::{for_layers, known_release};
pub use environment::{AgentEnvironment, CACHE as CACHE_VARIABLE, LOG_VARIABLE, whole as whole_environment};
pub use explain::{Explanation, explain};
pub use github_actions::{GitHubActions, STEP_SUMMARY, WorkflowRun};
pub use included_repo::IncludedRepo;
pub use lab::{lab_schema, load_lab};
pub use load::{commit_to_confirm, is_trusted, load, load_or_problems, source_trust};
pub use lock_file::lock_path;
pub use manifest::{FILE_NAME, schema};
pub use matrix::{Cell, Matrix};
pub use patches::texts as patch_texts;
pub use paths::{is_text, layer_stores, out_dir, shared_caches, work_dir, work_tree};
pub use price_table::{MachineShape, job_prices};
pub use problem::{Place, Problem, Problems};
pub use request::{Pins, Request};
pub use requests::multiconfigs as multiconfigs_of;
pub use resolved::{Resolved, resolved};
pub use rules::{BaseFiles, BaseTree, Rules};
pub use rules_source::{NO_BASE_HINT, RulesSource, change_dir, rules_source};
pub use secrets_file::AwsKeys;
pub use settings::*;
pub use signers::LARGEST as SIGNER_KEY_LIMIT;
pub use trust::pull_request_of;
pub use values::{commit as parse_commit, result_name};
pub use variable_secrets::url_secrets;
pub use whole_manifest::{Loaded, RepoToInclude};

#[cfg(test)]
mod embedded_tests;
#[cfg(test)]
mod mistakes_tests;
#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
