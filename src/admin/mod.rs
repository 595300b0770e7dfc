//! The admin listener. It has its own thread, so that it answers while the workers are busy.

mod first_bytes;
mod guard;
mod page;
mod routes;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    event::Event,
    policy::{duration_words::duration_words, exposition::Exposition, trouble::Trouble},
    runtime::{ThreadRuntime, spawn_thread},
    tcp,
};

/// Open at once, if there are descriptors for as many.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// For a request's head to arrive, and again for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What the admin listener needs of the gateway.
pub(crate) trait Control: Send + Sync + 'static {
    /// Why the gateway is not ready for traffic; empty if it is.
    fn unready(&self) -> Vec<String>;
    /// What an operator should look into although the gateway is ready.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Whether the register of the fleet can be used, in a word; `None` where nothing is shared. It never makes the gateway unready: without
    /// the register each replica serves by itself.
    fn shared(&self) -> Option<&'static str> {
        None
    }
    fn metrics(&self, form: Exposition) -> String;
    fn config(&self) -> serde_json::Value;
    fn status(&self) -> serde_json::Value;
    fn quota(&self) -> serde_json::Value;
    fn callers(&self) -> serde_json::Value;
    fn deprecations(&self) -> serde_json::Value;
    /// What would happen to the request that the query describes. The error says what is wrong with the query.
    fn explain(&self, query: &str) -> Result<serde_json::Value, String>;
    /// False if there is no such group.
    fn resume(&self, group: &str) -> bool;
    /// The log level in force, or its directives. The error says why there is none.
    fn level(&self) -> Result<String, String>;
    fn set_level(&self, level: &str) -> Result<(), String>;
    /// The report of the reload; an error if it was refused. May block, so it is called on a thread for blocking work.
    fn reload(&self) -> Result<serde_json::Value, serde_json::Value>;
}

#[derive(Debug)]
pub(crate) struct Options {
    /// Must not block.
    pub listener: TcpListener,
    /// Open at once.
    pub max_connections: usize,
    pub key: Option<secrecy::SecretString>,
}

/// The running listener. It stops on drop.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Admin {
    /// The bound address.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic already.
            let _ = thread.join();
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The new thread runs `runtime`.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(
    options: Options,
    control: Arc<dyn Control>,
    runtime: ThreadRuntime,
) -> std::io::Result<Admin> {
    let address = options.listener.local_addr()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(options.listener)?
    };
    let stop = CancellationToken::new();
    let until = stop.clone();
    let guard = guard::AccessGuard::new(address, options.key.as_ref());
    let state = Arc::new(routes::AdminState { guard, control });
    let thread = spawn_thread("admin".into(), move || {
        let serving = serve(listener, state, options.max_connections);
        runtime.block_on(until.run_until_cancelled(serving));
    })?;
    info!(event = Event::Listening.label(), listener = "admin", address = %address, "listening");
    Ok(Admin {
        address,
        stop,
        thread: Some(thread),
    })
}

async fn serve(
    listener: tokio::net::TcpListener,
    state: Arc<routes::AdminState>,
    max_connections: usize,
) {
    let mut open = VecDeque::<JoinHandle<()>>::new();
    let (start, mut trouble) = (Instant::now(), Trouble::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if tcp::concerns_one_connection(&error) => continue,
            Err(error) => {
                // Probably out of file descriptors; an immediate retry would spin.
                if trouble.sign(start.elapsed()).is_some() {
                    warn!(event = Event::AdminAcceptFailed.label(), %error, "the admin listener cannot accept");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some(over) = trouble.end(start.elapsed()) {
            let after_seconds = over.lasted.as_secs_f64();
            info!(
                event = Event::AdminAccepts.label(),
                after_seconds,
                "the admin listener accepts again, after {}",
                duration_words(over.lasted)
            );
        }
        tcp::set_options(&stream);
        // At the limit, the oldest connection is closed, so that idle or stalled connections never block a health probe.
        open.retain(|connection| !connection.is_finished());
        if open.len() >= max_connections
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            // Its descriptor is closed by then.
            let _ = oldest.await;
        }
        let state = Arc::clone(&state);
        let connection = tokio::spawn(async move {
            if let Some(answer) = first_bytes::answer_to_another(&stream).await {
                return tcp::last_words(stream, &answer).await;
            }
            let service = service_fn(|request| routes::answer(Arc::clone(&state), request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%error, "an admin connection ended early");
            }
        });
        open.push_back(connection);
    }
}

#[cfg(test)]
mod tests;
