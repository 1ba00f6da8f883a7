//! What refuses a start before SQLite opens the files, and the modes of the files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::contents::LogIndex;
use super::note::{Note, Origin};
use super::paths::{beside, copies, has_log};

/// Refuses to make a new database where another one was: a supervisor starts the program again before a person has read
/// what to do.
pub fn refuse_lost_database(path: &Path) -> Result<()> {
    let target = target(path);
    let shown = target.display();
    let what = match path.metadata() {
        Ok(found) if found.len() > 0 => return Ok(()),
        Ok(_) => format!("the database {shown} is empty"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("there is no database {shown}"),
        // What opens the file reports the reason.
        Err(_) => return Ok(()),
    };
    let anew = |files: &str| format!("to begin with an empty database, delete or move {files}");
    if let Some(saved) = copies(&target).rfind(|saved| saved.exists()) {
        let saved = saved.display();
        let anew = anew(&format!("{saved}, {shown}-wal and {shown}.lock"));
        bail!(
            "{what}, but its contents were saved in {saved} when it was deleted or replaced: to go on with them, delete \
             {shown}-wal and {shown}-shm, and rename {saved} to {shown}; {anew}"
        );
    }
    let old = beside(&target, "-wal.old");
    if old.exists() {
        let old = old.display();
        let anew = anew(&format!("{old}, {shown}-wal and {shown}.lock"));
        bail!("{what}, but the log of an overwritten one is in {old}: restore a backup as {shown}; {anew}");
    }
    if has_log(&target) {
        let anew = anew(&format!("{shown}-wal, {shown}-shm and {shown}.lock"));
        bail!(
            "{what}, but {shown}-wal, the log of one: put the database back as {shown}, or restore a backup and delete \
             the log; {anew}"
        );
    }
    if File::open(beside(&target, ".lock")).is_ok_and(|lock| Note::read(&lock).existed) {
        let anew = anew(&format!("{shown}.lock"));
        bail!(
            "{what}, but {shown}.lock says that there was one: put it back as {shown}, or restore a backup; {anew}"
        );
    }
    Ok(())
}

/// Returns a sentence about the contents of an earlier database that were saved beside this one, if there are any. A
/// supervisor may have started the program again before a person has read where they are.
pub fn saved_contents(path: &Path) -> Option<String> {
    let saved = copies(path).rfind(|saved| saved.exists())?;
    let (saved, path) = (saved.display(), path.display());
    Some(format!(
        "{saved} holds the contents of a database that was deleted or replaced while it was in use, and its watches are \
         not polled. To go on with them, stop ringback, move {path}, {path}-wal and {path}-shm away, and rename {saved} to \
         {path}; else delete {saved}"
    ))
}

/// Returns the target of a link whose target is missing: the other files lie beside the target.
fn target(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let joined = |target| path.parent().unwrap_or(Path::new("")).join(target);
        fs::read_link(path).map_or_else(|_| path.to_owned(), joined)
    })
}

/// Refuses a log that was written for another state of the database than the one on disk. Returns whether the log, if
/// there is one, is known to belong to it.
pub fn refuse_foreign_log(path: &Path, noted: Option<Origin>, found: Option<Origin>) -> Result<bool> {
    if !has_log(path) {
        return Ok(true);
    }
    let (Some(noted), Some(found)) = (noted, found) else { return Ok(false) };
    if noted != found {
        let path = path.display();
        bail!(
            "the log {path}-wal does not belong to the database {path}, which was replaced after the log was written (a \
             restored backup?); nothing was changed. Move {path}-wal and {path}-shm away, and start again; only if the \
             database was not replaced, delete {path}.lock instead"
        );
    }
    Ok(true)
}

/// Refuses a database whose newest commits were in a log that is missing or was emptied. After a kill, the index of the
/// log remains and says how many pages only the log holds. SQLite empties it when it opens the database. If the note
/// has another origin than the database, the index is that of another one (a restored backup).
pub fn refuse_lost_commits(path: &Path, noted: Option<Origin>, found: Option<Origin>) -> Result<()> {
    let is_of_another = noted.is_some() && noted != found;
    // An empty file was made where another database was.
    let is_new = path.metadata().is_ok_and(|database| database.len() == 0);
    if has_log(path) || is_of_another || is_new {
        return Ok(());
    }
    let index = File::open(beside(path, "-shm")).ok().as_ref().and_then(LogIndex::read);
    let pages = index.map_or(0, |index| index.uncopied());
    if pages > 0 {
        let path = path.display();
        bail!(
            "the database {path} lacks its newest commits: {path}-shm says that {pages} pages of them were in the log \
             {path}-wal alone, which is missing or was emptied. Nothing was changed: put the log back as {path}-wal, or \
             restore a backup; to go on without these commits, or if {path} is a restored backup, delete {path}-shm"
        );
    }
    Ok(())
}

/// Refuses a symbolic link whose target is missing. A database is not made there: the folder of the target may be on a
/// disk that is not mounted.
pub fn refuse_link_without_target(path: &Path) -> Result<()> {
    let is_missing = path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if !is_missing || fs::read_link(path).is_err() {
        return Ok(());
    }
    let target = target(path);
    let (link, shown) = (path.display(), target.display());
    let (absent, make) = match target.parent() {
        Some(folder) if !folder.exists() => {
            let folder = folder.display();
            (
                format!(
                    "whose folder does not exist. If it is on another disk, mount that disk; else run `mkdir -p {folder} && "
                ),
                "to make an empty database there",
            )
        }
        Some(_) | None => (
            "which does not exist. Put the database there, or run `".to_owned(),
            "to begin with an empty one",
        ),
    };
    bail!(
        "{link} is a symbolic link to {shown}, {absent}touch {shown}` {make}; or remove the link with `rm {link}`, and a \
         new database takes its place"
    )
}

/// Refuses a file that is a mount point of its own: its log would lie elsewhere.
pub fn refuse_mount_point(path: &Path) -> Result<()> {
    if let (Some(file), Some(folder)) = (mount(path), path.parent().and_then(mount))
        && file != folder
    {
        bail!(
            "{0} is mounted as a single file, so its log {0}-wal would lie outside of that mount and be lost with the \
             container; mount the folder that holds the database",
            path.display()
        );
    }
    Ok(())
}

/// Returns the number of the mount that holds a file, if the kernel reports it (5.8).
#[cfg(target_os = "linux")]
fn mount(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

#[cfg(not(target_os = "linux"))]
fn mount(_path: &Path) -> Option<u64> {
    None
}

/// Takes the access of other users from the database and its log, if the mode permits it: a umask did that, and the
/// file holds secrets. A mode with access for the group alone stays: an operator has chosen it, or set an ACL, whose
/// mask is in the bits of the group. Returns a sentence about what was done.
pub fn narrow(path: &Path) -> Option<String> {
    let mut sentence = None;
    for file in ["", "-wal", "-shm"].map(|suffix| beside(path, suffix)) {
        let Ok(found) = file.metadata() else { continue };
        let mode = found.mode() & 0o777;
        if mode % 0o10 == 0 {
            continue;
        }
        let own = found.uid() == rustix::process::geteuid().as_raw();
        let done = own && fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).is_ok();
        // An empty file has held no secret.
        if found.len() == 0 {
            continue;
        }
        sentence.get_or_insert_with(|| {
            let path = file.display();
            let what = if done { "its mode is now 0600" } else { "change its mode to 0600" };
            format!(
                "every user of this machine could read {path}, which holds secrets (mode {mode:04o}): {what}"
            )
        });
    }
    sentence
}
