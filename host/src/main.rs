//! The `reverie` command.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    reverie::cli::main()
}
