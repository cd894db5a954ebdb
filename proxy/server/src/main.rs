//! The `spillway` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    proxy_server::cli::main(std::env::args_os())
}
