//! The limit on open files: raised as far as it goes, and connections bounded to what fits below it.

use procfs::process::{LimitValue, Process};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    admin,
    config::{Config, Problem, Problems},
    event::Event,
    policy::{
        addresses::MAX_ADDRESSES,
        descriptors::{Connections, TooFew, divide, needed, sockets_per_connect},
    },
};

/// Raises the soft limit to the hard one. A low soft limit is for programs that use select(2).
pub(crate) fn raise() {
    let Some((soft, hard)) = limits() else {
        return;
    };
    if soft >= hard {
        return;
    }
    let hard = (hard != usize::MAX).then_some(hard as u64);
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(event = Event::DescriptorsNotRaised.label(), %error, "the limit on open files could not be raised");
    }
}

/// The soft and the hard limit; `None` without a readable /proc.
fn limits() -> Option<(usize, usize)> {
    let limits = Process::myself().ok()?.limits().ok()?;
    let value = |limit| match limit {
        LimitValue::Unlimited => usize::MAX,
        LimitValue::Value(most) => usize::try_from(most).unwrap_or(usize::MAX),
    };
    let files = limits.max_open_files;
    Some((value(files.soft_limit), value(files.hard_limit)))
}

/// What fits below the limit, beside the connections that have a key.
pub(crate) struct Fitting {
    pub admin_connections: usize,
    /// Of a connect to DevRev.
    pub sockets_per_connect: usize,
}

/// Lowers the connections in `config` to what fits, with a warning for each key.
///
/// # Errors
/// If the limit is so low that no gateway works with it.
pub(crate) fn fit(config: &mut Config) -> Result<Fitting, Problems> {
    let Some((soft, _)) = limits() else {
        return Ok(Fitting {
            admin_connections: admin::MAX_CONNECTIONS,
            sockets_per_connect: MAX_ADDRESSES,
        });
    };
    let fitting = divided(soft, config)?;
    config.warnings.extend(warnings(soft, config, fitting));
    config.listen.max_connections = fitting.clients;
    config.upstream.max_connections = fitting.upstream;
    Ok(Fitting {
        admin_connections: fitting.admin,
        sockets_per_connect: sockets_per_connect(soft, fitting, config.listen.workers),
    })
}

/// What [`fit`] would say about `config` in a process with the limits of this one.
pub(crate) fn check(config: &Config) -> Vec<Problem> {
    let Some((_, hard)) = limits() else {
        return Vec::new();
    };
    match divided(hard, config) {
        Ok(fitting) => warnings(hard, config, fitting),
        Err(Problems(problems)) => problems,
    }
}

fn wished(config: &Config) -> Connections {
    Connections {
        clients: config.listen.max_connections,
        upstream: config.upstream.max_connections,
        admin: admin::MAX_CONNECTIONS,
    }
}

const RAISE: &str = "`ulimit -n`, or LimitNOFILE= in a unit of systemd";

fn divided(limit: usize, config: &Config) -> Result<Connections, Problems> {
    let workers = config.listen.workers;
    divide(limit, wished(config), workers).map_err(|TooFew { least }| {
        let message = format!(
            "the limit on open files is {limit}, and revgate needs {least} at least with listen.workers = {workers}; raise it: {RAISE}"
        );
        Problem::new("", message).into()
    })
}

fn warnings(limit: usize, config: &Config, fitting: Connections) -> Vec<Problem> {
    let wished = wished(config);
    let needed = needed(wished, config.listen.workers);
    let warning = |path: &str, what: &str, wished: usize, fitting: usize| {
        let message = format!(
            "is too many: all connections need {needed} open files, and the limit is {limit}; only {fitting} {what} are open at once. \
             Raise the limit ({RAISE}), or lower this key"
        );
        (fitting < wished).then(|| config.problem(path, message))
    };
    let clients = (wished.clients, fitting.clients);
    let upstream = (wished.upstream, fitting.upstream);
    let both = [
        warning(
            "listen.max_connections",
            "connections of clients",
            clients.0,
            clients.1,
        ),
        warning(
            "upstream.max_connections",
            "connections to DevRev",
            upstream.0,
            upstream.1,
        ),
    ];
    both.into_iter().flatten().collect()
}
