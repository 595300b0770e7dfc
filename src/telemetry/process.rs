//! Metrics of the process: the `process_*` ones, and that of its log.

use std::fmt::Error;

use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::log;

/// The process has one log, also with several gateways in it.
#[derive(Debug)]
pub(super) struct LogStats;

impl Collector for LogStats {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let dropped = ConstCounter::new(log::dropped_lines());
        dropped.encode(out.encode_descriptor(
            "revgate_log_lines_dropped",
            "Number of log lines that were dropped because they could not be written in time.",
            None,
            dropped.metric_type(),
        )?)
    }
}

/// The process metrics of Prometheus' client libraries, read from /proc at each scrape.
#[derive(Debug)]
pub(super) struct ProcessStats;

impl Collector for ProcessStats {
    #[allow(
        clippy::cast_precision_loss,
        reason = "clock ticks stay far below 2^52"
    )]
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        // Without a readable /proc only these are missing.
        let Ok(me) = Process::myself() else {
            return Ok(());
        };
        let mut gauge = |name: &str, help: &str, value: u64| {
            let value = ConstGauge::new(value);
            value.encode(out.encode_descriptor(name, help, None, value.metric_type())?)
        };
        if let Ok(count) = me.fd_count() {
            let help = "Number of open file descriptors.";
            gauge("process_open_fds", help, count as u64)?;
        }
        if let Ok(limits) = me.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            gauge("process_max_fds", "Limit on open file descriptors.", most)?;
        }
        let Ok(stat) = me.stat() else {
            return Ok(());
        };
        let resident = stat.rss * procfs::page_size();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory in bytes.",
            resident,
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory in bytes.",
            stat.vsize,
        )?;
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        gauge("process_threads", "Number of threads.", threads)?;
        let tick = procfs::ticks_per_second() as f64;
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = ConstGauge::new(boot as f64 + stat.starttime as f64 / tick);
            let help = "Start time of the process, in Unix time seconds.";
            let kind = start.metric_type();
            start.encode(out.encode_descriptor(
                "process_start_time_seconds",
                help,
                None,
                kind,
            )?)?;
        }
        let cpu = ConstCounter::new((stat.utime + stat.stime) as f64 / tick);
        let help = "CPU time used, user and system, in seconds.";
        cpu.encode(out.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}
