//! What the quota groups tell, looked up when somebody asks: counting it as requests pass would cost each of them.

use std::{
    fmt::{Debug, Error},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// One group, as a scrape finds it.
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

pub(super) struct Quota(pub Box<dyn Fn() -> Vec<Sample> + Send + Sync>);

impl Debug for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quota")
    }
}

impl Collector for Quota {
    fn encode(&self, mut out: DescriptorEncoder) -> Result<(), Error> {
        let samples = (self.0)();
        let whole = |pick: fn(&Sample) -> Option<u64>| {
            let found = samples.iter().filter_map(move |s| Some((s, pick(s)?)));
            found.map(|(s, value)| (label(s), ConstGauge::new(value)))
        };
        family(
            &mut out,
            "quota_limit",
            "Requests that DevRev allows in one window",
            MetricType::Gauge,
            whole(|s| s.limit),
        )?;
        family(
            &mut out,
            "quota_remaining",
            "Requests left in the window, as DevRev last said",
            MetricType::Gauge,
            whole(|s| s.remaining),
        )?;
        family(
            &mut out,
            "quota_reset_timestamp_seconds",
            "When the window ends, as DevRev last said",
            MetricType::Gauge,
            whole(|s| s.reset),
        )?;
        family(
            &mut out,
            "quota_paused_until_timestamp_seconds",
            "Until when DevRev asked for silence; 0 while it has not",
            MetricType::Gauge,
            samples
                .iter()
                .filter_map(|s| Some((label(s), ConstGauge::new(s.paused_until?)))),
        )?;
        family(
            &mut out,
            "quota_waiting",
            "Requests waiting for quota",
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
            "Quota spent by someone outside revgate",
            MetricType::Counter,
            samples
                .iter()
                .map(|s| (label(s), ConstCounter::new(s.external))),
        )?;
        family(
            &mut out,
            "upstream_throttled",
            "Responses with status 429 that DevRev sent",
            MetricType::Counter,
            samples
                .iter()
                .map(|s| (label(s), ConstCounter::new(s.throttled))),
        )
    }
}

type Labels = Vec<(&'static str, Arc<str>)>;

fn label(sample: &Sample) -> Labels {
    vec![("group", sample.group.clone())]
}

fn family<M: EncodeMetric>(
    out: &mut DescriptorEncoder,
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
