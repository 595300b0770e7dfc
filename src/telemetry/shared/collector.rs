//! The metrics of the fleet. What a driver counts is here already; what is a state is read at each scrape.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Error},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::FleetStatus;
use crate::{
    policy::fleet::FORGOTTEN,
    telemetry::{
        labels::RegisterState,
        quota::{Labels, family},
    },
};

/// Groups that the file does not name are summed up: in mode "validate" each user has one.
const OTHER: &str = "other";

pub(in crate::telemetry) struct FleetCollector {
    pub fleet: Arc<FleetStatus>,
    /// Whether the file names this group.
    pub is_named: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Debug for FleetCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

/// What tells of the whole fleet is `None` if no exchange has told it of late: whoever makes none has been forgotten by the others, and knows
/// nothing of them.
#[derive(Clone, Copy, Default)]
struct Sums {
    replicas: Option<u64>,
    held: u64,
    limbo: Option<u64>,
}

impl FleetCollector {
    fn groups(&self) -> BTreeMap<Arc<str>, Sums> {
        let mut groups = BTreeMap::<Arc<str>, Sums>::new();
        for (name, view) in self.fleet.groups() {
            let name = if (self.is_named)(&name) {
                name
            } else {
                OTHER.into()
            };
            let sums = groups.entry(name).or_default();
            sums.held += view.held;
            let told = view.standing.filter(|(_, ago)| *ago <= FORGOTTEN);
            if let Some((standing, _)) = told {
                // The same replicas have a part in many groups, so their numbers do not add up.
                sums.replicas = sums.replicas.max(Some(standing.replicas));
                sums.limbo = Some(sums.limbo.unwrap_or(0) + standing.limbo);
            }
        }
        groups
    }
}

impl Collector for FleetCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let fleet = &self.fleet;
        let is_up = fleet.register().state == RegisterState::Up;
        single(
            &mut out,
            "shared_up",
            "1 while the register of the fleet (Redis) can be used, else 0",
            &ConstGauge::new(i64::from(is_up)),
        )?;
        family(
            &mut out,
            "shared_exchanges",
            "Number of exchanges with the register, by result; a conflict comes on top of its exchange's own result",
            MetricType::Counter,
            fleet.exchanges().map(|(result, count)| {
                let labels = vec![("result", result.label().into())];
                (labels, ConstCounter::new(count))
            }),
        )?;
        single(
            &mut out,
            "shared_exchange_duration_seconds",
            "Seconds of each exchange with the register, whatever its result; not of those for which there was no connection",
            &fleet.durations,
        )?;
        single(
            &mut out,
            "shared_timeout_seconds",
            "Seconds that an exchange may take, as configured",
            &ConstGauge::new(fleet.timeout().as_secs_f64()),
        )?;
        single(
            &mut out,
            "shared_alone_seconds",
            "Seconds in which at least one group of this replica was not shared, because the register could not be used",
            &ConstCounter::new(fleet.alone().as_secs_f64()),
        )?;
        single(
            &mut out,
            "shared_no_room",
            "Number of times that a group had no room for a caller's limit, so that this replica's own limiter decides for some seconds",
            &ConstCounter::new(fleet.without_room()),
        )?;
        let groups = self.groups();
        let mut gauges = |name, help, pick: fn(&Sums) -> Option<u64>| {
            let rows = groups.iter().filter_map(|(name, sums)| {
                let labels: Labels = vec![("group", name.clone())];
                Some((labels, ConstGauge::new(pick(sums)?)))
            });
            family(&mut out, name, help, MetricType::Gauge, rows)
        };
        gauges(
            "shared_replicas",
            "Number of replicas that share the group, this one included, as its last exchange told; none if that was longer ago than 90 s",
            |sums| sums.replicas,
        )?;
        gauges(
            "shared_leased_units",
            "Number of quota units that this replica holds in advance",
            |sums| Some(sums.held),
        )?;
        gauges(
            "shared_limbo_units",
            "Number of quota units that replicas held when they died, and that nobody spends before DevRev has told what is left; none if the last exchange was longer ago than 90 s",
            |sums| sums.limbo,
        )
    }
}

fn single(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), Error> {
    let kind = metric.metric_type();
    metric.encode(out.encode_descriptor(name, &format!("{help}."), None, kind)?)
}
