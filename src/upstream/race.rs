//! Tries the addresses of a name, and takes the first that connects (RFC 8305 section 5).

use std::{fmt, net::SocketAddr};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use crate::policy::addresses::ATTEMPT_DELAY;

/// What came of the addresses if none connected.
#[derive(Debug, thiserror::Error)]
pub(super) struct NoneConnected<E>(Vec<(SocketAddr, E)>);

impl<E: fmt::Display> fmt::Display for NoneConnected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the name has no address");
        }
        for (number, (address, error)) in self.0.iter().enumerate() {
            let before = if number == 0 { "" } else { "; " };
            write!(f, "{before}{address}: {error}")?;
        }
        Ok(())
    }
}

/// The first success of `attempt`. The next address is tried when an attempt has failed, and at the latest when the newest has been under
/// way for [`ATTEMPT_DELAY`]. When one has succeeded, the others are dropped.
pub(super) async fn first_to_connect<T, E, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, NoneConnected<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter();
    let mut racing = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => {
                let attempt = attempt(address);
                racing.push(async move { (address, attempt.await) });
            }
            None if racing.is_empty() => return Err(NoneConnected(failures)),
            None => {}
        }
        let ended = match waiting.len() {
            0 => racing.next().await,
            _ => timeout(ATTEMPT_DELAY, racing.next()).await.unwrap_or(None),
        };
        match ended {
            Some((_, Ok(connected))) => return Ok(connected),
            Some((address, Err(error))) => failures.push((address, error)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::*;

    /// What becomes of the attempts: address by address, after so many milliseconds it connects (`+`) or fails (`-`); `.` never ends.
    /// Then when each begins, and when which one wins.
    const RACES: &[(&str, &[u64], &str)] = &[
        ("+10", &[0], "0 at 10"),
        ("-10", &[0], "none at 10"),
        (".  +10", &[0, 250], "1 at 260"),
        ("-10 +10", &[0, 10], "1 at 20"),
        ("-0 -0 -0 +5", &[0, 0, 0, 0], "3 at 5"),
        (". . . +100", &[0, 250, 500, 750], "3 at 850"),
        // A slow one wins over a later one that is slower still.
        ("+400 +300", &[0, 250], "0 at 400"),
        ("+600 +300", &[0, 250], "1 at 550"),
        // A failure starts the next at once, whichever attempt it is.
        ("-300 . +10", &[0, 250, 300], "2 at 310"),
        (". -100 . +10", &[0, 250, 350, 600], "3 at 610"),
        ("-700 -100 -100", &[0, 250, 350], "none at 700"),
        ("", &[], "none at 0"),
    ];

    #[tokio::test(start_paused = true)]
    async fn the_first_that_connects_wins() {
        for (fates, begins, outcome) in RACES {
            let fates: Vec<&str> = fates.split_whitespace().collect();
            let address = |number: usize| SocketAddr::from(([10, 0, 0, 0], number as u16));
            let start = Instant::now();
            let began = RefCell::new(Vec::new());
            let attempt = |address: SocketAddr| {
                let elapsed = start.elapsed().as_millis() as u64;
                began.borrow_mut().push(elapsed);
                let number = usize::from(address.port());
                let fate = fates[number];
                async move {
                    let (how, after) = fate.split_at(1);
                    match after.parse().map(Duration::from_millis) {
                        Ok(after) => sleep(after).await,
                        Err(_) => std::future::pending().await,
                    }
                    if how == "+" { Ok(number) } else { Err("no") }
                }
            };
            let won = first_to_connect((0..fates.len()).map(address).collect(), attempt).await;
            let at = start.elapsed().as_millis();
            let found = match won {
                Ok(number) => format!("{number} at {at}"),
                Err(NoneConnected(failures)) => {
                    assert_eq!(failures.len(), fates.len(), "{fates:?}");
                    format!("none at {at}")
                }
            };
            assert_eq!(
                (found.as_str(), &**began.borrow()),
                (*outcome, *begins),
                "{fates:?}"
            );
        }
    }

    #[test]
    fn every_address_is_named() {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let failed = NoneConnected(vec![(address(1), "refused"), (address(2), "gone")]);
        assert_eq!(failed.to_string(), "10.0.0.1:1: refused; 10.0.0.1:2: gone");
    }
}
