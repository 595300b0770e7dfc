//! What the person who started the demo reads first.

use std::{fmt::Write, net::SocketAddr};

use super::{LIMIT, Load, MOCK, traffic::Service, usual_ports};

/// What runs where.
pub(super) struct Demo {
    pub gateways: Vec<At>,
    pub devrev: SocketAddr,
    pub load: Load,
}

/// Where a gateway listens.
pub(super) struct At {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

/// What makes the simulator ask for a pause once, and answer as slowly as before.
const PAUSE: &str = r#"{"rule":[{"times":1,"fault":{"status":{"code":429,"retry_after":60}}},{"fault":{"delay":"25ms"}}]}"#;

impl Demo {
    pub(super) fn text(&self) -> String {
        let mut text = match &self.gateways[..] {
            [one] => format!(
                "revgate      http://{}\nstatus page  http://{}/\nsimulator    http://{}\n",
                one.proxy, one.admin, self.devrev
            ),
            _ => self.fleet(),
        };
        self.add_taken_ports(&mut text);
        self.add_examples(&mut text);
        let about = match self.load {
            Load::Off => "None of them calls by itself; --load mild lets them",
            Load::Mild => {
                "They call by themselves, so that the status page has something to show; --load heavy is more than the quota \
                 allows, --load off is nothing"
            }
            Load::Heavy => {
                "They call by themselves, more than the quota allows; --load mild is less, --load off nothing"
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{about}.");
        if self.gateways.len() == 1 {
            return text + " Ctrl-C ends it.\n";
        }
        self.add_what_is_shared(&mut text);
        text + "\nCtrl-C ends all of them.\n"
    }

    fn fleet(&self) -> String {
        let count = self.gateways.len();
        let mut text = format!(
            "A fleet of {count} gateways with one quota. What they share is in the memory of this process; real ones have it in Redis.\n\n"
        );
        let mut row = |what: &str, proxy: &str, admin: &str| {
            let row = format!("{what:<11}  {proxy:<22}  {admin}");
            let _ = writeln!(text, "{}", row.trim_end());
        };
        row("", "for callers", "status page");
        for (at, number) in self.gateways.iter().zip(1..) {
            let (proxy, admin) = (at.proxy, at.admin);
            let urls = [format!("http://{proxy}"), format!("http://{admin}/")];
            row(&format!("revgate {number}"), &urls[0], &urls[1]);
        }
        row("simulator", &format!("http://{}", self.devrev), "");
        text
    }

    fn add_taken_ports(&self, text: &mut String) {
        let gateways = self.gateways.iter().enumerate();
        let usual = gateways.flat_map(|(number, at)| {
            let [proxy, admin] = usual_ports(number);
            [(proxy, at.proxy), (admin, at.admin)]
        });
        let usual = usual.chain([(MOCK, self.devrev)]);
        let taken = usual.filter(|(port, bound)| bound.port() != *port);
        let taken: Vec<_> = taken.map(|(port, _)| port.to_string()).collect();
        if !taken.is_empty() {
            let (ports, is) = (
                taken.join(" and "),
                if taken.len() == 1 { "is" } else { "are" },
            );
            let _ = writeln!(
                text,
                "\n{ports} {is} in use by another process, so these are other ports."
            );
        }
    }

    fn add_examples(&self, text: &mut String) {
        let (proxy, devrev) = (self.gateways[0].proxy, self.devrev);
        let _ = write!(
            text,
            "\nLink a rev user with the deprecated field names, without a DevRev token:\n\n  \
             curl -i http://{proxy}/rev-users.link -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
             -d '{{\"user_don\":\"REVU-131\",\"rev_org_don\":\"REV-AbCdEfGh\"}}'\n\n\
             and see what DevRev received:\n\n  curl 'http://{devrev}/_requests?contains=REV-AbCdEfGh'\n\n\
             Three callers share the token and its quota of {LIMIT} calls a minute:\n",
            Service::Billing.key(),
        );
        // Each at another gateway, if there are several.
        let gateways = self.gateways.iter().cycle();
        for (service, at) in Service::ALL.into_iter().zip(gateways) {
            let (name, about, key) = (service.name(), service.about(), service.key());
            let (proxy, example) = (at.proxy, service.example());
            let _ = write!(
                text,
                "\n  {name}: {about}\n  curl -i -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' http://{proxy}/{example}\n"
            );
        }
    }

    fn add_what_is_shared(&self, text: &mut String) {
        let (devrev, count) = (self.devrev, self.gateways.len());
        let (first, second) = (self.gateways[0].admin, self.gateways[1].admin);
        if self.load != Load::Off {
            let _ = write!(
                text,
                " Calls of billing go to all gateways in turn, of support mostly to revgate 1, of sync to revgate {count} alone: a share is a \
                 caller's, however many gateways it calls."
            );
        }
        let _ = write!(
            text,
            "\n\nLook at \"Fleet\" on each page, and at `fleet` in what they say of the quota:\n\n  \
             curl http://{first}/quota\n  curl http://{second}/quota\n\n\
             A pause is everyone's. Let DevRev ask for one, see it on all pages, and end it at any gateway:\n\n  \
             curl -X PUT http://{devrev}/_plan -d '{PAUSE}'\n  \
             curl -X POST http://{second}/quota/main/resume\n\n\
             To see one replica end and come back, or Redis, start `revgate run` more than once with [shared]: config/README.md.\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        serve::demo::{ADMIN, PROXY, loopback},
        simulator::FaultPlan,
    };

    fn demo(gateways: &[[u16; 2]], devrev: u16, load: Load) -> Demo {
        let gateways = gateways.iter().map(|ports| {
            let [proxy, admin] = ports.map(loopback);
            At { proxy, admin }
        });
        Demo {
            gateways: gateways.collect(),
            devrev: loopback(devrev),
            load,
        }
    }

    #[test]
    fn the_text_has_a_line_for_every_caller_and_names_ports_in_use() {
        let usual = demo(&[[PROXY, ADMIN]], MOCK, Load::Mild).text();
        let lines: Vec<_> = usual.lines().map(str::trim).collect();
        for service in Service::ALL {
            let key = format!("Bearer {}", service.key());
            assert!(
                lines
                    .iter()
                    .any(|line| line.starts_with("curl -i") && line.contains(&key)),
                "{usual}"
            );
        }
        assert!(!usual.contains("in use"), "{usual}");
        let other = demo(&[[1, ADMIN]], MOCK, Load::Off).text();
        assert!(other.contains("\n8080 is in use"), "{other}");
        let other = demo(&[[1, 2]], 3, Load::Heavy).text();
        assert!(
            other.contains("\n8080 and 9901 and 8081 are in use"),
            "{other}"
        );
    }

    #[test]
    fn a_fleet_has_a_row_for_each_gateway() {
        let usual = [[8080, 9901], [8090, 9911], [8100, 9921]];
        let text = demo(&usual, MOCK, Load::Mild).text();
        assert!(!text.contains("in use"), "{text}");
        for row in [
            "             for callers             status page",
            "revgate 1    http://127.0.0.1:8080   http://127.0.0.1:9901/",
            "revgate 3    http://127.0.0.1:8100   http://127.0.0.1:9921/",
            "simulator    http://127.0.0.1:8081",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        let called = [8080, 8090, 8100].map(|port| format!("127.0.0.1:{port}/"));
        for (service, at) in Service::ALL.iter().zip(called) {
            let call = format!("{at}{}", service.example());
            assert!(text.contains(&call), "{call}: {text}");
        }
        assert!(FaultPlan::parse(PAUSE).is_ok());
        let other = demo(&[usual[0], [8090, 1]], MOCK, Load::Off).text();
        assert!(other.contains("\n9911 is in use"), "{other}");
    }
}
