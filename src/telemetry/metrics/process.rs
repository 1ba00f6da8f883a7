//! The `process_*` metrics that Prometheus client libraries export: CPU, memory, file descriptors, threads.
//!
//! Linux only: elsewhere, or without `/proc`, they are absent.
//!
//! The `process` feature of `prometheus` 0.14.0 is not used. It rounds the CPU time down to whole seconds
//! (`process_collector.rs`), and its `procfs` 0.17 needs a second version of `rustix` (0.38) and of
//! `linux-raw-sys`. The same numbers are in four files of `/proc`.

use std::fs;
use std::sync::{Mutex, PoisonError};

use prometheus::{Counter, Gauge};
use rustix::process::{Resource, getrlimit};

use super::registry::{self, Reading, Readings, Registry};

/// Name, description and value of each gauge.
const GAUGES: [Reading<Process>; 5] = [
    ("process_open_fds", "Number of open file descriptors.", |p| p.open_fds),
    ("process_max_fds", "Maximum number of open file descriptors.", |p| p.max_fds),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", |p| p.resident_memory),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes.", |p| p.virtual_memory),
    ("process_threads", "Number of OS threads in the process.", |p| p.threads),
];

/// The metrics of this process.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Locked, so that two scrapes at the same time do not both add the same seconds.
    cpu_seconds: Mutex<Counter>,
    gauges: Readings<Process>,
}

impl ProcessMetrics {
    /// Registers the metrics; returns `None` where the system has no `/proc` of Linux.
    pub fn new(registry: &Registry) -> Option<Self> {
        let started_at = boot_time()? + Process::read()?.started_at;
        let start: Gauge = registry
            .gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
        start.set(started_at);
        let cpu_seconds =
            registry.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        Some(Self { cpu_seconds: Mutex::new(cpu_seconds), gauges: registry.readings(&GAUGES) })
    }

    /// Reads the current values.
    pub fn update(&self) {
        let Some(process) = Process::read() else { return };
        let cpu_seconds = self.cpu_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        cpu_seconds.inc_by((process.cpu_seconds - cpu_seconds.get()).max(0.0));
        registry::set(&self.gauges, &process);
    }
}

/// State of this process, in seconds and bytes.
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    threads: f64,
    /// Since the start of the system.
    started_at: f64,
    virtual_memory: f64,
    resident_memory: f64,
    open_fds: f64,
    max_fds: f64,
}

impl Process {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let (ticks, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
        // One of the descriptors is that of this folder.
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count() - 1;
        let max_fds = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let stat = Self::parse_stat(&text, ticks as f64, page as f64)?;
        Some(Self { open_fds: open_fds as f64, max_fds: max_fds as f64, ..stat })
    }

    /// Parses `/proc/self/stat`. The numbers of the fields are those of the manual page `proc_pid_stat(5)`.
    fn parse_stat(text: &str, ticks: f64, page: f64) -> Option<Self> {
        // The second field is the program's name in parentheses, which can hold spaces and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started_at: field(22)? / ticks,
            virtual_memory: field(23)?,
            resident_memory: field(24)? * page,
            ..Self::default()
        })
    }
}

/// Returns the start of the system in seconds since 1970.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_programs_name_is() {
        let text = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 12 0 1000 4096000 500 1 2\n";
        let stat = Process {
            cpu_seconds: 4.0,
            threads: 12.0,
            started_at: 10.0,
            virtual_memory: 4_096_000.0,
            resident_memory: 2_048_000.0,
            ..Process::default()
        };
        assert_eq!(Process::parse_stat(text, 100.0, 4096.0), Some(stat));
        assert_eq!(Process::parse_stat("42 (a) S 1", 100.0, 4096.0), None);
    }
}
