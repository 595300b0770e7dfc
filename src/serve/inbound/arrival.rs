//! From an accepted socket to a connection on which requests are served: whom a proxy speaks for, TLS, and the process at a unix socket.

use std::sync::atomic::Ordering;

use http::Request;
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    accept::{Accepted, Stream},
    connection::{ConnectionSettings, IDLE_GRACE, Origin, Server},
    first_bytes::{Unread, read_proxy_header, refuse_unread},
    head::Speaks,
    tls::{TlsConnection, handshake},
};
use crate::{
    event::Event,
    policy::proxy_header::For,
    state::{connections::OpenConnection, draining::Draining},
    telemetry::labels::ConnectionEnd,
    types::{Peer, PeerAddress},
};

impl Server {
    /// Does the TLS handshake on TCP, or reads the peer's uid on a unix socket, and serves the connection then.
    pub(super) async fn accept(self, accepted: Accepted) {
        let settings = self.settings.clone();
        let Accepted {
            stream,
            address,
            at,
            open,
            counted: _counted,
        } = accepted;
        let mut origin = Origin {
            address,
            peer: None,
            // Without certificates, nothing is ever retired.
            retired: CancellationToken::new(),
            speaks: Speaks::Either,
            at,
            open,
        };
        let mut stream = stream;
        if let (Stream::Tcp(tcp), Some(PeerAddress::Client(proxy))) = (&mut stream, address)
            && settings.proxy_protocol
            && settings.proxies.trusts(proxy.ip)
        {
            let give_way = origin.open.give_way().clone();
            let read = tokio::select! {
                read = timeout_at(at + settings.header_timeout, read_proxy_header(tcp)) => read,
                () = grace_is_over(&settings.state.draining) => return,
                () = give_way.cancelled() => {
                    return self.report_end(ConnectionEnd::GaveWay, address);
                }
            };
            match read {
                Ok(Ok(For::Itself)) => {}
                Ok(Ok(For::Somebody)) => {
                    origin.address = Some(PeerAddress::Client(proxy.speaking_for_somebody()));
                }
                Ok(Ok(For::Client(client))) => {
                    let client = proxy.speaking_for(client);
                    origin.address = Some(PeerAddress::Client(client));
                    origin.open.speaks_for(client.ip);
                }
                Ok(Err(unread)) => return self.refuse_proxy(stream, &origin, unread).await,
                Err(_elapsed) => {
                    return self.refuse_proxy(stream, &origin, Unread::Late).await;
                }
            }
        }
        let address = origin.address;
        match (stream, &settings.state.handshakes) {
            (Stream::Unix(stream), _) => {
                if let Ok(peer) = stream.peer_cred() {
                    let (uid, pid) = (peer.uid(), peer.pid());
                    origin.address = Some(PeerAddress::Process { uid, pid });
                    origin.peer = Some(Peer::Uid(uid));
                }
                self.serve(stream, origin).await;
            }
            (Stream::Tcp(stream), None) => self.serve(stream, origin).await,
            (Stream::Tcp(stream), Some(handshakes)) => {
                let state = &settings.state;
                let until = at + settings.header_timeout;
                let give_way = origin.open.give_way().clone();
                let connection = tokio::select! {
                    connection = handshake(handshakes, stream, until, state, address.as_ref()) => connection,
                    () = grace_is_over(&settings.state.draining) => None,
                    () = give_way.cancelled() => {
                        self.report_end(ConnectionEnd::GaveWay, address);
                        None
                    }
                };
                if let Some(TlsConnection {
                    stream,
                    peer,
                    retired,
                    speaks,
                }) = connection
                {
                    origin.peer = peer;
                    origin.retired = retired;
                    origin.speaks = speaks;
                    self.serve(stream, origin).await;
                }
            }
        }
    }

    async fn refuse_proxy(&self, stream: Stream, origin: &Origin, unread: Unread) {
        let Stream::Tcp(stream) = stream else { return };
        let (state, peer) = (&self.settings.state, origin.address.as_ref());
        let until = origin.at + self.settings.header_timeout;
        tokio::select! {
            () = refuse_unread(stream, state, peer, unread, until) => {}
            () = grace_is_over(&state.draining) => {}
            () = origin.open.give_way().cancelled() => {}
        }
    }
}

/// In a drain, who has connected gets time to send a request: it did so in good faith.
async fn grace_is_over(draining: &Draining) {
    draining.begun().await;
    sleep(IDLE_GRACE).await;
}

/// The client of a request on a connection from this address.
pub(super) fn client_of<B>(
    address: PeerAddress,
    request: &Request<B>,
    settings: &ConnectionSettings,
    open: &OpenConnection,
) -> PeerAddress {
    let PeerAddress::Client(peer) = address else {
        return address;
    };
    let (proxies, headers) = (&settings.proxies, request.headers());
    if !proxies.trusts(peer.ip) {
        return address;
    }
    if proxies.may_use_another_field(peer.ip, headers)
        && !settings.told_of_field.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            event = Event::ProxyFieldDiffers.label(),
            proxy = %peer,
            "a trusted proxy names clients in another field than listen.client_field says, so the proxy counts as the client"
        );
    }
    let client = proxies.client(peer, headers);
    if client != peer && !open.is_proven() {
        open.speaks_for(client.ip);
    }
    PeerAddress::Client(client)
}
