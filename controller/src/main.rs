//! The `defib` binary; see `defib --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    defib::cli::main()
}
