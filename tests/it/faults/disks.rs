//! Faults of the disk of a SQLite database under load.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::Survived;
use crate::crash::{Ground, Load, draw, nap, ready};
use crate::harness::{Draw, guarded};
use crate::small_disk::{SmallDisk, run_on_small_disk};
use crate::verdict::{Ended, Verdict, peak_of};

/// Size of the small disk. It holds the database of a run of the whole length.
const SIZE: &str = "512m";

/// Size of a frame of the log: a header and a page.
const FRAME: u64 = 24 + 4096;

/// Runs a scenario in the second run of its test, on a disk of its own.
async fn on_disk(test: &str, rounds: u64, scenario: impl AsyncFnOnce(&Path, u64) -> Verdict) -> Survived {
    match run_on_small_disk(test, SIZE) {
        SmallDisk::Mounted(disk) => Survived::Here(rounds, scenario(&disk, rounds).await),
        SmallDisk::Passed(printed) => Survived::Elsewhere(printed),
        SmallDisk::Unavailable => Survived::Skipped,
    }
}

/// Another program fills the disk, and empties it again.
pub async fn full(test: &str, rounds: u64) -> Survived {
    on_disk(test, rounds, async |disk, rounds| {
        let ground = Ground::below(disk).await;
        let ended = Ended::before(&ground).await;
        let ground = Arc::new(ground);
        let load = Load::start(&ground);
        let process = ground.start();
        let address = process.address().await;
        load.moved_to(address);
        load.has_begun().await;
        for _ in 0..rounds {
            nap(400).await;
            let ballast = disk.join("ballast");
            let mut file = File::create(&ballast).unwrap();
            guarded("a full disk", async {
                while ready(address).await == 200 {
                    fill(&mut file);
                }
            })
            .await;
            nap(300).await;
            drop(file);
            std::fs::remove_file(ballast).unwrap();
            guarded("readiness", async {
                while ready(address).await != 200 {
                    nap(10).await;
                }
            })
            .await;
        }
        let mut verdict = load.check(address).await;
        verdict.after_end = ended.attempts_since(&ground.receiver);
        verdict.peak = peak_of(&process);
        process.terminate();
        let (status, said) = process.ended().await;
        assert!(status.success(), "{status}: {said}");
        verdict
    })
    .await
}

/// Writes until the disk is full.
fn fill(file: &mut File) {
    for block in [1 << 20, 1 << 16, 1 << 12, 1 << 9] {
        while file.write_all(&vec![0; block]).is_ok() {}
    }
}

/// The disk is mounted read-only between two starts, as after an error of the file system.
pub async fn read_only(test: &str, rounds: u64) -> Survived {
    on_disk(test, rounds, async |disk, rounds| {
        let ground = Ground::below(disk).await;
        let ended = Ended::before(&ground).await;
        let ground = Arc::new(ground);
        let load = Load::start(&ground);
        let mut process = ground.start();
        let mut peak = 0;
        for _ in 0..rounds {
            load.moved_to(process.address().await);
            load.has_begun().await;
            nap(500).await;
            peak = peak.max(peak_of(&process));
            process.kill().await;
            remount(disk, "ro");
            let (status, said) = ground.start().ended().await;
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.to_lowercase().contains("read-only"), "{said}");
            remount(disk, "rw");
            process = ground.start();
        }
        let mut verdict = load.check(process.address().await).await;
        verdict.after_end = ended.attempts_since(&ground.receiver);
        verdict.peak = peak.max(peak_of(&process));
        process.terminate();
        assert!(process.ended().await.0.success());
        verdict
    })
    .await
}

fn remount(disk: &Path, mode: &str) {
    let options = format!("remount,{mode}");
    let done = Command::new("mount").args(["-o", &options]).arg(disk).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What a loss of power leaves at the end of the log, after the last synced commit.
#[derive(Clone, Copy)]
pub enum Tail {
    /// The beginning of a frame.
    Truncated,
    /// Blocks that were allocated and not written.
    Zeroed,
}

/// The process is killed under load, and the write that it had begun left a torn tail of the log.
pub async fn torn_log(rounds: u64, tail: Tail) -> Survived {
    let ground = Ground::on("sqlite://ringback.db".to_owned()).await;
    let ended = Ended::before(&ground).await;
    let ground = Arc::new(ground);
    let (mut draw, mut peak, mut torn) = (draw(), 0, 0);
    let load = Load::start(&ground);
    for _ in 0..rounds {
        let process = ground.start();
        load.moved_to(process.address().await);
        load.has_begun().await;
        nap(200 + draw.below(300)).await;
        peak = peak.max(peak_of(&process));
        process.kill().await;
        torn += u64::from(tear(&ground.folder.path().join("ringback.db-wal"), tail, &mut draw));
    }
    assert_eq!(torn, rounds, "a process under load has a log");
    let process = ground.start();
    let mut verdict = load.check(process.address().await).await;
    verdict.after_end = ended.attempts_since(&ground.receiver);
    verdict.peak = peak.max(peak_of(&process));
    process.terminate();
    assert!(process.ended().await.0.success());
    Survived::Here(rounds, verdict)
}

/// Appends a torn write to a log. Returns whether there is one.
fn tear(log: &Path, tail: Tail, draw: &mut Draw) -> bool {
    let mut file = OpenOptions::new().read(true).write(true).open(log).unwrap();
    let length = file.metadata().unwrap().len();
    if length < 32 + FRAME {
        return false;
    }
    // A killed process can itself leave a part of a frame.
    let whole = 32 + (length - 32) / FRAME * FRAME;
    let size = usize::try_from(1 + draw.below(FRAME - 1)).unwrap();
    let bytes = match tail {
        Tail::Truncated => {
            // Of a frame with the right salt: only its checksum shows that it is not the next one.
            let mut frame = vec![0; size];
            file.seek(SeekFrom::Start(whole - FRAME)).unwrap();
            file.read_exact(&mut frame).unwrap();
            frame
        }
        Tail::Zeroed => vec![0; size + 3 * usize::try_from(FRAME).unwrap()],
    };
    file.set_len(whole).unwrap();
    file.seek(SeekFrom::Start(whole)).unwrap();
    file.write_all(&bytes).unwrap();
    true
}
