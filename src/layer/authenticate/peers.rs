//! Callers identified by their connection: by its client certificate, or by the uid of the peer of a unix socket.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{
    error::{AuthFailure, CredentialFault, Error},
    event::Event,
    policy::san::San,
    telemetry::{
        client_lines::{ClientLines, Topic},
        log::short,
    },
    types::{Caller, Certificate, Peer, PeerAddress},
};

/// Callers by the name in their certificate, and by the uid of their process.
#[derive(Default)]
pub(crate) struct Peers {
    pub sans: Arc<HashMap<San, Arc<Caller>>>,
    pub uids: Arc<HashMap<u32, Arc<Caller>>>,
    pub client_lines: Arc<ClientLines>,
}

impl Peers {
    /// `None` where the peer presents no credential, so that the next method is tried.
    ///
    /// A client presents a certificate on purpose, so one that names no caller is refused. A uid isn't presented by the client, so
    /// an unknown one falls through to the anonymous caller.
    pub(super) fn identify(
        &self,
        peer: Option<&Peer>,
        address: Option<PeerAddress>,
        now: SystemTime,
    ) -> Result<Option<Arc<Caller>>, Error> {
        match peer {
            None => Ok(None),
            Some(Peer::Uid(uid)) => {
                let caller = self.uids.get(uid);
                if caller.is_none() {
                    tracing::debug!(uid, "no caller has the uid of this peer");
                }
                Ok(caller.cloned())
            }
            Some(Peer::Certificate(certificate)) => {
                self.holder(certificate, address, now).map(Some)
            }
        }
    }

    fn holder(
        &self,
        certificate: &Certificate,
        address: Option<PeerAddress>,
        now: SystemTime,
    ) -> Result<Arc<Caller>, Error> {
        let peer = address.as_ref();
        // The handshake verified the chain, but a connection or a resumed session may outlive the certificate.
        if certificate.not_after < now {
            if self.is_logged(CredentialFault::ExpiredCertificate, address) {
                let names = show(certificate);
                tracing::info!(
                    event = Event::CredentialRefused.label(),
                    peer = peer.map(PeerAddress::shown),
                    names,
                    "a client certificate expired while it was in use"
                );
            }
            return Err(Error::ExpiredCertificate);
        }
        let mut holders = certificate
            .names
            .iter()
            .filter_map(|san| self.sans.get(san));
        let Some(holder) = holders.next() else {
            if self.is_logged(CredentialFault::UnknownCertificate, address) {
                let names = show(certificate);
                tracing::info!(
                    event = Event::CredentialRefused.label(),
                    peer = peer.map(PeerAddress::shown),
                    names,
                    "no caller has a name of this client certificate"
                );
            }
            return Err(Error::UnknownCertificate);
        };
        // With two callers in one certificate it is ambiguous which one calls, so neither does.
        if holders.any(|other| !Arc::ptr_eq(other, holder)) {
            if self.is_logged(CredentialFault::UnknownCertificate, address) {
                let names = show(certificate);
                tracing::info!(
                    event = Event::CredentialRefused.label(),
                    peer = peer.map(PeerAddress::shown),
                    names,
                    "this client certificate names several callers"
                );
            }
            return Err(Error::UnknownCertificate);
        }
        Ok(holder.clone())
    }

    fn is_logged(&self, fault: CredentialFault, peer: Option<PeerAddress>) -> bool {
        let topic = Topic::Credential(AuthFailure::Credential(fault));
        let ip = peer.and_then(|peer| peer.ip());
        self.client_lines.try_pass(topic, ip)
    }
}

const MAX_NAMES: usize = 512;

/// For the log. Bounded, because the issuer decides how many names there are, and how long each is.
fn show(certificate: &Certificate) -> String {
    let names: Vec<_> = certificate.names.iter().take(8).collect();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    short(&names.join(" "), MAX_NAMES).to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::tests::caller, *};

    fn peers() -> Peers {
        let (billing, reports) = (caller("billing"), caller("reports"));
        let san = |text: &str| San::read(text).unwrap();
        Peers {
            sans: Arc::new(HashMap::from([
                (san("spiffe://example.org/billing"), billing),
                (san("reports.internal"), reports.clone()),
            ])),
            uids: Arc::new(HashMap::from([(1001, reports)])),
            client_lines: Arc::default(),
        }
    }

    #[test]
    fn a_certificate_identifies_exactly_one_caller_or_is_refused() {
        let uri = |text: &str| San::Uri(text.into());
        let billing = uri("spiffe://example.org/billing");
        let table = [
            (vec![billing.clone()], Some("billing")),
            (vec![San::dns("REPORTS.internal")], Some("reports")),
            (vec![San::dns("a"), billing.clone()], Some("billing")),
            (vec![billing.clone(), billing.clone()], Some("billing")),
            // Names are compared whole, in case and kind.
            (vec![uri("spiffe://example.org/billing/")], None),
            (vec![uri("spiffe://example.org/billing2")], None),
            (vec![uri("spiffe://example.org/Billing")], None),
            (vec![uri("spiffe://example.org/")], None),
            (vec![uri("SPIFFE://example.org/billing")], None),
            (vec![San::dns("spiffe://example.org/billing")], None),
            (vec![uri("reports.internal")], None),
            (vec![San::dns("*.internal")], None),
            (vec![San::dns("x.reports.internal")], None),
            (vec![San::dns("reports.internal.")], None),
            (vec![San::dns("reports.internal\0.evil")], None),
            (vec![], None),
            // Two callers at once.
            (vec![billing, San::dns("reports.internal")], None),
        ];
        let (peers, now) = (peers(), crate::wall_clock::now());
        for (names, want) in table {
            let shown = format!("{names:?}");
            let not_after = now + Duration::from_secs(1);
            let peer = Peer::Certificate(Arc::new(Certificate { names, not_after }));
            match (peers.identify(Some(&peer), None, now), want) {
                (Ok(Some(caller)), Some(want)) => assert_eq!(&*caller.name, want, "{shown}"),
                (Err(Error::UnknownCertificate), None) => {}
                (other, _) => panic!("{shown}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_certificate_expires_on_an_open_connection_too() {
        let (peers, now) = (peers(), crate::wall_clock::now());
        let certificate = |not_after| {
            let names = vec![San::dns("reports.internal")];
            Peer::Certificate(Arc::new(Certificate { names, not_after }))
        };
        assert!(peers.identify(Some(&certificate(now)), None, now).is_ok());
        let over = certificate(now - Duration::from_secs(1));
        assert!(matches!(
            peers.identify(Some(&over), None, now),
            Err(Error::ExpiredCertificate)
        ));
    }

    #[test]
    fn an_unknown_uid_is_no_credential() {
        let (peers, now) = (peers(), crate::wall_clock::now());
        let known = peers.identify(Some(&Peer::Uid(1001)), None, now).unwrap();
        assert_eq!(
            known.map(|caller| caller.name.clone()),
            Some("reports".into())
        );
        for peer in [Some(&Peer::Uid(0)), Some(&Peer::Uid(1002)), None] {
            assert!(
                peers.identify(peer, None, now).unwrap().is_none(),
                "{peer:?}"
            );
        }
    }
}
