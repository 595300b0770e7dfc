//! Starts the exporter of spans.

use std::sync::Arc;

use anyhow::Context;
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;

use crate::{
    config::Config,
    event::Event,
    telemetry::{
        export::{self, Exporter, Options},
        metrics::Metrics,
        otlp::Origin,
    },
    upstream::tls,
};

/// `None`, and no thread, if `trace.otlp` is not set.
pub(super) fn start(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Exporter>> {
    let settings = &config.trace;
    let Some(url) = &settings.otlp else {
        return Ok(None);
    };
    let tls = if url.scheme_str() == Some("https") {
        Some(tls::client_config(&settings.roots, false).context("trace.roots")?)
    } else {
        None
    };
    let mut headers = HeaderMap::new();
    for (name, secret) in &settings.headers {
        let mut value = HeaderValue::try_from(secret.value.expose_secret())
            .with_context(|| format!("trace.headers.{name}"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let upstream = &config.upstream.url;
    let default_port = if upstream.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let options = Options {
        url: url.clone(),
        tls,
        headers,
        timeout: settings.timeout,
        sample: settings.sample,
        origin: Origin {
            service_name: settings.service_name.clone(),
            server_address: upstream.host().unwrap_or_default().to_owned(),
            server_port: upstream.port_u16().unwrap_or(default_port),
        },
    };
    let exporter = export::start(options, metrics.clone()).context("the exporter of spans")?;
    tracing::info!(event = Event::SpansExported.label(), receiver = %url, sample = settings.sample, "spans are exported");
    Ok(Some(exporter))
}
