//! Tests of the start and of the check of the files.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use rusqlite::ffi;

use super::*;

// stashapp/stash#5720, pocket-id/pocket-id#876
#[test]
fn temporary_files_lie_in_the_folder_of_the_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = folder.path().canonicalize().expect("a path");
    // The setting belongs to the process: another test may open its database in between.
    let is_set = (0..100).any(|_| {
        let writer = WriterConnection::open(&folder.path().join("ringback.db")).expect("opens");
        let set: String = writer
            .connection
            .query_row("pragma temp_store_directory", [], |row| row.get(0))
            .expect("the library still has the setting");
        writer.rewrite().expect("rewritten");
        Path::new(&set) == expected
    });
    assert!(is_set);
}

/// Names, modes and contents of the files of a folder, without those of the index of a log.
fn files_of(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let path = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").path();
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(path).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let mode = path.metadata().expect("there").mode();
        let bytes = if path.ends_with("x.db-shm") { Vec::new() } else { std::fs::read(&path).expect("read") };
        (path, mode, bytes)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn a_database_of_another_program_is_refused_and_unchanged() {
    use std::os::unix::fs::PermissionsExt as _;
    for (version, mode) in [(0, "delete"), (3, "delete"), (0, "wal"), (3, "a log")] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.db");
        let other = Connection::open(&path).expect("opens");
        let journal = if mode == "delete" { mode } else { "wal" };
        let sql = format!(
            "pragma journal_mode = {journal}; create table jobs (id); pragma user_version = {version}"
        );
        other.execute_batch(&sql).expect("made");
        if mode == "a log" {
            other.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
        }
        drop(other);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        let before = files_of(folder.path());
        let error = WriterConnection::open(&path).expect_err("refused").to_string();
        assert!(error.contains("is a database of another program"), "{error}");
        assert!(files_of(folder.path()) == before, "{version}, {mode}: the files have changed");
        // A file that the other program uses as a lock.
        std::fs::write(folder.path().join("x.db.lock"), "1").expect("made");
        let permissions = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(folder.path().join("x.db.lock"), permissions).expect("set");
        let before = files_of(folder.path());
        WriterConnection::open(&path).expect_err("refused");
        assert!(files_of(folder.path()) == before, "{version}, {mode}: its lock has changed");
    }
}

#[test]
fn a_database_from_an_sql_dump_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.db");
    WriterConnection::open(&path).expect("opens").close();
    // A dump lacks both.
    let database = Connection::open(&path).expect("opens");
    let version: i64 = database.query_row("pragma user_version", [], |row| row.get(0)).expect("a version");
    let dump = "pragma application_id = 0; pragma user_version = 0; pragma journal_mode = delete";
    database.execute_batch(dump).expect("changed");
    drop(database);
    let error = WriterConnection::open(&path).expect_err("refused").to_string();
    assert!(error.contains("an SQL dump") && error.contains("`vacuum into`"), "{error}");
    assert!(!error.contains("another program"), "{error}");
    // As the sentence says.
    let database = Connection::open(&path).expect("opens");
    database.pragma_update(None, "user_version", version).expect("set");
    drop(database);
    WriterConnection::open(&path).expect("opens").close();
}

/// Copies the files as a kill leaves them, without the log.
fn killed_without_log(folder: &Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().expect("a folder");
    for name in ["x.db", "x.db.lock"] {
        std::fs::copy(folder.join(name), left.path().join(name)).expect("copied");
    }
    left
}

#[test]
fn a_database_whose_log_held_everything_is_not_begun_anew() {
    let (folder, _, writer) = opened();
    // A first start that was interrupted before its first app is begun again.
    let left = killed_without_log(folder.path());
    WriterConnection::open(&left.path().join("x.db")).expect("opens").close();
    let app = "begin; insert into apps (id, name, signing_secret, created_at) values (1, 'a', 's', 0)";
    writer.connection.execute_batch(app).expect("written");
    writer.commit().expect("committed");
    let left = killed_without_log(folder.path());
    let path = left.path().join("x.db");
    let before = files_of(left.path());
    for _ in 0..2 {
        let error = WriterConnection::open(&path).expect_err("refused").to_string();
        assert!(
            error.contains("x.db-wal, which is missing or") && error.contains("Put the log back"),
            "{error}"
        );
        assert!(files_of(left.path()) == before, "the files have changed");
    }
    // A copy that was saved is the remedy.
    let saved = left.path().join("x.db.saved-1");
    std::fs::write(&saved, "contents").expect("written");
    let error = WriterConnection::open(&path).expect_err("refused").to_string();
    assert!(error.contains("x.db.saved-1 holds the contents") && !error.contains("Put the log"), "{error}");
    std::fs::remove_file(&saved).expect("removed");
    // As the sentence says.
    std::fs::copy(folder.path().join("x.db-wal"), left.path().join("x.db-wal")).expect("copied");
    let opened = WriterConnection::open(&path).expect("opens");
    assert!(has_app(&opened.connection).expect("read"));
    opened.close();
    // Contents of the last start.
    let note = std::fs::read_to_string(left.path().join("x.db.lock")).expect("read");
    assert!(note.contains("contents: yes"), "{note}");
    for name in ["x.db", "x.db.lock"] {
        std::fs::remove_file(left.path().join(name)).expect("removed");
    }
    WriterConnection::open(&path).expect("a new one").close();
}

#[test]
fn an_error_of_a_migration_does_not_quote_it() {
    let mut connection = Connection::open_in_memory().expect("opens");
    let error = migrate(&mut connection, &[("0001_x.sql", "create table a (b); select c from a")]);
    assert_eq!(
        sentence(&error.expect_err("no column")),
        "the migration 0001_x.sql failed: no such column: c"
    );
}

#[test]
fn a_full_disk_is_named_once() {
    let code = ffi::Error::new(ffi::SQLITE_FULL);
    let full = rusqlite::Error::SqliteFailure(code, Some("database or disk is full".to_owned()));
    let error = anyhow::Error::from(full).context("x.db cannot be used");
    assert_eq!(sentence(&error), "x.db cannot be used: database or disk is full");
}

#[test]
fn a_path_that_is_no_file_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = WriterConnection::open(folder.path()).expect_err("a folder").to_string();
    assert!(error.contains("is a folder; name a file in it"), "{error}");
    std::fs::create_dir(folder.path().join("x.db.lock")).expect("made");
    let error = WriterConnection::open(&folder.path().join("x.db")).expect_err("no lock");
    assert!(format!("{error:#}").contains("x.db.lock is not a file"), "{error:#}");
}

#[test]
fn a_database_with_two_names_is_refused_with_the_commands() {
    let (folder, path, writer) = opened();
    writer.close();
    std::fs::hard_link(&path, folder.path().join("y.db")).expect("linked");
    let error = WriterConnection::open(&path).expect_err("two names").to_string();
    let shown = path.canonicalize().expect("a path");
    let shown = shown.display();
    let command = format!("cp -p {shown} {shown}.copy && mv {shown}.copy {shown}");
    assert!(error.contains("has 2 names") && error.contains(&command), "{error}");
    assert!(error.contains("-samefile"), "{error}");
    // As the sentence says.
    let done = std::process::Command::new("sh").args(["-c", &command]).status().expect("a shell");
    assert!(done.success());
    WriterConnection::open(&path).expect("opens").close();
}

#[test]
fn a_fifo_beside_the_database_is_refused() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.db");
    for suffix in ["-wal", "-shm", "-journal", ".lock"] {
        let fifo = files::beside(&path, suffix);
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let error = WriterConnection::open(&path).expect_err(suffix).to_string();
        assert_eq!(error, format!("{} is not a file; delete or rename it", fifo.display()));
        std::fs::remove_file(&fifo).expect("removed");
    }
    mknodat(CWD, folder.path().join("y.db"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    for special in [folder.path().join("y.db"), "/dev/null".into(), "/dev/zero".into()] {
        let error = WriterConnection::open(&special).expect_err("no file").to_string();
        assert!(error.contains("is not a file; name another one"), "{error}");
    }
    WriterConnection::open(&path).expect("opens").close();
}

#[test]
fn a_link_without_its_target_is_refused_with_the_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let (link, target) = (folder.path().join("x.db"), folder.path().join("data/y.db"));
    std::os::unix::fs::symlink("data/y.db", &link).expect("linked");
    let refused = || {
        let error = WriterConnection::open(&link).expect_err("no target").to_string();
        assert!(!files::beside(&link, ".lock").exists(), "{error}");
        assert!(error.contains(&format!("is a symbolic link to {}", target.display())), "{error}");
        assert!(error.contains(&format!("rm {}`", link.display())), "{error}");
        error
    };
    let error = refused();
    let data = folder.path().join("data");
    let command = format!("mkdir -p {0} && touch {1}", data.display(), target.display());
    assert!(error.contains("mount") && error.contains(&format!("`{command}`")), "{error}");
    std::fs::create_dir(&data).expect("made");
    let error = refused();
    let command = format!("touch {}", target.display());
    assert!(!error.contains("mkdir") && error.contains(&format!("`{command}`")), "{error}");
    // As the sentence says.
    std::fs::write(&target, "").expect("made");
    WriterConnection::open(&link).expect("opens").close();
    assert!(target.metadata().expect("there").len() > 0);
}

#[test]
fn a_start_that_cannot_open_the_database_leaves_no_lock() {
    let folder = tempfile::tempdir().expect("a folder");
    // No file can be created under this name.
    let link = folder.path().join("x.db");
    std::os::unix::fs::symlink("x.db", &link).expect("linked");
    WriterConnection::open(&link).expect_err("a circle");
    assert!(!files::beside(&link, ".lock").exists());
}

#[test]
fn a_database_below_another_mount_is_not_to_be_renamed() {
    // The open file still has its name, so what the name shows now lies above it.
    for fault in [Fault::Gone, Fault::Replaced] {
        let (_folder, _, writer) = opened();
        let sentence = writer.files.rescue(fault, || Ok(())).expect("nothing is lost");
        assert!(sentence.contains("unmount it, and start again"), "{sentence}");
        assert!(!sentence.contains("rename") && !sentence.contains("-wal"), "{sentence}");
    }
}

#[test]
fn a_truncated_log_or_database_is_noticed_also_behind_a_hole() {
    let folder = tempfile::tempdir().expect("a folder");
    let resized = |name: &str, size| {
        let file = OpenOptions::new().write(true).open(folder.path().join(name)).expect("opens");
        file.set_len(size).expect("resized");
    };
    let writer = WriterConnection::open(&folder.path().join("x.db")).expect("opens");
    let write = || writer.connection.execute_batch("create table x (y); drop table x").expect("written");
    assert_eq!(writer.files.check(), Ok(()));
    write();
    assert_eq!(writer.files.check(), Ok(()));
    assert_eq!(writer.truncate_log(), Ok(0));
    assert_eq!(writer.files.check(), Ok(()));
    let size = folder.path().join("x.db").metadata().expect("there").len();
    write();
    assert_eq!(writer.files.check(), Ok(()));
    resized("x.db", size - 4_096);
    assert_eq!(writer.files.check(), Err(Fault::Truncated));
    resized("x.db", size);
    assert_eq!(writer.files.check(), Err(Fault::Written), "the last page is zero");
    resized("x.db-wal", 0);
    assert_eq!(writer.files.check(), Err(Fault::LogTruncated));
    write();
    assert_eq!(writer.files.check(), Err(Fault::LogTruncated), "the log has its size again");
    std::mem::forget(writer.connection);
}

/// Opens a database in a folder of its own, with a commit in its log.
fn opened() -> (tempfile::TempDir, PathBuf, WriterConnection) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.db");
    let writer = WriterConnection::open(&path).expect("opens");
    write(&writer);
    (folder, path, writer)
}

fn write(writer: &WriterConnection) {
    writer.connection.execute_batch("create table x (y); drop table x").expect("written");
}

#[test]
fn a_write_that_no_checkpoint_explains_is_noticed() {
    for change in ["header", "time", "end"] {
        let (_folder, path, writer) = opened();
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        assert_eq!(writer.files.check(), Ok(()));
        let expected = match change {
            // As in a copy by `vacuum into`.
            "header" => {
                let mut schema = [0; 4];
                file.read_exact_at(&mut schema, 40).expect("read");
                let next = u32::from_be_bytes(schema) + 1;
                file.write_all_at(&next.to_be_bytes(), 40).expect("written");
                // The time does not show it.
                file.set_modified(path.metadata().expect("there").modified().expect("a time")).expect("set");
                Fault::Overwritten
            }
            "time" => {
                file.set_modified(std::time::UNIX_EPOCH).expect("set");
                Fault::Written
            }
            _ => {
                file.set_len(path.metadata().expect("there").len() + 4_096).expect("longer");
                Fault::Written
            }
        };
        assert_eq!(writer.files.check(), Err(expected), "{change}");
        let checkpointed = writer.files.checkpoint(|| unreachable!("into a file that was changed"));
        assert_eq!(checkpointed, Err::<(), _>(expected), "{change}");
        std::mem::forget(writer.connection);
    }
}

#[test]
fn a_foreign_write_around_a_restart_of_the_log_is_noticed() {
    for is_before in [true, false] {
        let (_folder, path, writer) = opened();
        let passive = || writer.connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()));
        assert_eq!(writer.files.checkpoint(passive), Ok(Ok(())));
        if !is_before {
            write(&writer);
        }
        let file = OpenOptions::new().write(true).open(&path).expect("opens");
        file.write_all_at(&[0, 0, 1, 0], 40).expect("written");
        if is_before {
            write(&writer);
        }
        assert_eq!(writer.files.check(), Err(Fault::Written));
        std::mem::forget(writer.connection);
    }
}

#[test]
fn a_checkpoint_of_another_process_behind_a_reader_is_no_foreign_write() {
    let (_folder, path, writer) = opened();
    let (reader, other) = (Connection::open(&path).expect("opens"), Connection::open(&path).expect("opens"));
    let run = |connection: &Connection, sql: &str| connection.query_row(sql, [], |_| Ok(()));
    reader.execute_batch("begin; select count(*) from watches").expect("a snapshot");
    let passive = || run(&writer.connection, "pragma wal_checkpoint(passive)");
    assert_eq!(writer.files.checkpoint(passive), Ok(Ok(())));
    // The reader keeps the commit from beginning the log anew.
    write(&writer);
    reader.execute_batch("rollback").expect("ended");
    run(&other, "pragma wal_checkpoint(restart)").expect("checkpointed");
    write(&writer);
    assert_eq!(writer.files.check(), Ok(()));
}

#[test]
fn checkpoints_of_this_and_other_processes_are_no_foreign_writes() {
    let (_folder, path, writer) = opened();
    let other = Connection::open(path).expect("opens");
    for how in ["passive", "full", "restart", "truncate"] {
        write(&writer);
        assert_eq!(writer.files.check(), Ok(()), "{how}");
        let sql = format!("pragma wal_checkpoint({how})");
        other.query_row(&sql, [], |_| Ok(())).expect("checkpointed");
        assert_eq!(writer.files.check(), Ok(()), "{how}");
        write(&writer);
        assert_eq!(writer.files.checkpoint(|| writer.truncate_log()), Ok(Ok(0)), "{how}");
        assert_eq!(writer.files.check(), Ok(()), "{how}");
    }
    writer.connection.execute_batch("vacuum").expect("rewritten");
    assert_eq!(writer.files.check(), Ok(()));
}

/// Makes a folder as a kill leaves it: the files of an open database without a lock, and a backup of it that is older
/// than the log.
fn killed() -> (tempfile::TempDir, PathBuf) {
    let (folder, path, writer) = opened();
    let rows = "with recursive n (n) as (select 1 union all select n + 1 from n where n < 2000)
        insert into filler select randomblob(200) from n";
    let fill = format!("create table filler (x); {rows}; delete from filler where rowid % 3 > 0; {rows}");
    writer.connection.execute_batch(&fill).expect("filled");
    assert_eq!(writer.files.checkpoint(|| writer.truncate_log()), Ok(Ok(0)));
    let backup = format!("vacuum into '{}'", folder.path().join("backup.db").display());
    writer.connection.execute_batch(&backup).expect("a backup");
    let change = format!("delete from filler where rowid % 5 = 0; {rows}");
    writer.connection.execute_batch(&change).expect("changed");
    let left = tempfile::tempdir().expect("a folder");
    for name in ["x.db", "x.db-wal", "x.db-shm", "x.db.lock", "backup.db"] {
        std::fs::copy(folder.path().join(name), left.path().join(name)).expect("copied");
    }
    assert!(path.exists());
    let path = left.path().join("x.db");
    (left, path)
}

#[test]
fn a_log_that_stayed_behind_leaves_a_restored_backup_alone() {
    for lock in ["a note", "of an older version", "none"] {
        let (folder, path) = killed();
        match lock {
            "a note" => {}
            "none" => std::fs::remove_file(folder.path().join("x.db.lock")).expect("removed"),
            _ => std::fs::write(folder.path().join("x.db.lock"), "").expect("emptied"),
        }
        // `cp` and `mv` differ in the inode.
        let backup = folder.path().join("backup.db");
        if lock == "a note" {
            std::fs::copy(&backup, &path).expect("restored");
        } else {
            std::fs::rename(&backup, &path).expect("restored");
        }
        let files =
            || ["x.db", "x.db-wal"].map(|name| std::fs::read(folder.path().join(name)).expect("read"));
        let before = files();
        for _ in 0..2 {
            let error = WriterConnection::open(&path).expect_err("refused").to_string();
            assert!(error.contains("not belong to") && error.contains("x.db-shm away"), "{lock}: {error}");
            assert!(files() == before, "{lock}: the files have changed");
        }
        std::fs::remove_file(folder.path().join("x.db-wal")).expect("removed");
        let _ = std::fs::remove_file(folder.path().join("x.db-shm"));
        WriterConnection::open(&path).expect("the backup opens").close();
    }
}

#[test]
fn a_log_that_its_index_proves_missing_refuses_the_start() {
    for (note, is_emptied) in [(true, false), (true, true), (false, false)] {
        let (folder, path) = killed();
        let (log, index) = (folder.path().join("x.db-wal"), folder.path().join("x.db-shm"));
        // An older version noted nothing.
        if !note {
            std::fs::write(folder.path().join("x.db.lock"), "").expect("emptied");
        }
        std::fs::rename(&log, folder.path().join("moved")).expect("moved");
        if is_emptied {
            std::fs::write(&log, "").expect("made");
        }
        let before = files_of(folder.path());
        for _ in 0..2 {
            let error = WriterConnection::open(&path).expect_err("refused").to_string();
            assert!(error.contains("newest commits") && error.contains("put the log back"), "{error}");
            assert!(error.contains("x.db-shm"), "{error}");
            assert!(files_of(folder.path()) == before && index.exists(), "the files have changed");
        }
        // As the sentence says, in both ways.
        let copy = tempfile::tempdir().expect("a folder");
        for (name, from) in [("x.db", "x.db"), ("x.db-wal", "moved"), ("x.db.lock", "x.db.lock")] {
            std::fs::copy(folder.path().join(from), copy.path().join(name)).expect("copied");
        }
        WriterConnection::open(&copy.path().join("x.db")).expect("with its log").close();
        std::fs::remove_file(index).expect("removed");
        WriterConnection::open(&path).expect("without its newest commits").close();
    }
}

#[test]
fn an_index_without_lost_commits_does_not_refuse_the_start() {
    // A restored backup, beside which the index of the old log stayed.
    let (folder, path) = killed();
    std::fs::copy(folder.path().join("backup.db"), &path).expect("restored");
    std::fs::remove_file(folder.path().join("x.db-wal")).expect("removed");
    WriterConnection::open(&path).expect("the backup").close();
    // A log that was copied into the database before it was lost, with and without a restart of the log.
    for sql in ["pragma wal_checkpoint(passive)", "pragma wal_checkpoint(truncate)"] {
        let (folder, _, writer) = opened();
        writer.connection.query_row(sql, [], |_| Ok(())).expect("copied");
        let left = tempfile::tempdir().expect("a folder");
        for name in ["x.db", "x.db-shm", "x.db.lock"] {
            std::fs::copy(folder.path().join(name), left.path().join(name)).expect("copied");
        }
        WriterConnection::open(&left.path().join("x.db")).expect("nothing is lost").close();
    }
}

#[test]
fn a_log_beside_its_own_database_is_applied_also_after_a_copy() {
    for lock in [true, false] {
        let (folder, path) = killed();
        if !lock {
            std::fs::remove_file(folder.path().join("x.db.lock")).expect("removed");
        }
        let writer = WriterConnection::open(&path).expect("opens");
        let count = |sql| writer.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("read");
        assert!(count("select count(*) from filler") > 4_000);
    }
}

#[test]
fn a_damaged_database_is_left_as_it_is() {
    let (folder, path) = killed();
    let length = path.metadata().expect("there").len();
    let file = OpenOptions::new().write(true).open(&path).expect("opens");
    file.write_all_at(&vec![0xa5; usize::try_from(length).expect("small") - 4_096], 4_096).expect("written");
    let before = std::fs::read(&path).expect("read");
    let error = WriterConnection::open(&path).expect_err("refused").to_string();
    assert!(error.contains("is damaged") && error.contains(".recover"), "{error}");
    assert!(std::fs::read(&path).expect("read") == before, "the log was applied");
    assert!(folder.path().join("x.db-wal").exists());
}

#[test]
fn a_rewrite_and_a_foreign_change_of_the_schema_keep_the_log() {
    let (folder, _, writer) = opened();
    writer.rewrite().expect("rewritten");
    let index = "create index foreign_one on watches (job_no)";
    let other = Connection::open(folder.path().join("x.db")).expect("opens");
    let index = other.execute_batch(index).or_else(|_| other.execute_batch("create table foreign_one (x)"));
    index.expect("changed");
    other.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).expect("checkpointed");
    assert_eq!(writer.files.check(), Ok(()));
    write(&writer);
    let left = tempfile::tempdir().expect("a folder");
    for name in ["x.db", "x.db-wal", "x.db.lock"] {
        std::fs::copy(folder.path().join(name), left.path().join(name)).expect("copied");
    }
    let note = std::fs::read_to_string(left.path().join("x.db.lock")).expect("read");
    assert!(note.starts_with("a ringback database: start "), "{note}");
    WriterConnection::open(&left.path().join("x.db")).expect("its own log");
}

#[test]
fn a_database_that_is_missing_is_not_begun_anew() {
    let (folder, path) = killed();
    let at = |name: &str| folder.path().join(name);
    std::fs::rename(&path, at("moved.db")).expect("moved");
    for (empty, kept) in [(false, "x.db-wal"), (false, "x.db.lock"), (true, "x.db.lock")] {
        if empty {
            std::fs::write(&path, "").expect("made");
        }
        let error = WriterConnection::open(&path).expect_err("refused").to_string();
        assert!(error.contains(kept) && error.contains("put"), "{error}");
        assert!(error.contains("to begin with an empty database, delete or move"), "{error}");
        assert_eq!(path.exists(), empty);
        if kept == "x.db-wal" {
            std::fs::rename(at("x.db-wal"), at("moved.db-wal")).expect("moved");
        }
    }
    // As the sentence says. An older version left the lock empty.
    std::fs::write(at("x.db.lock"), "").expect("emptied");
    WriterConnection::open(&path).expect("a new one").close();
    std::fs::remove_file(&path).expect("removed");
    std::fs::remove_file(at("x.db.lock")).expect("removed");
    WriterConnection::open(&path).expect("a new one").close();
}

#[test]
fn a_database_that_every_user_can_read_is_narrowed() {
    let mode = |path: &Path| path.metadata().expect("there").mode() & 0o777;
    for (found, left) in [(0o644, 0o600), (0o666, 0o600), (0o640, 0o640), (0o600, 0o600)] {
        let (folder, path) = killed();
        let log = folder.path().join("x.db-wal");
        std::fs::remove_file(folder.path().join("x.db-shm")).expect("removed");
        for file in [&path, &log] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(found)).expect("set");
        }
        let said = files::narrow(&path);
        assert_eq!(said.is_some(), found != left, "{said:?}");
        let _writer = WriterConnection::open(&path).expect("opens");
        let index = folder.path().join("x.db-shm");
        assert_eq!([mode(&path), mode(&log), mode(&index)], [left; 3], "{found:o}");
    }
}

#[test]
fn an_empty_file_has_held_no_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.db");
    std::fs::write(&path, "").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    assert_eq!(files::narrow(&path), None);
    assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
}

#[test]
fn a_renamed_database_on_a_full_disk_is_where_its_last_line_says() {
    let (folder, path, writer) = opened();
    let full = || Err("database or disk is full".to_owned());
    std::fs::rename(&path, folder.path().join("y.db")).expect("renamed");
    let said = writer.files.rescue(Fault::Gone, full).expect("it has a name");
    assert!(said.contains("rename the file to") && !said.contains("backup"), "{said}");
    std::mem::forget(writer);
    // Without a name, the log is still in the process, and without its log, the database lacks it.
    for fault in [Fault::Gone, Fault::Log] {
        let (_folder, path, writer) = opened();
        std::fs::remove_file(&path).expect("removed");
        let unsaved = writer.files.rescue(fault, full).expect_err("only the process has it");
        let (waiting, lost) = (unsaved.while_waiting(), unsaved.when_lost());
        assert!(waiting.contains("bytes in") && waiting.contains("COPY-wal`"), "{waiting}");
        assert_eq!(waiting.contains("COPY &&"), fault == Fault::Gone, "{waiting}");
        assert!(lost.contains("are lost") && lost.contains("backup"), "{lost}");
        std::mem::forget(writer);
    }
}

#[test]
fn what_a_rescue_changes_is_no_other_fault() {
    let (folder, _, writer) = opened();
    let log = OpenOptions::new().write(true).open(folder.path().join("x.db-wal")).expect("opens");
    log.set_len(0).expect("truncated");
    let said = writer.files.rescue(Fault::LogTruncated, || Ok(())).expect("nothing to save");
    assert!(!folder.path().join("x.db-shm").exists(), "the next start is not refused because of it");
    // Another thread notices it now.
    assert_eq!(writer.files.check(), Err(Fault::LogTruncated));
    assert_eq!(writer.files.rescue(Fault::Index, || Ok(())), Ok(said));
    std::mem::forget(writer.connection);
}

#[test]
fn saved_contents_are_named_at_every_start() {
    let (folder, path) = killed();
    assert_eq!(files::saved_contents(&path), None);
    for n in 1..=2 {
        std::fs::write(folder.path().join(format!("x.db.saved-{n}")), "contents").expect("written");
        let said = files::saved_contents(&path).expect("a sentence");
        assert!(said.contains(&format!("x.db.saved-{n} holds the contents")), "{said}");
    }
}

#[test]
fn a_database_that_cannot_be_written_names_the_remedy() {
    let error = ffi::Error::new(ffi::SQLITE_READONLY);
    let message = "attempt to write a readonly database".to_owned();
    let error = anyhow::Error::new(rusqlite::Error::SqliteFailure(error, Some(message)));
    let said = explain(Path::new("/data/x.db"), &error).to_string();
    assert!(
        said.contains("readonly") && said.contains("the folder /data and all files of /data/x.db"),
        "{said}"
    );
}

#[test]
fn a_stop_sets_the_log_of_an_overwritten_database_aside() {
    let (folder, path, writer) = opened();
    let file = OpenOptions::new().write(true).open(&path).expect("opens");
    file.write_all_at(&[0, 0, 1, 0], 40).expect("written");
    let before = std::fs::read(&path).expect("read");
    writer.close();
    assert!(std::fs::read(&path).expect("read") == before, "the log was applied");
    assert!(folder.path().join("x.db-wal.old").exists() && !folder.path().join("x.db-wal").exists());
}

#[test]
fn background_work_checkpoints_a_log_that_is_not_long_yet() {
    let (_folder, path, writer) = opened();
    let run = |sql: &str| writer.connection.execute_batch(sql).expect("written");
    let size = || path.metadata().expect("there").len();
    run("create table x (y)");
    let before = size();
    // 600 pages.
    let insert = "insert into x values (zeroblob(2457600))";
    run(insert);
    assert_eq!(size(), before, "the log is not long");
    writer.files.checkpoint_early();
    run("insert into x values (1)");
    assert!(size() > before + 2_400_000, "copied");
    let before = size();
    run(insert);
    assert_eq!(size(), before, "once");
    assert_eq!(writer.files.check(), Ok(()), "no foreign write");
}
