//! The metrics. Each gateway has its own registry, so that two in one process (tests, `demo`) do not share counts.

mod buckets;
mod exposition;
mod label_values;

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;

pub(super) use self::buckets::exchanges;
use self::buckets::{Timings, durations, durations_of_callers, timings, waits};
use super::{
    labels::{
        AttemptOutcome, ConnectionEnd, HandshakeFailure, Introspection, KeyFetch, ReloadResult,
        Source, SpanDrop, WaitReason,
    },
    process::{LogStats, ProcessStats},
    quota::{QuotaCollector, Sample},
    shared::{FleetCollector, FleetStatus},
};
use crate::{
    error::{AuthFailure, Code},
    policy::{
        circuit::Scope,
        operation::{Class, OperationLabel},
        retry::Reason,
        rewrite::Unreadable,
        token_health::Finding,
    },
};

macro_rules! labels {
    ($($name:ident { $($field:ident: $type:ty),* })*) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: $type),* }
    )*};
}

/// Declares each metric once: its field, its type and first value, its name and its help text. The encoder appends `_total` to the names
/// of counters, and a full stop to the help texts.
macro_rules! metrics {
    ($($field:ident: $type:ty = $new:expr, $name:literal, $help:literal;)*) => {
        /// All metrics of a gateway.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($field: $type,)*
        }

        impl Metrics {
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("revgate");
                $(
                    let $field: $type = $new;
                    registry.register($name, $help, $field.clone());
                )*
                Self { registry, $($field,)* }
            }
        }
    };
}

/// A name from the configuration, cheap to clone.
type Name = Arc<str>;

labels! {
    ByRequest { caller: Name, operation: OperationLabel, status: u16, source: Source }
    BySource { source: Source }
    ByCaller { caller: Name }
    ByClass { operation_class: Class }
    ByWait { reason: WaitReason }
    ByCode { caller: Name, code: Code }
    ByAuthFailure { reason: AuthFailure }
    ByOutcome { outcome: AttemptOutcome }
    ByCircuit { scope: Scope, operation: Option<OperationLabel> }
    ByRetry { reason: Reason }
    ByField { caller: Name, operation: OperationLabel, field: Name }
    ByUnreadable { reason: Unreadable }
    ByToken { token: Name }
    ByFinding { result: Finding }
    ByKeyFetch { result: KeyFetch }
    ByIntrospection { result: Introspection }
    ByReload { result: ReloadResult }
    ByHandshake { reason: HandshakeFailure }
    ByConnectionEnd { reason: ConnectionEnd }
    BySpanDrop { reason: SpanDrop }
    ByVersion { version: &'static str }
}

type Seconds = Gauge<f64, AtomicU64>;
metrics! {
    requests: Family<ByRequest, Counter> = Family::default(),
        "requests", "Number of requests that have ended, by who made the answer";
    request_duration: Timings<BySource> = timings(durations),
        "request_duration_seconds", "Seconds from the head of a request to the end of its answer's body, waits and retries included";
    upstream_duration: Timings<ByClass> = timings(durations),
        "upstream_duration_seconds", "Seconds from the start of an attempt to the head of DevRev's answer";
    wait: Timings<ByWait> = timings(waits),
        "wait_seconds", "Seconds of each wait for quota, for the end of a pause, or before a retry";
    caller_duration: Timings<ByCaller> = timings(durations_of_callers),
        "caller_request_duration_seconds", "Seconds from the head of a caller's request to the end of its answer's body, waits and retries included";
    caller_wait: Timings<ByCaller> = timings(waits),
        "caller_wait_seconds", "Seconds that each request of a caller waited in all, for quota, a pause, a retry or a connection; 0 if it did not wait";
    refused: Family<ByCode, Counter> = Family::default(),
        "refused", "Number of requests that revgate answered with an error of its own";
    auth_failures: Family<ByAuthFailure, Counter> = Family::default(),
        "auth_failures", "Number of requests refused because their credential was missing or not accepted";
    key_fetches: Family<ByKeyFetch, Counter> = Family::default(),
        "jwks_fetches", "Number of fetches of the keys that verify signed tokens";
    would_refuse: Family<ByCode, Counter> = Family::default(),
        "would_refuse", "Number of requests that passed only because enforce is off for their caller";
    attempts: Family<ByOutcome, Counter> = Family::default(),
        "attempts", "Number of attempts, that is of requests sent to DevRev, retries included";
    retries: Family<ByRetry, Counter> = Family::default(),
        "retries", "Number of retries, by the reason for which the attempt before failed";
    deprecated: Family<ByField, Counter> = Family::default(),
        "deprecated", "Number of uses of a deprecated field; of a deprecated operation if the label field is empty";
    rewrite_skipped: Family<ByUnreadable, Counter> = Family::default(),
        "rewrite_skipped", "Number of bodies that a rewrite rule covers but that were forwarded unread";
    token_expiry: Family<ByToken, Seconds> = Family::default(),
        "token_expiry_timestamp_seconds", "Time at which a DevRev token expires, as the token says, in Unix time seconds";
    token_refused: Family<ByToken, Gauge> = Family::default(),
        "token_refused", "1 while DevRev refuses the token and revgate only probes with it, else 0";
    token_confirmations: Family<ByFinding, Counter> = Family::default(),
        "token_confirmations", "Number of calls of revgate's own that asked DevRev whether it accepts a token: after a 401 to a caller, or as a probe";
    reloads: Family<ByReload, Counter> = Family::default(),
        "config_reloads", "Number of reloads of the configuration";
    last_reload_successful: Gauge = Gauge::default(),
        "config_last_reload_successful", "1 if the configuration was accepted when it was last read, else 0: an older one is in use";
    last_reload: Seconds = Gauge::default(),
        "config_last_reload_timestamp_seconds", "Time at which the configuration was last read and accepted, in Unix time seconds";
    introspections: Family<ByIntrospection, Counter> = Family::default(),
        "introspections", "Number of introspections, that is of questions to DevRev about a caller's own token";
    tls_failures: Family<ByHandshake, Counter> = Family::default(),
        "tls_handshake_failures", "Number of TLS handshakes with clients that failed";
    connections_ended: Family<ByConnectionEnd, Counter> = Family::default(),
        "connections_ended", "Number of connections from clients that revgate ended before their time";
    in_flight: Gauge = Gauge::default(),
        "in_flight", "Number of requests in flight";
    connections: Gauge = Gauge::default(),
        "connections", "Number of open connections from clients";
    circuit_open: Gauge = Gauge::default(),
        "circuit_open", "1 while the circuit of the upstream is open, so that DevRev is only probed, else 0";
    circuit_partly_open: Family<ByCircuit, Gauge> = Family::default(),
        "circuit_partly_open", "Number of open circuits that stop only an operation, a caller, or a caller's use of an operation";
    spans_dropped: Family<BySpanDrop, Counter> = Family::default(),
        "trace_spans_dropped", "Number of spans that were not exported";
    _build_info: Family<ByVersion, Gauge> = build_info(),
        "build_info", "Always 1; the label is the version of revgate";
}

fn build_info() -> Family<ByVersion, Gauge> {
    let info = Family::<ByVersion, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION");
    info.get_or_create(&ByVersion { version }).set(1);
    info
}

impl ByCode {
    fn new(caller: &Name, code: Code) -> Self {
        let caller = caller.clone();
        ByCode { caller, code }
    }
}

impl ByToken {
    fn new(token: &Name) -> Self {
        let token = token.clone();
        ByToken { token }
    }
}

fn count<L: Clone + Eq + std::hash::Hash>(family: &Family<L, Counter>, label: L) {
    family.get_or_create(&label).inc();
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers the metrics of the quota groups, which call `samples` at each scrape.
    pub fn watch_quota(&mut self, samples: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.registry
            .register_collector(Box::new(QuotaCollector(Box::new(samples))));
    }

    /// Registers the metrics of the fleet. Groups for which `is_named` is false are summed up as `other`.
    pub fn watch_fleet(
        &mut self,
        fleet: Arc<FleetStatus>,
        is_named: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) {
        let is_named = Box::new(is_named);
        self.registry
            .register_collector(Box::new(FleetCollector { fleet, is_named }));
    }

    pub fn request(
        &self,
        caller: &Name,
        operation: OperationLabel,
        status: u16,
        source: Source,
        seconds: f64,
    ) {
        let label = ByRequest {
            caller: caller.clone(),
            operation,
            status,
            source,
        };
        count(&self.requests, label);
        self.request_duration
            .get_or_create(&BySource { source })
            .observe(seconds);
    }

    /// Of a request that has ended: how long it took, and how much of that it waited.
    pub fn caller_times(&self, caller: &Name, seconds: f64, waited: f64) {
        let label = ByCaller {
            caller: caller.clone(),
        };
        self.caller_wait.get_or_create(&label).observe(waited);
        self.caller_duration.get_or_create(&label).observe(seconds);
    }

    pub fn upstream_duration(&self, operation_class: Class, seconds: f64) {
        self.upstream_duration
            .get_or_create(&ByClass { operation_class })
            .observe(seconds);
    }

    pub fn wait(&self, reason: WaitReason, seconds: f64) {
        self.wait.get_or_create(&ByWait { reason }).observe(seconds);
    }

    pub fn refused(&self, caller: &Name, code: Code) {
        count(&self.refused, ByCode::new(caller, code));
    }

    pub fn auth_failure(&self, reason: AuthFailure) {
        count(&self.auth_failures, ByAuthFailure { reason });
    }

    pub fn key_fetch(&self, result: KeyFetch) {
        count(&self.key_fetches, ByKeyFetch { result });
    }

    pub fn would_refuse(&self, caller: &Name, code: Code) {
        count(&self.would_refuse, ByCode::new(caller, code));
    }

    /// The count of `would_refuse`, for the admin's JSON.
    pub fn would_refused(&self, caller: &Name, code: Code) -> u64 {
        let counter = self.would_refuse.get(&ByCode::new(caller, code));
        counter.map_or(0, |counter| counter.get())
    }

    pub fn attempt(&self, outcome: AttemptOutcome) {
        count(&self.attempts, ByOutcome { outcome });
    }

    pub fn retry(&self, reason: Reason) {
        count(&self.retries, ByRetry { reason });
    }

    pub fn deprecated(&self, caller: &Name, operation: OperationLabel, field: &Name) {
        let label = ByField {
            caller: caller.clone(),
            operation,
            field: field.clone(),
        };
        count(&self.deprecated, label);
    }

    /// Counts a call of a deprecated operation: the label `field` is empty.
    pub fn deprecated_operation(&self, caller: &Name, operation: OperationLabel) {
        self.deprecated(caller, operation, &Name::default());
    }

    pub fn rewrite_skipped(&self, reason: Unreadable) {
        count(&self.rewrite_skipped, ByUnreadable { reason });
    }

    /// `None` if the token does not say when it expires.
    pub fn token_expiry(&self, token: &Name, epoch: Option<f64>) {
        let label = ByToken::new(token);
        match epoch {
            Some(epoch) => drop(self.token_expiry.get_or_create(&label).set(epoch)),
            None => drop(self.token_expiry.remove(&label)),
        }
    }

    pub fn token_refused(&self, token: &Name, refused: bool) {
        self.token_refused
            .get_or_create(&ByToken::new(token))
            .set(i64::from(refused));
    }

    pub fn token_confirmation(&self, result: Finding) {
        count(&self.token_confirmations, ByFinding { result });
    }

    /// Removes the series of a token that has left the file.
    pub fn forget_token(&self, token: &Name) {
        let label = ByToken::new(token);
        self.token_expiry.remove(&label);
        self.token_refused.remove(&label);
    }

    pub fn config_reload(&self, result: ReloadResult) {
        count(&self.reloads, ByReload { result });
    }

    /// The configuration has been read, at the start too. `None` if it was refused.
    pub fn config_read(&self, accepted_at: Option<f64>) {
        self.last_reload_successful
            .set(i64::from(accepted_at.is_some()));
        if let Some(epoch) = accepted_at {
            self.last_reload.set(epoch);
        }
    }

    pub fn introspection(&self, result: Introspection) {
        count(&self.introspections, ByIntrospection { result });
    }

    pub fn tls_handshake_failure(&self, reason: HandshakeFailure) {
        count(&self.tls_failures, ByHandshake { reason });
    }

    pub fn connection_ended(&self, reason: ConnectionEnd) {
        count(&self.connections_ended, ByConnectionEnd { reason });
    }

    pub fn in_flight(&self, delta: i64) {
        self.in_flight.inc_by(delta);
    }

    pub fn connections(&self, delta: i64) {
        self.connections.inc_by(delta);
    }

    pub fn circuit_open(&self, open: bool) {
        self.circuit_open.set(i64::from(open));
    }

    /// The open circuits that stop less than everything, in place of those of the call before.
    pub fn circuits_partly_open(
        &self,
        open: impl IntoIterator<Item = ((Scope, Option<OperationLabel>), i64)>,
    ) {
        self.circuit_partly_open.clear();
        for ((scope, operation), count) in open {
            let label = ByCircuit { scope, operation };
            self.circuit_partly_open.get_or_create(&label).set(count);
        }
    }

    pub fn spans_dropped(&self, reason: SpanDrop, spans: u64) {
        self.spans_dropped
            .get_or_create(&BySpanDrop { reason })
            .inc_by(spans);
    }

    /// OpenMetrics text, `# EOF` included.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail. If a collector fails, only its metric is lost.
        let _ = prometheus_client::encoding::text::encode_registry(&mut out, &self.registry);
        // In a registry of its own, because the prefix of the other would be put before `process_` too.
        let mut process = Registry::default();
        process.register_collector(Box::new(ProcessStats));
        process.register_collector(Box::new(LogStats));
        let _ = prometheus_client::encoding::text::encode_registry(&mut out, &process);
        out.push_str("# EOF\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        policy::{jwt::Fault, operation::Operation},
        telemetry::labels::{ExchangeResult, RegisterKind},
    };

    /// Metrics with a value for each.
    pub(super) fn every_metric() -> Metrics {
        let mut m = Metrics::new();
        let a: Arc<str> = "a".into();
        let sample = Sample {
            group: a.clone(),
            limit: Some(5),
            remaining: Some(4),
            reset: Some(9),
            paused_until: Some(1.5),
            throttled: 1,
            external: 2,
            waiting: vec![(a.clone(), 1)],
        };
        m.watch_quota(move || vec![sample.clone()]);
        let fleet = FleetStatus::new(
            RegisterKind::Redis,
            Duration::from_millis(50),
            Arc::default(),
        );
        fleet.exchanged(ExchangeResult::Ok, Duration::from_micros(320));
        // Held there, because a group that is shared no more has no series.
        let group = fleet.group(&a, || 3);
        m.watch_fleet(fleet, move |_| {
            let _held = &group;
            true
        });
        let works_list = Operation::from_path("works.list").label();
        m.request(&a, works_list, 200, Source::Upstream, 0.1);
        m.upstream_duration(Class::Read, 0.1);
        m.wait(WaitReason::Quota, 1.0);
        m.caller_times(&a, 700.0, 650.0);
        m.config_read(Some(1e9));
        m.config_read(None);
        m.refused(&a, Code::Forbidden);
        m.auth_failure(AuthFailure::Token(Fault::Expired));
        m.key_fetch(KeyFetch::Ok);
        m.would_refuse(&a, Code::Forbidden);
        m.attempt(AttemptOutcome::Success);
        m.retry(Reason::Throttled);
        m.deprecated(
            &a,
            Operation::from_path("rev-users.link").label(),
            &"user_don".into(),
        );
        m.rewrite_skipped(Unreadable::Coding);
        m.token_expiry(&a, Some(1.0));
        m.token_refused(&a, true);
        m.token_confirmation(Finding::Good);
        m.config_reload(ReloadResult::Applied);
        m.in_flight(1);
        m.connections(1);
        m.circuit_open(true);
        m.circuits_partly_open([
            ((Scope::Use, Some(works_list)), 2),
            ((Scope::Caller, None), 1),
        ]);
        m.spans_dropped(SpanDrop::QueueFull, 1);
        m.introspection(Introspection::ALL[0]);
        m.tls_handshake_failure(HandshakeFailure::ALL[0]);
        m.connection_ended(ConnectionEnd::ALL[0]);
        m
    }

    #[test]
    fn every_metric_is_exposed() {
        let text = every_metric().encode();
        for line in [
            r#"revgate_requests_total{caller="a",operation="works.list",status="200",source="upstream"} 1"#,
            r#"revgate_request_duration_seconds_count{source="upstream"} 1"#,
            r#"revgate_upstream_duration_seconds_count{operation_class="read"} 1"#,
            r#"revgate_wait_seconds_count{reason="quota"} 1"#,
            r#"revgate_caller_request_duration_seconds_bucket{le="600.0",caller="a"} 0"#,
            r#"revgate_caller_request_duration_seconds_bucket{le="1200.0",caller="a"} 1"#,
            r#"revgate_caller_wait_seconds_bucket{le="900.0",caller="a"} 1"#,
            "revgate_config_last_reload_successful 0",
            "revgate_config_last_reload_timestamp_seconds 1000000000",
            r#"revgate_refused_total{caller="a",code="forbidden"} 1"#,
            r#"revgate_auth_failures_total{reason="jwt_expired"} 1"#,
            r#"revgate_jwks_fetches_total{result="ok"} 1"#,
            r#"revgate_would_refuse_total{caller="a",code="forbidden"} 1"#,
            r#"revgate_attempts_total{outcome="success"} 1"#,
            r#"revgate_retries_total{reason="throttled"} 1"#,
            r#"revgate_upstream_throttled_total{group="a"} 1"#,
            r#"revgate_quota_limit{group="a"} 5"#,
            r#"revgate_quota_remaining{group="a"} 4"#,
            r#"revgate_quota_reset_timestamp_seconds{group="a"} 9"#,
            r#"revgate_quota_paused_until_timestamp_seconds{group="a"} 1.5"#,
            r#"revgate_quota_waiting{group="a",caller="a"} 1"#,
            r#"revgate_quota_external_units_total{group="a"} 2"#,
            r#"revgate_deprecated_total{caller="a",operation="rev-users.link",field="user_don"} 1"#,
            r#"revgate_rewrite_skipped_total{reason="content_encoding"} 1"#,
            r#"revgate_token_expiry_timestamp_seconds{token="a"} 1"#,
            r#"revgate_token_refused{token="a"} 1"#,
            r#"revgate_token_confirmations_total{result="good"} 1"#,
            r#"revgate_config_reloads_total{result="applied"} 1"#,
            "revgate_in_flight 1",
            "revgate_connections 1",
            "revgate_circuit_open 1",
            r#"revgate_circuit_partly_open{scope="use",operation="works.list"} 2"#,
            r#"revgate_circuit_partly_open{scope="caller",operation=""} 1"#,
            r#"revgate_trace_spans_dropped_total{reason="queue_full"} 1"#,
            r#"revgate_build_info{version=""#,
            "revgate_shared_up 0",
            r#"revgate_shared_exchanges_total{result="ok"} 1"#,
            r#"revgate_shared_exchange_duration_seconds_bucket{le="0.0005"} 1"#,
            r#"revgate_shared_leased_units{group="a"} 3"#,
            "revgate_log_lines_dropped_total 0",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "process_start_time_seconds ",
            "process_threads ",
        ] {
            assert!(
                text.lines().any(|l| l.starts_with(line)),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }
}
