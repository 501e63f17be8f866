//! The `defib` binary; see `defib --help`.

use std::process::ExitCode;

/// A fleet's heartbeats are many small allocations of all ages. The system's allocator keeps almost as much again as is in use; this one gives it back, and
/// runs on every page size that a kernel may have.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    defib::cli::main()
}
