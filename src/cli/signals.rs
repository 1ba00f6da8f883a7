//! Signals that stop a command.
//!
//! | Signal | First | Second |
//! |---|---|---|
//! | SIGINT (Ctrl-C), SIGTERM, SIGQUIT (Ctrl-\) | an orderly stop | ends the wait for the work in progress |
//! | SIGHUP (the terminal was closed) | an orderly stop | nothing: a shell and the kernel both send it |
//!
//! Without a handler, SIGHUP and SIGQUIT would end the process at once: attempts in flight would not be recorded and
//! be sent again. SIGQUIT would write a core dump as well.
//!
//! `nohup` starts a program with SIGHUP ignored. A handler would undo that, so none is installed then.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of the signals. From their installation, the signals do not end the process.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Installs the handlers.
    pub(super) fn install() -> anyhow::Result<Self> {
        let handler = |kind: SignalKind| {
            signal(kind)
                .with_context(|| format!("no handler for signal {} can be installed", kind.as_raw_value()))
        };
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            quit: handler(SignalKind::quit())?,
            hangup: if is_ignored(SignalKind::hangup()) {
                None
            } else {
                Some(handler(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for a signal that requests an orderly stop.
    pub(super) async fn stop(&mut self) {
        let Self { interrupt, terminate, quit, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
            _ = hangup => {}
        }
    }

    /// Waits for a signal that ends the wait for the work in progress.
    pub(super) async fn stop_now(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Turns the signal of a write beyond the limit of a file's size (`ulimit -f`, `LimitFSIZE=`) into an error of that
/// write. By default it ends the process without a word.
pub(super) fn survive_file_size_limit() -> anyhow::Result<()> {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    // The handler stays when its receiver is dropped.
    signal(kind).map(drop).context("no handler for SIGXFSZ can be installed")
}

/// Installs the handlers and waits for a signal. For commands that end at once.
pub(super) async fn shutdown_signal() -> anyhow::Result<()> {
    Signals::install()?.stop().await;
    Ok(())
}

/// Whether the process was started with the signal ignored. Only Linux shows that in a file.
fn is_ignored(kind: SignalKind) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, kind))
}

fn ignores(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (kind.as_raw_value() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_read_from_the_status_of_the_process() {
        let status = "Name:\tringback\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, SignalKind::hangup()));
        assert!(!ignores(status, SignalKind::interrupt()));
        assert!(!ignores("", SignalKind::hangup()));
    }
}
