//! Callers known by what their connection proves: a client certificate, or the user at the other end of a unix socket.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{
    error::Error,
    policy::san::San,
    types::{Caller, Certificate, Peer},
};

/// Callers by the name in their certificate, and by the uid of their process.
#[derive(Default)]
pub struct Peers {
    pub sans: Arc<HashMap<San, Arc<Caller>>>,
    pub uids: Arc<HashMap<u32, Arc<Caller>>>,
}

impl Peers {
    /// `None` where the peer has shown nothing, so that the next method may be tried.
    ///
    /// A certificate is a credential that somebody chose to show: one that belongs to no caller is refused. A uid is what
    /// the kernel says of everybody; one that belongs to no caller is no wrong credential, it is none.
    pub(super) fn identify(
        &self,
        peer: Option<&Peer>,
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
            Some(Peer::Certificate(certificate)) => self.holder(certificate, now).map(Some),
        }
    }

    fn holder(&self, certificate: &Certificate, now: SystemTime) -> Result<Arc<Caller>, Error> {
        // The handshake has checked the whole chain; a connection, or a session that is resumed, may outlive it.
        if certificate.not_after < now {
            let names = show(certificate);
            tracing::info!(names, "a client certificate expired while it was in use");
            return Err(Error::ExpiredCertificate);
        }
        let mut holders = certificate
            .names
            .iter()
            .filter_map(|san| self.sans.get(san));
        let Some(holder) = holders.next() else {
            let names = show(certificate);
            tracing::info!(names, "no caller has a name of this client certificate");
            return Err(Error::UnknownCertificate);
        };
        // Two callers in one certificate are a question of which one counts; neither does.
        if holders.any(|other| !Arc::ptr_eq(other, holder)) {
            let names = show(certificate);
            tracing::info!(names, "this client certificate names several callers");
            return Err(Error::UnknownCertificate);
        }
        Ok(holder.clone())
    }
}

/// For the log; bounded, as the issuer decides how many names there are.
fn show(certificate: &Certificate) -> String {
    let names: Vec<_> = certificate.names.iter().take(8).collect();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(" ")
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
        }
    }

    #[test]
    fn a_certificate_is_its_one_callers_or_nobodys() {
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
        let (peers, now) = (peers(), SystemTime::now());
        for (names, want) in table {
            let shown = format!("{names:?}");
            let not_after = now + Duration::from_secs(1);
            let peer = Peer::Certificate(Arc::new(Certificate { names, not_after }));
            match (peers.identify(Some(&peer), now), want) {
                (Ok(Some(caller)), Some(want)) => assert_eq!(&*caller.name, want, "{shown}"),
                (Err(Error::UnknownCertificate), None) => {}
                (other, _) => panic!("{shown}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_certificate_ends_with_its_time_also_on_a_connection_that_goes_on() {
        let (peers, now) = (peers(), SystemTime::now());
        let certificate = |not_after| {
            let names = vec![San::dns("reports.internal")];
            Peer::Certificate(Arc::new(Certificate { names, not_after }))
        };
        assert!(peers.identify(Some(&certificate(now)), now).is_ok());
        let over = certificate(now - Duration::from_secs(1));
        assert!(matches!(
            peers.identify(Some(&over), now),
            Err(Error::ExpiredCertificate)
        ));
    }

    #[test]
    fn an_unknown_uid_is_no_credential() {
        let (peers, now) = (peers(), SystemTime::now());
        let known = peers.identify(Some(&Peer::Uid(1001)), now).unwrap();
        assert_eq!(
            known.map(|caller| caller.name.clone()),
            Some("reports".into())
        );
        for peer in [Some(&Peer::Uid(0)), Some(&Peer::Uid(1002)), None] {
            assert!(peers.identify(peer, now).unwrap().is_none(), "{peer:?}");
        }
    }
}
