//! `revgate check --connect`: tries the register of the fleet, from where it runs.

use std::time::Duration;

use crate::{
    config::{Config, Problem, Problems},
    fleet::{
        redis::{
            facts::Memory,
            trial::{SAMPLES, Trial, Unusable, try_out},
        },
        register::Fault,
    },
    plan::{Plan, SharedPlan},
    runtime::ThreadRuntime,
};

/// What is said of a Redis that works.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) lines: Vec<String>,
    pub(super) warnings: Vec<Problem>,
}

/// # Errors
/// When it does not work: why, and what to do.
pub(super) fn connect(config: &Config, plan: &Plan) -> anyhow::Result<Outcome> {
    let Some(shared) = &plan.shared else {
        return Ok(Outcome {
            lines: vec!["shared: not configured, so no Redis is used".to_owned()],
            ..Outcome::default()
        });
    };
    let tried = ThreadRuntime::new()?.block_on(try_out(shared));
    Ok(judge(config, shared, tried)?)
}

fn judge(
    config: &Config,
    shared: &SharedPlan,
    tried: Result<Trial, Unusable>,
) -> Result<Outcome, Problems> {
    let problem = |key: &str, message: String| Problems::from(config.problem(key, message));
    let trial = tried.map_err(|unusable| {
        let message = format!("{} {}", shared.endpoint, what_to_do(&unusable));
        problem("shared.redis", message)
    })?;
    if trial.server.is_old() {
        let message = format!(
            "{} is {}, and revgate needs 6.2; use a newer one, or a Valkey",
            shared.endpoint, trial.server
        );
        return Err(problem("shared.redis", message));
    }
    if !trial.heard {
        let message = format!(
            "{} does not pass on to this connection what is published, so replicas would learn late what others did; give the user the right to the channels, as config/README.md says",
            shared.endpoint
        );
        return Err(problem("shared.redis", message));
    }
    let limit = shared.timeout;
    let (half, most) = (percentile(&trial.times, 50), percentile(&trial.times, 99));
    // As soon as another replica has written an exchange takes two.
    if half * 2 > limit {
        let message = format!(
            "is less than two round trips to {} take ({} each, in the middle), so replicas would go alone; raise it, or use a Redis that is nearer",
            shared.endpoint,
            brief(half)
        );
        return Err(problem("shared.timeout", message));
    }
    let mut outcome = Outcome {
        lines: told(shared, &trial, half, most),
        ..Outcome::default()
    };
    for (address, Unusable { failure, advice }) in &trial.unusable {
        let advice = advice.as_deref().unwrap_or("correct the URL, or start it");
        let message =
            format!("{address} cannot be used ({failure}), though another address can; {advice}");
        outcome
            .warnings
            .push(config.problem("shared.redis", message));
    }
    if most * 2 > limit {
        let message = format!(
            "is little for exchanges that take up to {} (p99 of {SAMPLES}), and each that takes longer is lost; raise it, or use a Redis that is nearer or has less to do",
            brief(most)
        );
        outcome
            .warnings
            .push(config.problem("shared.timeout", message));
    }
    if let Memory::Bounded { policy, .. } = &trial.memory
        && policy != "noeviction"
    {
        // All values have a time to live, so what evicts only keys that have one takes them first.
        let message = format!(
            "the server's maxmemory-policy is {policy}, which may drop what replicas use at the moment; set it to noeviction, or use a server of its own if others need this policy"
        );
        outcome
            .warnings
            .push(config.problem("shared.redis", message));
    }
    Ok(outcome)
}

/// One line for each thing that was tried.
fn told(shared: &SharedPlan, trial: &Trial, half: Duration, most: Duration) -> Vec<String> {
    let clock = match trial.clock {
        clock if clock.by <= clock.within => format!(
            "shared: its clock is that of this machine, to within {}",
            brief(clock.within)
        ),
        clock => format!(
            "shared: its clock is {} {} this machine's; the replicas go by that of Redis",
            brief(clock.by),
            if clock.is_ahead { "ahead of" } else { "behind" }
        ),
    };
    let memory = match &trial.memory {
        Memory::Unknown(why) => format!("maxmemory-policy not known: {why}"),
        Memory::Unlimited => "maxmemory is not set, so nothing is evicted".to_owned(),
        Memory::Bounded { bytes, policy } => {
            format!("maxmemory {} KiB, {policy}", bytes >> 10)
        }
    };
    let mut lines = vec![
        format!("shared: {} is {}", shared.endpoint, trial.server),
        "shared: values can be exchanged, and hints are heard".to_owned(),
        format!(
            "shared: {} exchanges took {} (p50) and {} (p99); shared.timeout is {}",
            trial.times.len(),
            brief(half),
            brief(most),
            brief(shared.timeout)
        ),
        clock,
        format!("shared: {memory}"),
    ];
    let lacks = trial.lacks.iter();
    lines.extend(lacks.map(|(right, then)| format!("shared: without the right {right}, {then}")));
    lines
}

/// Completes a sentence that begins with the server.
fn what_to_do(Unusable { failure, advice }: &Unusable) -> String {
    if let Some(advice) = advice {
        return format!("cannot be used ({failure}); {advice}");
    }
    let (what, instead) = match failure.fault {
        Fault::Down => (
            "cannot be reached",
            "start it, let this machine through to it, or correct the URL",
        ),
        Fault::TimedOut => (
            "does not answer in time",
            "look at what it does (SLOWLOG GET), and at the network",
        ),
        Fault::Broken => (
            "does not answer as Redis does",
            "check host and port, and whether it wants TLS (rediss://)",
        ),
        Fault::Overtaken => (
            "is too far for so many replicas",
            "give them one that is nearer, or raise shared.timeout",
        ),
        Fault::Full => (
            "has as many replicas of a group as may share it",
            "run fewer, or give some a token of their own",
        ),
        Fault::NotWritable => (
            "takes no values",
            "name the primary, or let Sentinel name it: redis+sentinel://",
        ),
        Fault::Refused => (
            "refused a value",
            "give it memory (maxmemory), and see its log",
        ),
        Fault::Denied => (
            "denies what is needed",
            "correct user and password in the URL, and give the user the rights that config/README.md lists",
        ),
    };
    format!("{what} ({failure}); {instead}")
}

/// Of times in order.
fn percentile(times: &[Duration], share: usize) -> Duration {
    let rank = (times.len() * share).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// An exchange takes less than a millisecond, as a rule.
fn brief(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 1.0 => format!("{} µs", time.as_micros()),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        config::from_toml,
        fleet::{
            redis::{script::RIGHTS, sentinel, trial::Offset},
            redis_rig::{Authority, Cluster, MASTER, Mode, Options, Proxy, Server, Watched},
        },
    };

    const SECRET: &str = "s3cr3t-value-007";

    fn config(url: &str, more: &str) -> Config {
        let env = [
            ("T", "token"),
            ("K", "7d8f1c0b9e34a256f7013c8ae92b645d"),
            ("REDIS_URL", url),
        ];
        let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let text = format!(
            "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey = {{ env = \"K\" }}\n[shared]\nredis = {{ env = \"REDIS_URL\" }}\n{more}"
        );
        from_toml(&text, &env).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// What `check --connect` says: lines, then warnings, or problems.
    async fn said(url: &str, more: &str) -> Result<(String, String), String> {
        let config = config(url, more);
        let shared = Plan::of(&config).unwrap().shared.unwrap();
        let tried = try_out(&shared).await;
        let said = match judge(&config, &shared, tried) {
            Ok(Outcome { lines, warnings }) => {
                let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
                Ok((lines.join("\n"), warnings.join("\n")))
            }
            Err(problems) => Err(problems.to_string()),
        };
        assert!(!format!("{said:?}").contains(SECRET), "{said:?}");
        said
    }

    /// The lines of a server that works, without what differs from run to run.
    fn assert_works(said: &str, server: &str) {
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with(&format!("shared: {server}")), "{said}");
        assert!(lines[0].contains(" is Redis "), "{said}");
        assert!(lines[0].contains(", a primary"), "{said}");
        assert_eq!(
            lines[1],
            "shared: values can be exchanged, and hints are heard"
        );
        assert!(lines[2].starts_with("shared: 50 exchanges took "), "{said}");
        assert!(lines[3].starts_with("shared: its clock is "), "{said}");
        assert!(lines[4].starts_with("shared: maxmemory"), "{said}");
        assert_eq!(lines.len(), 5, "{said}");
    }

    /// Generous, because the machine is busy with other tests.
    const SLOW: &str = "timeout = \"1s\"";

    #[tokio::test]
    async fn a_server_that_works_is_described_and_left_as_it_was() {
        let server = Server::start().await;
        let url = format!("redis://{}/3", server.address());
        let (lines, warnings) = said(&url, SLOW).await.unwrap();
        assert_works(&lines, &url);
        assert!(lines.ends_with("shared: maxmemory is not set, so nothing is evicted"));
        assert_eq!(warnings, "");
        crate::fleet::redis_rig::until("the key has gone", || async {
            match server.info("db3").await {
                None => Ok(()),
                Some(keys) => Err(keys),
            }
        })
        .await;
        let socket = format!("unix:{}", server.socket().display());
        assert_works(&said(&socket, SLOW).await.unwrap().0, &socket);
    }

    /// Gives the user these rights and no others.
    async fn allow(server: &Server, rights: &[&str]) {
        let none = ["resetkeys", "resetchannels", "-@all"];
        let rule = [&["ACL", "SETUSER", "gate"], &none[..], rights].concat();
        server.call(&rule).await;
    }

    #[tokio::test]
    async fn the_rights_that_are_listed_suffice_and_each_is_needed() {
        let user = Options::new().line(format!("user gate on >{SECRET}"));
        let server = Server::with(user).await;
        let all = format!("~revgate:* &revgate:* {RIGHTS} +select");
        let all: Vec<_> = all.split(' ').collect();
        allow(&server, &all).await;
        let url = format!("redis://gate:{SECRET}@{}/3", server.address());
        let (lines, warnings) = said(&url, SLOW).await.unwrap();
        let lines: Vec<_> = lines.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "shared: maxmemory-policy not known: the user may not run INFO",
                "shared: without the right +client|setname, CLIENT LIST does not name the connections of revgate",
            ]
        );
        assert_eq!(warnings, "");
        // Another prefix is out of its reach.
        let other = said(&url, "prefix = \"other\"").await.unwrap_err();
        assert!(other.contains("denies what is needed"), "{other}");
        for needed in &all {
            let fewer: Vec<_> = all
                .iter()
                .copied()
                .filter(|right| right != needed)
                .collect();
            allow(&server, &fewer).await;
            let problem = said(&url, SLOW).await.unwrap_err();
            let (what, advice) = match *needed {
                "+select" => (
                    "cannot be used (",
                    "give the user the right +select, or name no database",
                ),
                _ => (
                    "denies what is needed (",
                    "correct user and password in the URL, and give the user the rights that config/README.md lists",
                ),
            };
            assert!(
                problem.starts_with("shared.redis: redis://127.0.0.1:")
                    && problem.contains(what)
                    && problem.ends_with(&format!("; {advice}")),
                "{needed}: {problem}"
            );
        }
        // A right that only helps, and no database.
        let more = [&all[..all.len() - 1], &["+client|setname", "+info"]].concat();
        allow(&server, &more).await;
        let (lines, _) = said(url.trim_end_matches("/3"), SLOW).await.unwrap();
        assert_works(&lines, "redis://127.0.0.1:");
        let wrong = url.replace(SECRET, "wrong");
        let problem = said(&wrong, "").await.unwrap_err();
        assert!(problem.contains("denies what is needed"), "{problem}");
    }

    #[tokio::test]
    async fn a_user_of_sentinels_own_that_is_denied_is_told_apart() {
        let server = Options::new().line(format!(
            "user gate on >{SECRET} ~revgate:* &revgate:* {RIGHTS} +client|setname +info"
        ));
        let sentinel = Options::new()
            .line("user default off")
            .line(format!("user asks on >{SECRET} {}", sentinel::RIGHT))
            .line(format!("user pings on >{SECRET} +ping"));
        let watched = Watched::with(server, sentinel, 1).await;
        let url = format!(
            "redis+sentinel://gate:{SECRET}@{}/{MASTER}",
            watched.addresses()
        );
        let as_user = |user: &str| format!("{url}?sentinel_user={user}&sentinel_password={SECRET}");
        let (lines, _) = said(&as_user("asks"), SLOW).await.unwrap();
        assert!(
            lines.ends_with("\nshared: without the right +role, a server that is no primary any more is noticed at the first write"),
            "{lines}"
        );
        let right = sentinel::RIGHT;
        for user in ["pings", "nobody"] {
            let problem = said(&as_user(user), "").await.unwrap_err();
            assert!(
                problem.ends_with(&format!("; correct sentinel_user and sentinel_password in the URL, and give this user of Sentinel's own the right {right}")),
                "{user}: {problem}"
            );
        }
        let problem = said(&url, "").await.unwrap_err();
        assert!(
            problem.ends_with(&format!("; name a user of Sentinel's own in the URL (?sentinel_user=…&sentinel_password=…) that has the right {right}")),
            "{problem}"
        );
        watched.servers[0]
            .call(&["ACL", "SETUSER", "gate", "+role"])
            .await;
        let (lines, _) = said(&as_user("asks"), SLOW).await.unwrap();
        assert_eq!(lines.lines().count(), 5, "{lines}");

        let at = watched.servers[0].address();
        let problem = said(&format!("redis+sentinel://{at}/{MASTER}"), "").await;
        let problem = problem.unwrap_err();
        assert!(
            problem.ends_with("; name Sentinels (their port is 26379 as a rule), or write redis:// for a server that none watches"),
            "{problem}"
        );
    }

    #[tokio::test]
    async fn what_cannot_work_says_why_and_what_to_do() {
        let mut server = Server::start().await;
        let replica = Server::with(Options::new().replica_of(&server)).await;
        replica.until_it_follows().await;
        let problem = said(&format!("redis://{}", replica.address()), "").await;
        let problem = problem.unwrap_err();
        assert!(
            problem.contains("takes no values (it is a replica); name the primary"),
            "{problem}"
        );

        let problem = said(&format!("redis+cluster://{}", server.address()), "").await;
        let problem = problem.unwrap_err();
        assert!(
            problem.ends_with(" cannot be used (it is no node of a cluster); write redis:// in shared.redis (with TLS rediss://)"),
            "{problem}"
        );
        let problem = said(&format!("redis://{}/99", server.address()), "").await;
        let problem = problem.unwrap_err();
        assert!(
            problem.ends_with("; name a database that it has (CONFIG GET databases), or none"),
            "{problem}"
        );

        let proxy = Proxy::to(server.address()).await;
        let at = format!("redis://{}", proxy.address());
        for (mode, why) in [
            (Mode::Swallow, "does not answer in time ("),
            (
                Mode::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
                "does not answer as Redis does (",
            ),
            (Mode::HalfThenCut, "does not answer as Redis does ("),
        ] {
            proxy.set(mode.clone());
            let problem = said(&at, "").await.unwrap_err();
            assert!(
                problem.contains(why) && problem.contains("; "),
                "{mode:?}: {problem}"
            );
        }

        let at = format!("redis://{}", server.address());
        server.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let problem = said(&at, "").await.unwrap_err();
        assert!(problem.contains("refused a value ("), "{problem}");

        server.kill();
        let problem = said(&at, "").await.unwrap_err();
        assert!(problem.contains("cannot be reached ("), "{problem}");
        assert!(
            problem.starts_with(&format!("shared.redis: {at} ")),
            "{problem}"
        );
    }

    #[tokio::test]
    async fn what_is_slow_or_may_lose_values_is_a_warning() {
        let server = Server::start().await;
        server.call(&["CONFIG", "SET", "maxmemory", "64mb"]).await;
        server
            .call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
            .await;
        let proxy = Proxy::to(server.address()).await;
        proxy.set(Mode::Delay(Duration::from_millis(20)));
        let at = format!("redis://{}", proxy.address());
        // Each round trip takes 20 ms at least, and nobody knows how much longer on a busy machine.
        let problem = said(&at, "timeout = \"30ms\"").await.unwrap_err();
        assert!(
            problem.starts_with("shared.timeout: \"30ms\" is less than two round trips to"),
            "{problem}"
        );
        let (lines, warnings) = said(&at, SLOW).await.unwrap();
        assert!(
            lines.ends_with("shared: maxmemory 65536 KiB, allkeys-lru"),
            "{lines}"
        );
        assert!(
            warnings.starts_with(
                "shared.redis: the server's maxmemory-policy is allkeys-lru, which may drop"
            ),
            "{warnings}"
        );
        // What is kept has a time to live, so these take it too, and before all else.
        for policy in [
            "volatile-ttl",
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "noeviction",
        ] {
            server
                .call(&["CONFIG", "SET", "maxmemory-policy", policy])
                .await;
            let warnings = said(&at, SLOW).await.unwrap().1;
            let what_to_do =
                "; set it to noeviction, or use a server of its own if others need this policy";
            match policy {
                "noeviction" => assert_eq!(warnings, ""),
                _ => assert!(
                    warnings.contains(policy) && warnings.ends_with(what_to_do),
                    "{warnings}"
                ),
            }
        }
    }

    #[tokio::test]
    async fn the_certificate_must_be_one_that_is_trusted() {
        let authority = Arc::new(Authority::new());
        let server = Server::with(Options::new().tls(&authority)).await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, authority: &Authority| {
            let path = folder.path().join(name);
            std::fs::write(&path, &authority.certificate).unwrap();
            format!("roots = {{ file = {:?} }}\n{SLOW}", Path::new(&path))
        };
        let (good, bad) = (
            file("good.pem", &authority),
            file("bad.pem", &Authority::new()),
        );
        let url = format!("rediss://localhost:{}", server.port());
        assert_works(&said(&url, &good).await.unwrap().0, &url);
        for (url, roots) in [(&url, &bad), (&url.replace("rediss", "redis"), &good)] {
            let problem = said(url, roots).await.unwrap_err();
            assert!(problem.contains("rediss://"), "{problem}");
        }
    }

    #[tokio::test]
    async fn sentinel_and_a_cluster_lead_to_the_server() {
        let watched = Watched::start(1).await;
        let nobody = Server::start().await;
        let at = format!("{},{}", nobody.address(), watched.addresses());
        let url = format!("redis+sentinel://{at}/{MASTER}");
        let (lines, warnings) = said(&url, SLOW).await.unwrap();
        assert_works(&lines, &url);
        assert!(
            warnings.starts_with(&format!(
                "shared.redis: {} cannot be used (",
                nobody.address()
            )),
            "{warnings}"
        );
        let problem = said(&format!("redis+sentinel://{at}/other"), "").await;
        let problem = problem.unwrap_err();
        assert!(problem.contains("; "), "{problem}");
        let problem = said(&format!("redis://{}", watched.addresses()), "").await;
        let problem = problem.unwrap_err();
        assert!(
            problem.contains(" cannot be used (it is a Sentinel); write redis+sentinel://"),
            "{problem}"
        );

        let user = format!("user gate on >{SECRET} ~revgate:* &revgate:* {RIGHTS}");
        let cluster = Cluster::with(Options::new().line(user), false).await;
        let url = format!("redis+cluster://{}", cluster.addresses());
        let (lines, warnings) = said(&url, SLOW).await.unwrap();
        assert_works(&lines, &url);
        assert!(lines.contains(", a primary in a cluster"), "{lines}");
        assert_eq!(warnings, "");
        // A node refuses a login to a database before it says what it is.
        for database in ["", "/3"] {
            let url = format!("redis://{}{database}", cluster.nodes[0].address());
            let problem = said(&url, "").await.unwrap_err();
            assert!(
                problem.ends_with(" cannot be used (it is a node of a cluster); write redis+cluster:// in shared.redis, without a database"),
                "{problem}"
            );
        }
        let limited = url.replace("://", &format!("://gate:{SECRET}@"));
        let rights: Vec<_> = crate::fleet::redis::cluster::RIGHTS.split(' ').collect();
        for needed in &rights {
            let without = needed.replacen('+', "-", 1);
            let fewer = [&rights[..], &[&*without]].concat();
            for (rights, works) in [(&fewer, false), (&rights, true)] {
                for node in &cluster.nodes {
                    let rule = [&["ACL", "SETUSER", "gate"], &rights[..]].concat();
                    node.call(&rule).await;
                }
                match said(&limited, SLOW).await {
                    Ok((lines, _)) if works => assert!(lines.contains("in a cluster"), "{lines}"),
                    Err(problem) if !works => {
                        assert!(problem.contains("denies what is needed"), "{problem}");
                    }
                    other => panic!("{rights:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn the_clock_is_told_as_information() {
        let shared = Plan::of(&config("redis://h", "")).unwrap().shared.unwrap();
        let line = |by: u64, is_ahead: bool| {
            let trial = Trial {
                server: crate::fleet::redis::facts::Server::default(),
                unusable: Vec::new(),
                times: vec![Duration::from_micros(300); 50],
                heard: true,
                clock: Offset {
                    by: Duration::from_millis(by),
                    is_ahead,
                    within: Duration::from_micros(150),
                },
                memory: Memory::Unlimited,
                lacks: Vec::new(),
            };
            told(&shared, &trial, Duration::ZERO, Duration::ZERO)[3].clone()
        };
        assert_eq!(
            line(0, true),
            "shared: its clock is that of this machine, to within 150 µs"
        );
        assert_eq!(
            line(3200, true),
            "shared: its clock is 3200 ms ahead of this machine's; the replicas go by that of Redis"
        );
        assert_eq!(
            line(0, false),
            "shared: its clock is that of this machine, to within 150 µs"
        );
        assert_eq!(
            line(7, false),
            "shared: its clock is 7.0 ms behind this machine's; the replicas go by that of Redis"
        );
    }

    #[test]
    fn the_rights_that_are_tried_are_those_of_the_guide() {
        let guide = include_str!("../../config/README.md");
        let rule = format!(
            "ACL SETUSER revgate on >PASSWORD resetkeys ~revgate:* resetchannels &revgate:* -@all {RIGHTS}\n"
        );
        assert!(guide.contains(&rule), "{rule}");
        let of_a_cluster = crate::fleet::redis::cluster::RIGHTS;
        for others in [
            of_a_cluster,
            sentinel::RIGHT,
            "+select",
            "+client|setname",
            "+role",
            "+info",
        ] {
            assert!(guide.contains(&format!("`{others}`")), "{others}");
        }
        let at_sentinel = sentinel::RIGHT;
        let rule = format!("ACL SETUSER revgate on >PASSWORD resetchannels -@all {at_sentinel}\n");
        assert!(guide.contains(&rule), "{rule}");
        assert!(!guide.contains("+hello"));
    }

    #[test]
    fn a_time_is_told_in_words_that_tell_something() {
        for (micros, want) in [
            (0, "0 µs"),
            (12, "12 µs"),
            (999, "999 µs"),
            (1000, "1.0 ms"),
            (1250, "1.2 ms"),
            (9940, "9.9 ms"),
            (50_000, "50 ms"),
        ] {
            assert_eq!(brief(Duration::from_micros(micros)), want);
        }
    }

    #[test]
    fn percentiles_are_of_times_that_were_seen() {
        let times: Vec<_> = (1..=50).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(25));
        assert_eq!(percentile(&times, 99), Duration::from_millis(50));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
