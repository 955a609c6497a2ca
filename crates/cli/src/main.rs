//! The `kvist` program; see the library.

fn main() -> std::process::ExitCode {
    kvist_cli::main()
}
