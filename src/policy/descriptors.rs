//! How the descriptors that the process may open are divided, so that clients never take those with which the rest works.

use super::addresses::MAX_ADDRESSES;

/// What is open at rest, with a thread that exports spans: runtimes, signals, listeners and standard streams. A test compares it with a
/// running gateway.
pub const AT_REST: usize = 20;

/// A worker's runtime, its listener, and a connection that it has accepted and for which there is no place yet.
pub const PER_WORKER: usize = 6;

/// For what is open now and then: the files of a reload, a fetch of keys, an export of spans, a scrape, a message to the service manager,
/// and what has just ended and is about to be closed.
pub const SPARE: usize = 10;

/// While it connects: a look-up of a name, or sockets to two addresses. To more, if there is more; see [`sockets_per_connect`].
pub const PER_LANE: usize = 2;

/// Sockets that a connect to anything else than DevRev has at once: a fetch of keys and an export of spans fit into [`SPARE`].
pub const PER_OTHER_CONNECT: usize = 4;

const LEAST_CLIENTS: usize = 4;
const LEAST_ADMIN: usize = 2;

/// The connections that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    pub clients: usize,
    /// To DevRev, of all workers together.
    pub upstream: usize,
    pub admin: usize,
}

/// The least limit with which a gateway works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    pub least: usize,
}

/// The descriptors that these connections need, with all else.
pub fn needed(wished: Connections, workers: usize) -> usize {
    let upstream = on_workers(wished.upstream, workers);
    let connections = wished.clients + wished.admin + upstream * PER_LANE;
    connections.saturating_add(fixed(workers))
}

/// How many there are if each worker has as many as the others.
fn on_workers(upstream: usize, workers: usize) -> usize {
    upstream.div_ceil(workers.max(1)).saturating_mul(workers)
}

fn fixed(workers: usize) -> usize {
    AT_REST + SPARE + workers * PER_WORKER
}

/// As much of what is wished as the limit allows. Connections to DevRev get a third at least, because without them no others are of use;
/// what they do not need is for clients. Each worker has as many of them as the others.
///
/// # Errors
/// If the limit is too low.
pub fn divide(limit: usize, wished: Connections, workers: usize) -> Result<Connections, TooFew> {
    let workers = workers.max(1);
    let minimum = LEAST_ADMIN + LEAST_CLIENTS + workers * PER_LANE;
    let fixed = fixed(workers);
    let too_few = TooFew {
        least: fixed + minimum,
    };
    let available = limit.checked_sub(fixed).ok_or(too_few)?;
    let beyond = available.checked_sub(minimum).ok_or(too_few)?;
    if needed(wished, workers) <= limit {
        return Ok(wished);
    }
    let admin = (available / 8).clamp(LEAST_ADMIN, LEAST_ADMIN + beyond);
    let admin = admin.min(wished.admin);
    let rest = available - admin;
    let for_upstream = (rest / 3).max(rest.saturating_sub(wished.clients));
    let per_worker = (for_upstream / PER_LANE / workers).max(1);
    let upstream = wished.upstream.min(per_worker * workers);
    let upstream_needs = on_workers(upstream, workers) * PER_LANE;
    let clients = wished.clients.min(rest - upstream_needs);
    Ok(Connections {
        clients,
        upstream,
        admin,
    })
}

/// To how many addresses of DevRev's a connect may have sockets at once, so that all connects together fit below the limit.
pub fn sockets_per_connect(limit: usize, found: Connections, workers: usize) -> usize {
    let others = fixed(workers.max(1)) + found.clients + found.admin;
    let of_each = limit.saturating_sub(others) / found.upstream.max(1);
    of_each.clamp(PER_LANE, MAX_ADDRESSES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Connections = Connections {
        clients: 1024,
        upstream: 64,
        admin: 64,
    };

    fn of(clients: usize, upstream: usize, admin: usize) -> Connections {
        Connections {
            clients,
            upstream,
            admin,
        }
    }

    #[test]
    fn limits_that_are_common() {
        let least = |least| Err(TooFew { least });
        for (limit, workers, want) in [
            (16, 1, least(44)),
            (43, 1, least(44)),
            (44, 1, Ok(of(4, 1, 2))),
            (64, 1, Ok(of(17, 4, 3))),
            (64, 2, Ok(of(16, 2, 2))),
            (51, 2, least(52)),
            (256, 1, Ok(of(129, 32, 27))),
            (1024, 1, Ok(of(796, 64, 64))),
            (1252, 1, Ok(DEFAULT)),
            (1_048_576, 8, Ok(DEFAULT)),
        ] {
            let found = divide(limit, DEFAULT, workers);
            assert_eq!(found, want, "{limit} with {workers} workers");
        }
        for (limit, want) in [
            (44, 2),
            (64, 2),
            (1252, 2),
            (1400, 4),
            (1636, 8),
            (1_048_576, 8),
            (usize::MAX, 8),
        ] {
            let found = divide(limit, DEFAULT, 1).expect("enough");
            assert_eq!(sockets_per_connect(limit, found, 1), want, "{limit}");
        }
        // What clients do not want is for connections to DevRev, and the other way round.
        assert_eq!(divide(256, of(10, 500, 64), 1), Ok(of(10, 91, 27)));
        assert_eq!(divide(256, of(1000, 2, 64), 1), Ok(of(189, 2, 27)));
        // Each of 8 workers has one.
        assert_eq!(divide(256, of(1000, 2, 64), 8), Ok(of(140, 2, 22)));
    }

    proptest! {
        #[test]
        fn it_fits_leaves_enough_to_each_and_is_stable(
            limit in 0..5000usize,
            clients in 1..5000usize,
            upstream in 1..2000usize,
            workers in 1..65usize,
        ) {
            let wished = of(clients, upstream, 64);
            let Ok(found) = divide(limit, wished, workers) else {
                let least = divide(0, wished, workers).unwrap_err().least;
                prop_assert!(limit < least);
                return Ok(());
            };
            prop_assert!(needed(found, workers) <= limit, "{:?}", found);
            let connecting = found.upstream * sockets_per_connect(limit, found, workers);
            prop_assert!(fixed(workers) + found.clients + found.admin + connecting <= limit);
            prop_assert!(found.clients <= clients && found.clients >= clients.min(LEAST_CLIENTS));
            prop_assert!(found.upstream <= upstream && found.upstream >= upstream.min(workers));
            prop_assert!((LEAST_ADMIN..=64).contains(&found.admin));
            // A reload divides what is divided already.
            let again = of(found.clients, found.upstream, 64);
            let again = divide(limit, again, workers).expect("the same limit");
            prop_assert_eq!((again.clients, again.upstream), (found.clients, found.upstream));
            // More descriptors take nothing away.
            let more = divide(limit + 1, wished, workers).expect("a higher limit");
            prop_assert!(more.upstream >= found.upstream);
        }
    }
}
