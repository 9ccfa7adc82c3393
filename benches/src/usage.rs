//! The CPU time and the peak memory of processes, as the kernel counts them. No process measures itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use crate::figures::round;
use crate::resident::{Resident, status_kib};

/// This process's name in a report. It runs the load generator, and counts and queries for the bench.
pub(crate) const OWN: &str = "bench";

/// The processes of a case, by name.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Vec<(String, u32)>);

/// The costs of each process and of the machine up to one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    machine: Busy,
    processes: BTreeMap<String, Usage>,
}

/// How long the cores have worked since the machine started, summed over the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Busy {
    /// For anything on this machine.
    ticks: u64,
    /// For other virtual machines of the host, while this one wanted the cores.
    stolen_ticks: u64,
}

/// What the machine did besides the case. If it did much, the figures are worthless.
#[derive(Debug, Serialize)]
pub(crate) struct Disturbance {
    /// Cores that worked on processes outside the case, and on the kernel's own threads.
    other_cores: f64,
    /// Cores that the host gave to other virtual machines.
    stolen_cores: f64,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    /// CPU time of all threads, in user and kernel mode, without children.
    cpu: Duration,
    peak_rss_bytes: u64,
}

/// What a process cost between two samples.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    /// CPU time per event, in microseconds.
    pub(crate) cpu_us_per_event: f64,
    /// CPU time per thousand events, in seconds.
    cpu_s_per_1000: f64,
    /// The highest resident memory since the process began (VmHWM), in MB of 10^6 bytes.
    pub(crate) peak_rss_mb: f64,
}

impl Meter {
    /// A meter for these processes and this one.
    pub(crate) fn new(processes: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self(processes.into_iter().chain([(OWN.to_owned(), std::process::id())]).collect())
    }

    /// The same processes, to read how much memory they hold.
    pub(crate) fn resident(&self) -> Resident {
        Resident::new(self.0.clone())
    }

    /// What they have cost so far.
    pub(crate) fn sample(&self) -> anyhow::Result<Sample> {
        let usage = |(name, pid): &(String, u32)| {
            let usage =
                read(*pid).with_context(|| format!("cannot read what {name} (pid {pid}) has used; did it end?"));
            Ok((name.clone(), usage?))
        };
        let processes = self.0.iter().map(usage).collect::<anyhow::Result<_>>()?;
        let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let machine = busy(&stat).context("expected the fields of proc_stat(5)")?;
        Ok(Sample { at: Instant::now(), machine, processes })
    }
}

impl Sample {
    /// What each process cost between `since` and this sample, for each of `events`.
    pub(crate) fn costs(&self, since: &Self, events: u64) -> BTreeMap<String, Cost> {
        let cost = |(name, usage): (&String, &Usage)| {
            let before = since.processes.get(name).map_or(Duration::ZERO, |before| before.cpu);
            let micros = usage.cpu.saturating_sub(before).as_secs_f64() * 1e6 / events.max(1) as f64;
            let cost = Cost {
                cpu_us_per_event: round(micros),
                cpu_s_per_1000: round(micros / 1e3),
                peak_rss_mb: round(usage.peak_rss_bytes as f64 / 1e6),
            };
            (name.clone(), cost)
        };
        self.processes.iter().map(cost).collect()
    }

    /// What the machine did between `since` and this sample, besides these processes.
    pub(crate) fn disturbance(&self, since: &Self) -> Disturbance {
        let time = (self.at - since.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let total = |sample: &Self| sample.processes.values().map(|usage| usage.cpu.as_secs_f64()).sum::<f64>();
        let busy = seconds(self.machine.ticks.saturating_sub(since.machine.ticks));
        let stolen = seconds(self.machine.stolen_ticks.saturating_sub(since.machine.stolen_ticks));
        // The kernel rounds each count separately, so a result slightly below zero means zero.
        let other = (busy - (total(self) - total(since))).max(0.0);
        Disturbance { other_cores: round(other / time), stolen_cores: round(stolen / time) }
    }
}

fn read(pid: u32) -> anyhow::Result<Usage> {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let ticks = cpu_ticks(&file("stat")?).context("expected the fields of proc_pid_stat(5)")?;
    let peak_kib = status_kib(&file("status")?, "VmHWM").context("expected a line VmHWM")?;
    let cpu = Duration::from_secs_f64(seconds(ticks));
    Ok(Usage { cpu, peak_rss_bytes: peak_kib << 10 })
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Reads the first line: user, nice, system, idle, iowait, irq, softirq, steal. `user` includes guests.
fn busy(stat: &str) -> Option<Busy> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen_ticks, ..] = fields[..] else { return None };
    Some(Busy { ticks: user + nice + system + irq + softirq, stolen_ticks })
}

/// `utime` and `stime`, fields 14 and 15. The second field, the name, may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(cpu_ticks("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 9 9 20 0 1 0"), Some(42));
        let stat = "cpu  1 2 4 100 200 8 16 32 64 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy(stat), Some(Busy { ticks: 31, stolen_ticks: 32 }));
        let status = "Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 12 kB\n";
        assert_eq!((status_kib(status, "VmHWM"), status_kib(status, "VmRSS")), (Some(1234), Some(12)));
        assert_eq!(status_kib(status, "Vm"), None);
        assert!(read(std::process::id()).expect("this process runs").peak_rss_bytes > 0);
    }
}
