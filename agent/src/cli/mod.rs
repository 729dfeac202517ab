//! The command line.

pub mod publish;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
