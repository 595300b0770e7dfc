//! The metrics of the quota groups. They are read from the groups at each scrape, so that requests do not have to update them.

use std::{
    fmt::{Debug, Error},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// The state of one group.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub group: Arc<str>,
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// Epoch seconds.
    pub reset: Option<u64>,
    /// Epoch seconds; 0 while it is not paused.
    pub paused_until: Option<f64>,
    pub throttled: u64,
    pub external: u64,
    pub waiting: Vec<(Arc<str>, u64)>,
}

pub(super) struct QuotaCollector(pub Box<dyn Fn() -> Vec<Sample> + Send + Sync>);

impl Debug for QuotaCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quota")
    }
}

impl Collector for QuotaCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let samples = (self.0)();
        let whole = |pick: fn(&Sample) -> Option<u64>| {
            let found = samples.iter().filter_map(move |s| Some((s, pick(s)?)));
            found.map(|(s, value)| (label(s), ConstGauge::new(value)))
        };
        family(
            &mut out,
            "quota_limit",
            "Number of requests that DevRev allows in one window",
            MetricType::Gauge,
            whole(|s| s.limit),
        )?;
        family(
            &mut out,
            "quota_remaining",
            "Number of requests left in the window, by DevRev's last answer",
            MetricType::Gauge,
            whole(|s| s.remaining),
        )?;
        family(
            &mut out,
            "quota_reset_timestamp_seconds",
            "End of the window by DevRev's last answer, in Unix time seconds",
            MetricType::Gauge,
            whole(|s| s.reset),
        )?;
        family(
            &mut out,
            "quota_paused_until_timestamp_seconds",
            "End of the group's pause, in Unix time seconds; 0 while it is not paused",
            MetricType::Gauge,
            samples
                .iter()
                .filter_map(|s| Some((label(s), ConstGauge::new(s.paused_until?)))),
        )?;
        family(
            &mut out,
            "quota_waiting",
            "Number of requests that wait for quota now",
            MetricType::Gauge,
            samples.iter().flat_map(|s| {
                let of = |(caller, count): &(Arc<str>, u64)| {
                    let labels = [("group", s.group.clone()), ("caller", caller.clone())];
                    (labels.to_vec(), ConstGauge::new(*count))
                };
                s.waiting.iter().map(of).collect::<Vec<_>>()
            }),
        )?;
        family(
            &mut out,
            "quota_external_units",
            "Number of quota units (requests) that clients outside this gateway have used",
            MetricType::Counter,
            samples
                .iter()
                .map(|s| (label(s), ConstCounter::new(s.external))),
        )?;
        family(
            &mut out,
            "upstream_throttled",
            "Number of 429 responses from DevRev",
            MetricType::Counter,
            samples
                .iter()
                .map(|s| (label(s), ConstCounter::new(s.throttled))),
        )
    }
}

pub(super) type Labels = Vec<(&'static str, Arc<str>)>;

fn label(sample: &Sample) -> Labels {
    vec![("group", sample.group.clone())]
}

/// Encodes a metric with these rows.
pub(super) fn family<M: EncodeMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: impl Iterator<Item = (Labels, M)>,
) -> Result<(), Error> {
    let mut family = out.encode_descriptor(name, &format!("{help}."), None, kind)?;
    for (labels, metric) in rows {
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
