//! The server that the tests start.

fn main() -> std::process::ExitCode {
    reverie::cli::main()
}
