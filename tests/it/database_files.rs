//! The files of a SQLite database are deleted, replaced or damaged while the real program runs.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use ringback::domain::Timestamp;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::crash::{Ground, Process, get, ready};
use crate::harness::{AUTH, JSON, guarded, id};
use crate::postgres::{On, on, shared};
use crate::small_disk::small_disk;
use crate::wire;

/// A running process with one registered watch.
struct Victim {
    ground: Ground,
    process: Process,
    address: SocketAddr,
    watch: String,
}

impl Victim {
    async fn start() -> Self {
        Self::start_on(Ground::new().await).await
    }

    async fn start_on(ground: Ground) -> Self {
        let process = ground.start();
        let address = process.address().await;
        let watch = register(&ground, address, "job_1").await;
        Self { ground, process, address, watch }
    }

    /// Starts a process on a database that was closed before. Returns a copy of the database without the second watch.
    async fn with_backup() -> (Self, PathBuf) {
        let Self { ground, process, .. } = Self::start().await;
        process.terminate();
        assert!(process.ended().await.0.success());
        let backup = ground.folder.path().join("backup.db");
        fs::copy(ground.folder.path().join("ringback.db"), &backup).unwrap();
        let process = ground.start();
        let address = process.address().await;
        let watch = register(&ground, address, "job_2").await;
        (Self { ground, process, address, watch }, backup)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.ground.folder.path().join(name)
    }

    /// Waits until the process ends by itself. Returns its last words.
    async fn end(self) -> (Ground, String, String) {
        let (status, said) = self.process.ended().await;
        assert_eq!(status.code(), Some(1), "not by a signal, which would write a core dump: {said}");
        (self.ground, self.watch, said)
    }
}

async fn register(ground: &Ground, address: SocketAddr, job: &str) -> String {
    ground.provider.processing(job, 10);
    let body = json!({ "jobId": job, "callbackUrl": ground.receiver.url("/hook") }).to_string();
    let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
    let answer = guarded("a registration", wire::exchange(address, &bytes)).await;
    id(&answer.expect("an answer").expect(201))
}

/// Returns the jobs of all watches that a new process shows.
async fn jobs_after_a_start(ground: &Ground) -> Vec<String> {
    let process = ground.start();
    let listed = get(process.address().await, "/v1/watches").await;
    process.kill().await;
    let jobs = listed["data"].as_array().unwrap().iter().map(|watch| watch["jobId"].as_str().unwrap());
    let mut jobs: Vec<String> = jobs.map(str::to_owned).collect();
    jobs.sort();
    jobs
}

// WiseLibs/better-sqlite3#1237
// Once: a server has no files here.
#[tokio::test]
async fn a_deleted_database_is_saved_and_ends_the_process() {
    let victim = Victim::start().await;
    let (database, saved) = (victim.file("ringback.db"), victim.file("ringback.db.saved-1"));
    fs::remove_file(&database).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("ringback.db was deleted or renamed while it was in use"), "{said}");
    assert!(
        said.contains("all of its contents are saved in") && said.contains("and rename that file"),
        "{said}"
    );
    fs::rename(saved, database).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_restart_does_not_begin_anew_beside_saved_contents() {
    let victim = Victim::start().await;
    let (database, saved) = (victim.file("ringback.db"), victim.file("ringback.db.saved-1"));
    fs::remove_file(&database).unwrap();
    let (ground, ..) = victim.end().await;
    for _ in 0..2 {
        let (status, said) = ground.start().ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("ringback.db.saved-1") && said.contains("to begin with an empty"), "{said}");
        assert!(!database.exists());
    }
    fs::rename(&saved, &database).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
    // An overwritten database, whose restore was given up.
    for name in ["ringback.db", "ringback.db-wal", "ringback.db-shm"] {
        let _ = fs::remove_file(ground.folder.path().join(name));
    }
    let log = ground.folder.path().join("ringback.db-wal.old");
    fs::write(&log, "").unwrap();
    let (_, said) = ground.start().ended().await;
    assert!(said.contains("ringback.db-wal.old: restore a backup"), "{said}");
    fs::remove_file(log).unwrap();
    let (_, said) = ground.start().ended().await;
    assert!(said.contains("ringback.db.lock says that there was one"), "{said}");
    fs::remove_file(ground.folder.path().join("ringback.db.lock")).unwrap();
    assert!(jobs_after_a_start(&ground).await.is_empty());
}

// Once: a server has no files here.
#[tokio::test]
async fn a_truncated_log_ends_the_process_within_seconds() {
    // With contents in the database, and with all of them in the log.
    for (victim, is_young) in [(Victim::with_backup().await.0, false), (Victim::start().await, true)] {
        fs::OpenOptions::new().write(true).open(victim.file("ringback.db-wal")).unwrap().set_len(0).unwrap();
        let (ground, _, said) = victim.end().await;
        assert!(said.contains("the log of the database, was truncated while it was in use"), "{said}");
        if is_young {
            let (status, said) = ground.start().ended().await;
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("which is missing or was emptied"), "{said}");
        } else {
            assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
        }
    }
}

// Once: a server has no files here.
#[tokio::test]
async fn a_limit_of_the_file_size_is_answered_as_a_full_disk() {
    let ground = Ground::new().await;
    let process = start_full(&ground).await;
    // It still runs and reads.
    get(process.address().await, "/v1/watches").await;
    process.kill().await;
    assert!(!jobs_after_a_start(&ground).await.is_empty());
}

/// Starts a process with a limit of the file size, and registers watches until it refuses one.
async fn start_full(ground: &Ground) -> Process {
    // Blocks of 512 bytes.
    let process = ground.start_limited("-f 4096");
    let address = process.address().await;
    let mut status = 201;
    for n in 0..2_000 {
        status = registration(ground, address, n).await;
        if status != 201 {
            break;
        }
    }
    assert_eq!(status, 503);
    process
}

/// Registers a watch that needs some space, and returns the status of the answer.
async fn registration(ground: &Ground, address: SocketAddr, n: usize) -> u16 {
    let job = format!("job_{n}");
    ground.provider.processing(&job, 10);
    let url = ground.receiver.url(&format!("/hook?{}", "x".repeat(1_900)));
    let body = json!({ "jobId": job, "callbackUrl": url }).to_string();
    let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
    guarded("a registration", wire::exchange(address, &bytes)).await.expect("an answer").status
}

// Once: a server has no files here.
#[tokio::test]
async fn requests_that_a_full_disk_refuses_do_not_fill_the_log() {
    let ground = Ground::new().await;
    let process = start_full(&ground).await;
    let address = process.address().await;
    for n in 0..150 {
        assert_eq!(registration(&ground, address, 10_000 + n).await, 503);
    }
    process.signal(Signal::KILL);
    let (_, said) = process.ended().await;
    assert!((1..10).contains(&said.matches("the store refuses writes").count()), "{said}");
    let refused: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("requests refused: the database is not available"))
        .collect();
    // The first, the tenth and the hundredth of a minute, on a slow machine of each minute.
    let time =
        |line: &&str| Timestamp::parse(line.split(' ').next().unwrap()).expect("a line starts with its time");
    let minutes = time(refused.last().expect("a line")).since(time(&refused[0])).as_secs() / 60 + 1;
    let lines = refused.len() as u64;
    assert!((3..=3 * minutes).contains(&lines), "{lines} lines in {minutes} minutes:\n{said}");
}

/// Fills the file system of `folder`, but for `left` bytes. Returns the file that takes the space.
fn fill(folder: &Path, left: usize) -> PathBuf {
    let path = folder.join("ballast");
    let mut ballast = fs::File::create(&path).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    let length = ballast.metadata().unwrap().len();
    ballast.set_len(length - left as u64).unwrap();
    path
}

/// Deletes the database of a process on a full disk. Returns the process after it has logged that it could not save the
/// contents, its log up to then, and the rest of the log.
async fn deleted_on_a_full_disk(
    disk: &Path,
) -> (Victim, PathBuf, String, BufReader<tokio::process::ChildStderr>) {
    let mut victim = Victim::start_on(Ground::below(disk).await).await;
    let ballast = fill(disk, 0);
    fs::remove_file(victim.file("ringback.db")).unwrap();
    let mut log = BufReader::new(victim.process.child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("was deleted or renamed while it was in use") {
        let read = guarded("the log", log.read_line(&mut said)).await.unwrap();
        assert!(read > 0, "the process has ended: {said}");
    }
    assert!(said.contains("and are only in this process"), "{said}");
    (victim, ballast, said, log)
}

/// Waits for the end of a process. Returns the rest of its log.
async fn end_of(
    mut process: Process,
    mut log: BufReader<tokio::process::ChildStderr>,
) -> (ExitStatus, String) {
    let mut said = String::new();
    guarded("the end", log.read_to_string(&mut said)).await.unwrap();
    (guarded("the end", process.child.wait()).await.unwrap(), said)
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}

// Once: a server has no files here.
#[test]
fn a_database_deleted_on_a_full_disk_is_saved_when_there_is_space() {
    let name = "database_files::a_database_deleted_on_a_full_disk_is_saved_when_there_is_space";
    let Some(disk) = small_disk(name, "2m") else { return };
    block_on(async {
        let (victim, ballast, said, log) = deleted_on_a_full_disk(&disk).await;
        // The line names the folder, the space, and the way to copy the file by hand.
        let folder = victim.ground.folder.path().canonicalize().unwrap();
        let copy = format!("cp /proc/{}/fd/", victim.process.child.id().unwrap());
        assert!(said.contains(&format!("bytes in {}", folder.display())) && said.contains(&copy), "{said}");
        let from = said.split(&copy).nth(1).unwrap().split_once(' ').unwrap().0.to_owned();
        let fd = format!("/proc/{}/fd/{from}", victim.process.child.id().unwrap());
        // Only root may read it, because the process is not dumpable.
        if let Ok(link) = fs::read_link(fd) {
            assert!(link.to_string_lossy().ends_with("ringback.db (deleted)"), "{link:?}");
        }
        // It reads, and accepts nothing.
        assert_eq!(ready(victim.address).await, 503);
        get(victim.address, "/v1/watches").await;
        let body =
            json!({ "jobId": "job_2", "callbackUrl": victim.ground.receiver.url("/hook") }).to_string();
        let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
        let answer = guarded("a registration", wire::exchange(victim.address, &bytes)).await;
        assert_eq!(answer.expect("an answer").status, 503);
        assert!(!victim.file("ringback.db.saved-1").exists());
        fs::remove_file(ballast).unwrap();
        let Victim { ground, process, .. } = victim;
        let (status, said) = end_of(process, log).await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("all of its contents are saved in"), "{said}");
        let saved = ground.folder.path().join("ringback.db.saved-1");
        for name in ["-wal", "-shm"] {
            let _ = fs::remove_file(ground.folder.path().join(format!("ringback.db{name}")));
        }
        fs::rename(saved, ground.folder.path().join("ringback.db")).unwrap();
        assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
    });
}

// Once: a server has no files here.
#[test]
fn a_stop_after_a_deletion_on_a_full_disk_says_what_is_lost() {
    let name = "database_files::a_stop_after_a_deletion_on_a_full_disk_says_what_is_lost";
    let Some(disk) = small_disk(name, "2m") else { return };
    block_on(async {
        let (victim, _, _, log) = deleted_on_a_full_disk(&disk).await;
        victim.process.terminate();
        let saved = victim.file("ringback.db.saved-1");
        let (status, said) = end_of(victim.process, log).await;
        assert_eq!(status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(
            last.contains("are lost with this process") && last.contains("restore the copy or a backup"),
            "{said}"
        );
        assert!(last.contains("/proc/") && !saved.exists(), "{said}");
    });
}

// Once: a server has no files here.
#[test]
fn a_start_on_a_full_disk_names_the_folder_and_the_space() {
    let name = "database_files::a_start_on_a_full_disk_names_the_folder_and_the_space";
    let Some(disk) = small_disk(name, "8m") else { return };
    block_on(async {
        for left in [0, 4, 16, 32, 64, 256, 384] {
            let ground = Ground::below(&disk).await;
            let ballast = fill(&disk, left * 1024);
            let (status, said) = ground.start().ended().await;
            assert_eq!(status.code(), Some(1), "{left}: {said}");
            let folder = ground.folder.path().canonicalize().unwrap();
            let full = format!("the disk of the folder {} is full", folder.display());
            assert!(said.contains(&full) && said.contains("ringback.db"), "{left}: {said}");
            assert!(said.contains("Free at least 4 MB there, and start again"), "{left}: {said}");
            // As the sentence says.
            fs::remove_file(ballast).unwrap();
            let ballast = fill(&disk, 4_000_000);
            assert!(jobs_after_a_start(&ground).await.is_empty());
            fs::remove_file(ballast).unwrap();
        }
    });
}

// Once: a server has no files here.
#[tokio::test]
async fn a_renamed_database_holds_every_commit() {
    let victim = Victim::start().await;
    let (database, moved) = (victim.file("ringback.db"), victim.file("moved.db"));
    fs::rename(&database, &moved).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("are now in") && said.contains("moved.db: to go on"), "{said}");
    fs::rename(moved, database).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_restore_by_rename_is_not_mixed_with_the_old_log() {
    let (victim, backup) = Victim::with_backup().await;
    let saved = victim.file("ringback.db.saved-1");
    fs::rename(backup, victim.file("ringback.db")).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("was replaced by another file"), "{said}");
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
    // As the last line says.
    let database = ground.folder.path().join("ringback.db");
    for name in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{name}", database.display()));
    }
    fs::rename(saved, database).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1", "job_2"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_restore_by_copy_is_not_mixed_with_the_old_log() {
    let (victim, backup) = Victim::with_backup().await;
    fs::copy(backup, victim.file("ringback.db")).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("was overwritten while it was in use"), "{said}");
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

/// Makes a backup as the documentation says. It belongs to the same run of the process as the log.
fn back_up(victim: &Victim) -> PathBuf {
    let backup = victim.file("backup.db");
    let database = rusqlite::Connection::open(victim.file("ringback.db")).unwrap();
    database.execute("vacuum into $1", [backup.to_str().unwrap()]).unwrap();
    backup
}

// Once: a server has no files here.
#[tokio::test]
async fn a_copy_of_a_backup_of_the_same_run_is_noticed() {
    let victim = Victim::start().await;
    let backup = back_up(&victim);
    register(&victim.ground, victim.address, "job_2").await;
    // `cp` truncates the file, `dd conv=notrunc` does not.
    let bytes = fs::read(backup).unwrap();
    let file = fs::OpenOptions::new().write(true).open(victim.file("ringback.db")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("was overwritten while it was in use"), "{said}");
    assert!(ground.folder.path().join("ringback.db-wal.old").exists(), "{said}");
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_foreign_write_ends_the_process_and_keeps_the_log() {
    let victim = Victim::start().await;
    let file = fs::OpenOptions::new().write(true).open(victim.file("ringback.db")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let (ground, _, said) = victim.end().await;
    assert!(said.contains("was written by another program while it was in use"), "{said}");
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_backup_survives_a_restore_that_forgets_the_log() {
    let victim = Victim::start().await;
    let backup = back_up(&victim);
    register(&victim.ground, victim.address, "job_2").await;
    let (database, log) = (victim.file("ringback.db"), victim.file("ringback.db-wal"));
    let Victim { ground, process, .. } = victim;
    process.kill().await;
    let bytes = fs::read(&backup).unwrap();
    fs::rename(backup, &database).unwrap();
    for _ in 0..2 {
        let (status, said) = ground.start().ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("ringback.db-wal does not belong to the database"), "{said}");
        assert!(fs::read(&database).unwrap() == bytes && log.exists(), "{said}");
    }
    fs::remove_file(log).unwrap();
    let _ = fs::remove_file(ground.folder.path().join("ringback.db-shm"));
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_restart_after_a_move_does_not_begin_anew() {
    let victim = Victim::start().await;
    let (database, moved) = (victim.file("ringback.db"), victim.file("moved.db"));
    fs::rename(&database, &moved).unwrap();
    let (ground, ..) = victim.end().await;
    for _ in 0..2 {
        let (status, said) = ground.start().ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("put it back as") && said.contains("to begin with an empty"), "{said}");
        assert!(!database.exists());
    }
    fs::rename(moved, &database).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
    // All files together begin anew.
    for name in fs::read_dir(ground.folder.path()).unwrap() {
        fs::remove_file(name.unwrap().path()).unwrap();
    }
    assert!(jobs_after_a_start(&ground).await.is_empty());
}

// Once: a server has no files here.
#[tokio::test]
async fn a_young_service_without_its_log_does_not_begin_anew() {
    let victim = Victim::start().await;
    let [log, moved, index] =
        ["ringback.db-wal", "moved-wal", "ringback.db-shm"].map(|name| victim.file(name));
    let Victim { ground, process, .. } = victim;
    process.kill().await;
    fs::rename(&log, &moved).unwrap();
    fs::remove_file(index).unwrap();
    for _ in 0..2 {
        let (status, said) = ground.start().ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("Put the log back") && said.contains("to begin with an empty"), "{said}");
    }
    fs::rename(moved, log).unwrap();
    assert_eq!(jobs_after_a_start(&ground).await, ["job_1"]);
}

// Once: a server has no files here.
#[tokio::test]
async fn a_deleted_log_or_lock_ends_the_process_without_loss() {
    for (name, what) in [
        ("ringback.db-wal", "the log of the database"),
        ("ringback.db-shm", "the index of the database's log"),
        ("ringback.db.lock", "the lock of the database"),
    ] {
        let victim = Victim::start().await;
        fs::remove_file(victim.file(name)).unwrap();
        let (ground, _, said) = victim.end().await;
        assert!(said.contains(&format!("{name}, {what}, was deleted or replaced")), "{said}");
        assert!(said.contains("nothing is lost: start again"), "{said}");
        assert_eq!(jobs_after_a_start(&ground).await, ["job_1"], "{name}");
    }
}

/// Overwrites every page but the first with garbage.
fn damage(path: PathBuf) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() - 4096], 4096).unwrap();
}

#[tokio::test]
async fn a_damaged_page_ends_the_process() {
    let Victim { ground, process, .. } = Victim::start().await;
    match on() {
        On::Sqlite => {
            process.terminate();
            assert!(process.ended().await.0.success());
        }
        On::Postgres => process.kill().await,
    }
    let process = ground.start();
    let address = process.address().await;
    get(address, "/v1/watches").await;
    match on() {
        On::Sqlite => damage(ground.folder.path().join("ringback.db")),
        On::Postgres => {
            // A server reports a damaged page with this code.
            let sql = "create function damage() returns trigger language plpgsql as
                $$ begin raise exception 'invalid page in block 7' using errcode = 'XX001'; end $$;
                create trigger damage before insert on watches execute function damage()";
            let name = ground.database.rsplit('/').next().unwrap();
            let name = name.split('?').next().unwrap();
            shared("a damaged database").unwrap().query(name, sql);
        }
    }
    // Some page is in no cache.
    for path in ["/v1/events", "/v1/deliveries", "/v1/watches"] {
        let bytes = wire::request("GET", path, &[AUTH], b"");
        let _ = guarded(path, wire::exchange(address, &bytes)).await;
    }
    let body = json!({ "jobId": "job_2", "callbackUrl": ground.receiver.url("/hook") }).to_string();
    let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
    let _ = guarded("a registration", wire::exchange(address, &bytes)).await;
    let (status, said) = process.ended().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("damaged") && said.contains("restore a backup"), "{said}");
    if on() == On::Sqlite {
        let (status, said) = ground.start().ended().await;
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("is damaged") && said.contains(".recover"), "{said}");
    }
}

// Once: the limit is set before the database is opened.
#[tokio::test]
async fn a_process_with_secrets_writes_no_core_dump() {
    let ground = Ground::new().await;
    // As large as the machine permits: by default, most shells set zero.
    let process = ground.start_limited("-c \"$(ulimit -H -c)\"");
    let address = process.address().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.child.id().unwrap())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    get(address, "/v1/watches").await;
    process.signal(rustix::process::Signal::ABORT);
    let (status, _) = process.ended().await;
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
}

crate::postgres::on_postgres_too! {
    a_damaged_page_ends_the_process,
}
