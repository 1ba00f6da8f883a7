//! Tests on a small file system: the test runs itself again in a name space in which it may mount one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Variable that passes the path of the small disk to the second run of a test.
const SMALL_DISK: &str = "RINGBACK_TEST_SMALL_DISK";

#[expect(clippy::disallowed_methods, reason = "a test asks how it is run")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// How a test on a small disk is run.
pub enum SmallDisk {
    /// The second run: the disk is mounted in this folder.
    Mounted(PathBuf),
    /// The second run has passed. This is what it printed.
    Passed(String),
    /// User name spaces are not available.
    Unavailable,
}

/// Returns the folder of a file system of this size (`1m`), or `None` after the second run of `test` (its full name)
/// has passed on it. It also returns `None` where user name spaces are not available, unless every test must run.
pub fn small_disk(test: &str, size: &str) -> Option<PathBuf> {
    match run_on_small_disk(test, size) {
        SmallDisk::Mounted(disk) => Some(disk),
        SmallDisk::Passed(_) | SmallDisk::Unavailable => None,
    }
}

/// Runs `test` (its full name) again on a file system of this size (`1m`), or returns the folder of that file system in
/// the second run.
pub fn run_on_small_disk(test: &str, size: &str) -> SmallDisk {
    if let Some(disk) = variable(SMALL_DISK) {
        return SmallDisk::Mounted(disk.into());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let inner = "mount -t tmpfs -o size=\"$4\" tmpfs \"$1\" && exec \"$2\" --exact --nocapture \"$3\"";
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", inner, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().expect("a path"))
        .args([test, size])
        .env(SMALL_DISK, folder.path())
        .output();
    let said =
        ran.as_ref().map_or_else(ToString::to_string, |ran| String::from_utf8_lossy(&ran.stderr).into());
    if ran.is_err() || said.contains("unshare:") || said.contains("mount:") {
        assert!(variable("CI").is_none(), "a small disk cannot be had: {said}");
        return SmallDisk::Unavailable;
    }
    let ran = ran.expect("it ran");
    let output = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && output.contains("1 passed"), "{said}{output}");
    SmallDisk::Passed(output.into_owned())
}
