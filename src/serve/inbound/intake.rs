//! A worker's connections: takes them in, and ends them in a drain.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};

use super::{
    accept::{AsyncListener, accept},
    connection::{ConnectionSettings, Server},
    listener::Listener,
};
use crate::{serve::worker::Published, telemetry::client_lines::Topic};

/// Serves until a drain has ended every connection, or `drain_timeout` is over.
pub(crate) async fn serve(
    listener: Listener,
    published: Published,
    settings: Arc<ConnectionSettings>,
) {
    let server = Server::new(published, settings.clone());
    let mut connections = JoinSet::new();
    let drain_is_over = async {
        settings.state.draining.begun().await;
        sleep(settings.drain_timeout).await;
    };
    tokio::select! {
        () = take_in(listener, server, &mut connections) => {}
        () = drain_is_over => tracing::warn!(
            left = connections.len(),
            "drain.timeout is over; the remaining connections are closed"
        ),
    }
}

/// Until a drain has ended every connection.
async fn take_in(listener: Listener, mut server: Server, connections: &mut JoinSet<()>) {
    let listener = match AsyncListener::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener could not be used"),
    };
    let state = server.settings.state.clone();
    // Not made anew in each round, because it may have accepted a connection that waits for its turn.
    let table = server.settings.connections.clone();
    let mut accepting = Box::pin(accept(&listener, &table, &state.draining));
    loop {
        tokio::select! {
            accepted = accepting.as_mut() => {
                match accepted {
                    Ok(Some(accepted)) => {
                        server.follow_limits();
                        let (server, state) = (server.clone(), state.clone());
                        connections.spawn(async move {
                            state.metrics.connections(1);
                            server.accept(accepted).await;
                            state.metrics.connections(-1);
                        });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        if state.client_lines.try_pass(Topic::Accept, None) {
                            tracing::warn!(%error, "a connection could not be accepted");
                        }
                        // Probably out of file descriptors; an immediate retry would spin.
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                accepting = Box::pin(accept(&listener, &table, &state.draining));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(accepting);
    drop(listener);
    while connections.join_next().await.is_some() {}
}
