//! Fetches an issuer's keys before they expire and when requested, on a thread that serves no request.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::Uri;
use tokio::time::{Instant, timeout_at};
use tower::BoxError;

use super::{FetchRequests, SigningKeys};
use crate::{
    event::Event,
    policy::{
        duration_words::duration_words,
        jwt::{KeySet, RETRY_AFTER_FAILURE, freshness},
        trouble::{Sign, Trouble},
    },
    telemetry::{labels::KeyFetch, metrics::Metrics},
    types::Roots,
    upstream::{Proxy, fetch, tls},
};

pub(super) struct Issuer {
    url: Uri,
    roots: Roots,
    /// `None` if the issuer is reached without one.
    proxy: Option<Proxy>,
}

impl Issuer {
    pub(super) fn new(url: Uri, roots: Roots, proxy: Option<Proxy>) -> Self {
        Issuer { url, roots, proxy }
    }

    /// Made for each fetch, because the CA may be rotated too.
    fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>, tls::TlsError> {
        let https = self.url.scheme_str() == Some("https");
        https
            .then(|| tls::client_config(&self.roots, false))
            .transpose()
    }

    async fn fetch(self: Arc<Self>) -> Result<(KeySet, Duration), BoxError> {
        // Reads files, perhaps slow ones, on a thread that nothing else waits for.
        let issuer = self.clone();
        let tls = tokio::task::spawn_blocking(move || issuer.tls()).await??;
        let document = fetch::document(&self.url, tls, self.proxy.clone()).await?;
        let set = KeySet::parse(&document.body)?;
        Ok((set, freshness(document.cache_control.as_deref())))
    }

    /// Runs until the keys are dropped.
    pub(super) async fn keep_fresh(
        self,
        keys: Weak<SigningKeys>,
        fetch_requests: FetchRequests,
        metrics: Arc<Metrics>,
    ) {
        let (url, issuer) = (self.url.clone(), Arc::new(self));
        let fetch = move || {
            let issuer = issuer.clone();
            async move { issuer.fetch().await }
        };
        run(fetch, &url, keys, fetch_requests, metrics).await;
    }
}

/// Runs until the keys are dropped.
async fn run<F: Future<Output = Result<(KeySet, Duration), BoxError>>>(
    fetch: impl Fn() -> F,
    url: &Uri,
    weak: Weak<SigningKeys>,
    mut fetch_requests: FetchRequests,
    metrics: Arc<Metrics>,
) {
    let (start, mut trouble) = (Instant::now(), Trouble::default());
    loop {
        let fetched = fetch().await;
        let Some(keys) = weak.upgrade() else { return };
        metrics.key_fetch(match fetched {
            Ok(_) => KeyFetch::Ok,
            Err(_) => KeyFetch::Failed,
        });
        match fetched {
            Ok((set, fresh)) => {
                if keys.current().is_none_or(|old| *old != set) {
                    let unusable = set.unusable();
                    tracing::info!(event = Event::KeysFetched.label(), %url, keys = set.count(), unusable, "the issuer's keys have been fetched");
                }
                if let Some(over) = trouble.end(start.elapsed()) {
                    tracing::info!(
                        event = Event::KeysFetchedAgain.label(),
                        %url,
                        after_seconds = over.lasted.as_secs_f64(),
                        failures = over.signs,
                        "the issuer's keys can be fetched again, after {}; failures: {}",
                        duration_words(over.lasted),
                        over.signs
                    );
                }
                keys.finish_fetch(Some(set), fresh);
            }
            Err(error) => {
                let kept_keys = keys.current().map_or(0, |old| old.count());
                let failures = match trouble.sign(start.elapsed()) {
                    Some(Sign::Begins) => Some(1),
                    Some(Sign::GoesOn { signs, .. }) => Some(signs),
                    None => None,
                };
                if let Some(failures) = failures {
                    tracing::warn!(
                        event = Event::KeysFailing.label(),
                        %url,
                        error = %chain(&*error),
                        kept_keys,
                        failures,
                        "the issuer's keys could not be fetched; tried again in {}",
                        duration_words(RETRY_AFTER_FAILURE)
                    );
                }
                keys.finish_fetch(None, RETRY_AFTER_FAILURE);
            }
        }
        let due = keys.due();
        drop(keys);
        loop {
            let request = timeout_at(due, fetch_requests.recv()).await;
            let Some(keys) = weak.upgrade() else { return };
            match request {
                Err(_elapsed) => {
                    keys.start_fetch();
                    break;
                }
                // The last fetch has served any request from before it.
                Ok(Some(())) if keys.is_fetch_requested() => break,
                Ok(Some(())) => {}
                Ok(None) => return,
            }
        }
    }
}

/// An error with its sources, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        runtime::Handle,
        time::{Instant, sleep, sleep_until},
    };

    use super::*;
    use crate::{
        config::{AuthMode, Config},
        plan::Plan,
        state::{Clock, State, draining::Draining},
    };

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_fetched_in_mode_validate() {
        let text = "[tokens.main]\nenv = \"T\"\n[callers.a]\njwt_subject = \"s\"\n\
            [auth.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks = { url = \"http://127.0.0.1:9/\" }\n";
        let env = [("T".to_owned(), "token".to_owned())].into();
        let mut config = crate::config::from_toml(text, &env).unwrap();
        let state = |config: &Config| {
            let plan = Plan::of(config).unwrap();
            State::new(&plan, Draining::new().1, Handle::current()).unwrap()
        };
        assert!(state(&config).signing_keys.current().is_some());
        config.auth.mode = AuthMode::Validate;
        assert!(state(&config).signing_keys.current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_by_age_and_soon_after_a_failure_until_they_are_dropped() {
        tokio::task::LocalSet::new()
            .run_until(fetched_by_age())
            .await;
    }

    async fn fetched_by_age() {
        let start = Instant::now();
        let (keys, fetch_requests) = SigningKeys::fetched(Clock::start());
        let (weak, metrics) = (Arc::downgrade(&keys), Arc::new(Metrics::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let fetcher = tokio::task::spawn_local(async move {
            let fetch = || async {
                sleep(Duration::from_secs(1)).await;
                match counted.fetch_add(1, Ordering::Relaxed) {
                    0 | 3 => Err("down".into()),
                    _ => Ok((KeySet::parse(SET.as_bytes())?, Duration::from_secs(300))),
                }
            };
            let url = Uri::from_static("https://issuer.example/keys");
            run(fetch, &url, weak, fetch_requests, metrics).await;
        });
        // Fetches end after 1, 12, 313, 614 (a failure) and 625 seconds.
        for (at, fetches, has) in [
            (0, 0, false),
            (2, 1, false),
            (11, 1, false),
            (13, 2, true),
            (311, 2, true),
            (314, 3, true),
            (615, 4, true),
            (623, 4, true),
            (626, 5, true),
        ] {
            sleep_until(start + Duration::from_secs(at)).await;
            let seen = (count.load(Ordering::Relaxed), keys.current().is_some());
            assert_eq!(seen, (fetches, has), "after {at} s");
        }
        drop(keys);
        fetcher.await.expect("it ends");
    }
}
