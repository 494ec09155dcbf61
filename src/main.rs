//! A shim: everything is in the library.

fn main() -> std::process::ExitCode {
    larder::cli::main().into()
}
