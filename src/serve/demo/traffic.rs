//! What the demo's three services call, and when. The same seed gives the same calls in the same order.

use std::time::Duration;

use http::Method;

use crate::random;

/// In place of the id that the last answer of the session named.
pub(super) const ID: &str = "$id";
/// In place of the cursor of the next page. After the last page the session ends.
pub(super) const CURSOR: &str = "$cursor";

/// One of the services. Its name is that of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// People wait for it: a page is a list and a few objects, and sometimes somebody works on a ticket.
    Billing,
    /// Links rev users in bursts, with the deprecated field names; some bursts are over its own rate.
    Support,
    /// A nightly job, on a short night: it reads all accounts and updates each.
    Sync,
}

/// Calls one after another, on one connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Session {
    /// Since the previous session of the service began.
    pub after: Duration,
    pub calls: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// Before it is sent.
    pub pause: Duration,
    pub method: Method,
    pub target: String,
    pub body: String,
}

/// The endless sessions of one service.
#[derive(Debug)]
pub(super) struct Traffic {
    service: Service,
    rng: fastrand::Rng,
    /// How much faster than at the mild load.
    speed: f64,
    /// Sessions of the present rush or job that are still to come.
    rest: u64,
    sessions: u64,
}

/// How many objects of each kind the simulator begins with, or fewer.
const TICKETS: u64 = 100;
const ACCOUNTS: u64 = 120;
const REV_USERS: u64 = 40;
const REV_ORGS: u64 = 30;

/// The job's sessions run beside each other, each with its part of the accounts.
const JOB_LANES: u64 = 6;
const JOB_PAUSE: Duration = Duration::from_secs(120);

impl Service {
    pub(super) const ALL: [Service; 3] = [Service::Billing, Service::Support, Service::Sync];

    /// Which of the gateways a session calls: as uneven as callers are in a fleet.
    pub(super) fn replica(self, session: usize, replicas: usize) -> usize {
        match self {
            Service::Billing => session % replicas,
            // Nine of ten go to the first.
            Service::Support if session % 10 == 9 => session / 10 % replicas,
            Service::Support => 0,
            Service::Sync => replicas - 1,
        }
    }
}

impl Traffic {
    pub(super) fn new(service: Service, seed: u64, speed: f64) -> Traffic {
        Traffic {
            service,
            // Each service has numbers of its own.
            rng: random::seeded(seed.wrapping_mul(3).wrapping_add(service as u64)),
            speed,
            rest: 0,
            sessions: 0,
        }
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.u64(low..=high)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.rng.u64(0..n) == 0
    }

    /// Independent arrivals: short pauses are common and long ones happen.
    fn arrival(&mut self, mean: Duration) -> Duration {
        let share = -(1.0 - self.rng.f64()).ln();
        mean.mul_f64(share.min(5.0) / self.speed)
    }

    fn call(&mut self, pause: (u64, u64), method: Method, target: &str, body: String) -> Call {
        Call {
            pause: Duration::from_millis(self.between(pause.0, pause.1)),
            method,
            target: target.to_owned(),
            body,
        }
    }

    fn post(&mut self, pause: (u64, u64), operation: &str, body: String) -> Call {
        self.call(pause, Method::POST, &format!("/{operation}"), body)
    }

    fn get(&mut self, pause: (u64, u64), target: &str) -> Call {
        self.call(pause, Method::GET, target, String::new())
    }

    fn page(&mut self) -> Session {
        let after = match self.rest {
            0 => {
                // A rush now and then: several people at once.
                self.rest = if self.one_in(12) { 6 } else { 0 };
                self.arrival(Duration::from_millis(2000))
            }
            _ => {
                self.rest -= 1;
                Duration::from_millis(self.between(20, 150))
            }
        };
        let mut calls = vec![self.get((0, 0), "/works.list?limit=20&type=%22ticket%22")];
        for _ in 0..self.between(1, 3) {
            // A few of them do not exist.
            let ticket = self.between(1, TICKETS + TICKETS / 25);
            calls.push(self.post(
                (30, 300),
                "works.get",
                format!(r#"{{"id":"TKT-{ticket}"}}"#),
            ));
        }
        if self.one_in(5) {
            let part = self.between(1, 4);
            let create = format!(
                r#"{{"type":"ticket","title":"An invoice is wrong","applies_to_part":"FEAT-{part}","owned_by":["DEVU-1"]}}"#
            );
            let comment =
                format!(r#"{{"type":"timeline_comment","object":"{ID}","body":"Looking at it."}}"#);
            let update = format!(r#"{{"id":"{ID}","stage":{{"name":"resolved"}}}}"#);
            let delete = format!(r#"{{"id":"{ID}"}}"#);
            calls.push(self.post((200, 600), "works.create", create));
            calls.push(self.post((100, 400), "timeline-entries.create", comment));
            calls.push(self.post((200, 600), "works.update", update));
            // So that the demo may run for weeks.
            calls.push(self.post((200, 600), "works.delete", delete));
        }
        Session { after, calls }
    }

    fn burst(&mut self) -> Session {
        let after = self.arrival(Duration::from_secs(8));
        let length = if self.one_in(4) {
            self.between(14, 18)
        } else {
            self.between(3, 6)
        };
        let calls = (0..length).map(|_| {
            let pause = (10, 40);
            let (user, org) = (self.between(1, REV_USERS), self.between(1, REV_ORGS));
            match self.between(0, 3) {
                0 | 1 => {
                    let body = format!(r#"{{"user_don":"REVU-{user}","rev_org_don":"REV-{org}"}}"#);
                    self.post(pause, "rev-users.link", body)
                }
                2 => self.get(pause, &format!("/rev-users.get?id=REVU-{user}")),
                _ => self.get(pause, "/conversations.list?limit=10"),
            }
        });
        let calls = calls.collect();
        Session { after, calls }
    }

    fn job(&mut self) -> Session {
        let lane = self.sessions % JOB_LANES;
        let after = match (self.sessions, lane) {
            // Soon, so that there is something to see.
            (0, _) => Duration::from_secs(5),
            (_, 0) => JOB_PAUSE.div_f64(self.speed),
            _ => Duration::ZERO,
        };
        let list = match lane {
            0 => "accounts.list",
            1 => "rev-users.list",
            2 => "rev-orgs.list",
            _ => "works.list",
        };
        let mut calls = vec![self.post((0, 20), list, r#"{"limit":10}"#.to_owned())];
        for account in (1..=ACCOUNTS).filter(|account| account % JOB_LANES == lane) {
            let tier = self.between(1, 3);
            let body = format!(r#"{{"id":"ACC-{account}","tier":"tier_{tier}"}}"#);
            calls.push(self.post((0, 20), "accounts.update", body));
        }
        // What the first list begins, in a session that ends with the last page.
        for _ in 0..ACCOUNTS / 10 {
            let body = format!(r#"{{"limit":10,"cursor":"{CURSOR}"}}"#);
            calls.push(self.post((0, 20), list, body));
        }
        Session { after, calls }
    }
}

impl Iterator for Traffic {
    type Item = Session;

    fn next(&mut self) -> Option<Session> {
        let session = match self.service {
            Service::Billing => self.page(),
            Service::Support => self.burst(),
            Service::Sync => self.job(),
        };
        self.sessions += 1;
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(service: Service, seed: u64) -> Vec<Session> {
        Traffic::new(service, seed, 1.0).take(60).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_calls() {
        for service in Service::ALL {
            assert_eq!(sessions(service, 1), sessions(service, 1), "{service:?}");
            assert_ne!(sessions(service, 1), sessions(service, 2), "{service:?}");
        }
    }

    /// Calls a second over an hour, and the longest session.
    fn pace(service: Service, speed: f64) -> (f64, usize) {
        let (mut passed, mut calls, mut longest) = (Duration::ZERO, 0, 0);
        for session in Traffic::new(service, 7, speed) {
            passed += session.after;
            if passed > Duration::from_secs(3600) {
                break;
            }
            calls += session.calls.len();
            longest = longest.max(session.calls.len());
        }
        (calls as f64 / 3600.0, longest)
    }

    /// The quota of the demo is 10 calls a second.
    #[test]
    fn the_mild_load_fits_the_quota_and_the_heavy_one_does_not() {
        let sum = |speed: f64| {
            Service::ALL
                .iter()
                .map(|one| pace(*one, speed).0)
                .sum::<f64>()
        };
        assert!((3.0..8.0).contains(&sum(1.0)), "{}", sum(1.0));
        assert!(sum(4.0) > 12.0, "{}", sum(4.0));
        for service in Service::ALL {
            let (calls, longest) = pace(service, 1.0);
            assert!(calls > 0.3, "{service:?}: {calls}");
            assert!(longest <= 40, "{service:?}: {longest}");
        }
    }

    #[test]
    fn one_service_calls_all_replicas_and_the_others_mostly_one() {
        let counts = |service: Service| {
            let mut counts = [0; 3];
            (0..90).for_each(|session| counts[service.replica(session, 3)] += 1);
            counts
        };
        assert_eq!(counts(Service::Billing), [30, 30, 30]);
        assert_eq!(counts(Service::Support), [84, 3, 3]);
        assert_eq!(counts(Service::Sync), [0, 0, 90]);
        for service in Service::ALL {
            assert!((0..90).all(|session| service.replica(session, 1) == 0));
        }
    }

    #[test]
    fn the_services_differ_as_real_ones_do() {
        let all = |service| {
            let of = sessions(service, 3).into_iter();
            of.flat_map(|session| session.calls).collect::<Vec<_>>()
        };
        let has = |calls: &[Call], text: &str| calls.iter().any(|call| call.body.contains(text));
        let (billing, support, sync) = (
            all(Service::Billing),
            all(Service::Support),
            all(Service::Sync),
        );
        assert!(has(&support, "user_don") && !has(&billing, "user_don") && !has(&sync, "user_don"));
        assert!(has(&sync, CURSOR) && has(&billing, ID));
        let bursts = sessions(Service::Support, 3);
        assert!(bursts.iter().any(|burst| burst.calls.len() > 12));
        assert!(bursts.iter().any(|burst| burst.calls.len() < 7));
    }
}
