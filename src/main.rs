fn main() -> std::process::ExitCode {
    revgate::cli::main()
}
