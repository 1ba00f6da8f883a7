//! The program: parses the command line, runs the command and returns its exit code.

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    forbid_core_dumps();
    ringback::cli::run(ringback::cli::Cli::parse())
}

/// Forbids core dumps: the memory of most commands holds keys and secrets, and a dump would put them on a disk.
///
/// The limit stops the kernel from writing a file, but not from piping the dump to a program (`core_pattern` with `|`,
/// as of systemd or Ubuntu). A process that is not dumpable is never dumped. Other processes of the same user also
/// cannot read its memory and its environment, which holds the keys; a debugger needs root.
fn forbid_core_dumps() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    // Neither can fail for the own process; and without them the program is as safe as any other.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
