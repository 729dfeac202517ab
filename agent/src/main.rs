fn main() -> std::process::ExitCode {
    build_agent::cli::main()
}
