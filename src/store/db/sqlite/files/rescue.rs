//! What is saved after a file of the database was changed, and what the last line of the process says.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::PoisonError;

use super::paths::copies;
use super::{Fault, Files, beside, folder, new_file, space};

/// Contents that could not be saved and that only the open files of this process hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaved {
    /// What happened, and why nothing was saved.
    happened: String,
    path: PathBuf,
    /// Free space that is needed, in bytes.
    needed: u64,
    /// The command that copies the contents.
    by_hand: String,
}

impl Unsaved {
    /// Returns a sentence for the time in which the save is tried again.
    pub fn while_waiting(&self) -> String {
        let Self { happened, path, needed, by_hand } = self;
        format!(
            "{happened} and are only in this process. It refuses writes and tries again every second: free {needed} bytes in \
             {}, which must be writable. Or copy them as root to another disk, while the process runs: `{by_hand}`. If \
             the process is stopped before, they are lost",
            folder(path).display()
        )
    }

    /// Returns the last line of a process that is stopped.
    pub fn when_lost(&self) -> String {
        let Self { happened, path, by_hand, .. } = self;
        format!(
            "{happened} and are lost with this process, unless they were copied before (`{by_hand}`): restore the copy or a \
             backup as {}, and start again",
            path.display()
        )
    }
}

impl Files {
    /// Saves what can be saved after `fault`, and returns a sentence that says what happened, where the data is, and
    /// what to do. `empty_log` copies the log into the open file. It can be called again: after an error it tries again, and
    /// after a success it only repeats the sentence.
    pub fn rescue(
        &self,
        fault: Fault,
        empty_log: impl FnOnce() -> Result<(), String>,
    ) -> Result<String, Unsaved> {
        let mut done = self.rescue.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sentence) = &*done {
            return Ok(sentence.clone());
        }
        let fault = *self.rescue.fault.get_or_init(|| fault);
        let sentence = self.rescue_from(fault, empty_log)?;
        *done = Some(sentence.clone());
        Ok(sentence)
    }

    fn rescue_from(
        &self,
        fault: Fault,
        empty_log: impl FnOnce() -> Result<(), String>,
    ) -> Result<String, Unsaved> {
        let path = self.path.display();
        let nothing_lost =
            || "nothing is lost: start again, and leave the files beside the database alone".to_owned();
        let rescued = match fault {
            Fault::Overwritten => {
                self.note_damage("it was overwritten while it was in use");
                self.set_log_aside()
            }
            Fault::Written => {
                self.note_damage("another program wrote to it while it was in use");
                Ok("it can be damaged now. Its log is unchanged. The next start checks every page; if it refuses the \
                    database, restore a backup"
                    .to_owned())
            }
            Fault::Gone | Fault::Replaced if self.is_covered() => {
                return Ok(format!(
                    "the folder of the database {path} is no longer the one that was opened: another file system is \
                     mounted over it. Nothing is lost: unmount it, and start again"
                ));
            }
            Fault::LogTruncated => {
                self.forget_log();
                Ok(format!(
                    "the commits that it held are lost. The next start opens the database without them, unless they were all of \
                     its contents; restore a backup as {path} if you have a newer one"
                ))
            }
            Fault::Truncated => Ok(format!(
                "restore a backup as {path}, or copy what is readable with `sqlite3 {path} .recover | sqlite3 new.db`"
            )),
            Fault::Gone | Fault::Replaced => empty_log().and_then(|()| self.keep_open_file()),
            Fault::Log => empty_log().map(|()| nothing_lost()),
            // The next start reads the log.
            Fault::Index | Fault::Lock => Ok(nothing_lost()),
        };
        let rescued = match rescued {
            Ok(rescued) => rescued,
            Err(error) => {
                let saved = format!("its contents could not be saved ({error})");
                match (fault, self.locks.database.metadata()) {
                    // It has another name, and the log is as it was.
                    (Fault::Gone | Fault::Replaced, Ok(open)) if open.nlink() > 0 => format!(
                        "{saved}, and lie in the file that was renamed and in {path}-wal: free some space if the disk \
                         is full, rename the file to {path}, and start again"
                    ),
                    (Fault::Gone | Fault::Replaced | Fault::Log, _) => {
                        return Err(self.unsaved(fault, &saved));
                    }
                    _ => format!("{saved}: restore a backup as {path}, and start again"),
                }
            }
        };
        Ok(format!("{}; {rescued}", fault.describe(&self.path)))
    }

    /// Describes contents that only the open files hold.
    fn unsaved(&self, fault: Fault, saved: &str) -> Unsaved {
        let size = |file: &File| file.metadata().map_or(0, |file| file.len());
        let copy = |file: &File, name: &str| {
            format!("cp /proc/{}/fd/{} COPY{name}", std::process::id(), file.as_raw_fd())
        };
        let log = (size(&self.wal) > 0).then(|| copy(&self.wal, "-wal"));
        let (needed, copies) = if fault == Fault::Log {
            (size(&self.wal), log.into_iter().collect::<Vec<_>>())
        } else {
            let database = &self.locks.database;
            let copies = [Some(copy(database, "")), log].into_iter().flatten().collect();
            (size(database) + size(&self.wal), copies)
        };
        Unsaved {
            happened: format!("{}; {saved}", fault.describe(&self.path)),
            path: self.path.clone(),
            needed,
            by_hand: copies.join(" && "),
        }
    }

    /// Removes the index of a log that is gone: the next start would be refused because of it.
    fn forget_log(&self) {
        let _ = fs::remove_file(beside(&self.path, "-shm"));
    }

    /// Whether the open file still has the name of the database, below another file system.
    fn is_covered(&self) -> bool {
        let database = &self.locks.database;
        let link = fs::read_link(format!("/proc/self/fd/{}", database.as_raw_fd()));
        database.metadata().is_ok_and(|open| open.nlink() > 0) && link.is_ok_and(|link| link == self.path)
    }

    /// Says where the open file is. If it has no name, copies it to a new file first.
    fn keep_open_file(&self) -> Result<String, String> {
        let path = self.path.display();
        let database = &self.locks.database;
        let names = database.metadata().map_err(|error| error.to_string())?.nlink();
        let (what, kept) = if names == 0 {
            ("saved", self.copy().map_err(|error| error.to_string())?)
        } else {
            // The kernel knows the new name.
            let link = format!("/proc/self/fd/{}", database.as_raw_fd());
            ("now", fs::read_link(link).unwrap_or_else(|_| "the renamed file".into()))
        };
        Ok(format!(
            "all of its contents are {what} in {}: to go on with them, stop the service, delete {path}-wal and \
             {path}-shm, and rename that file to {path}",
            kept.display()
        ))
    }

    /// Copies the open file to a new file beside it.
    fn copy(&self) -> io::Result<PathBuf> {
        // Without it, each try would write until the disk is full.
        let (folder, needed) = (folder(&self.path), self.locks.database.metadata()?.len());
        if space::free(folder).is_some_and(|free| free < needed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let create = |path: PathBuf| match new_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            made => Some(made.map(|file| (path, file))),
        };
        let (path, mut copy) = copies(&self.path).find_map(create).ok_or(io::ErrorKind::AlreadyExists)??;
        let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
        let copied = loop {
            match self.locks.database.read_at(&mut buffer, at) {
                Ok(0) => break copy.sync_all(),
                Ok(length) => {
                    at += length as u64;
                    if let Err(error) = copy.write_all(&buffer[..length]) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if copied.is_err() {
            let _ = fs::remove_file(&path);
        }
        copied.map(|()| path)
    }

    /// Renames the log of a database that was overwritten.
    fn set_log_aside(&self) -> Result<String, String> {
        let aside = beside(&self.path, "-wal.old");
        fs::rename(beside(&self.path, "-wal"), &aside).map_err(|error| error.to_string())?;
        self.forget_log();
        Ok(format!(
            "the log of its old contents was renamed to {}, so the next start reads the new contents alone. Copy them \
             again, because parts may be overwritten, and stop the service before you do",
            aside.display()
        ))
    }
}
