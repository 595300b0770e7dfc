//! Tries the addresses of a name, and takes the first that connects (RFC 8305 section 5).

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    task::Poll,
};

use tokio::time::timeout;

use crate::policy::addresses::ATTEMPT_DELAY;

/// What came of the addresses if none connected: an error, or nothing before another address was tried in its place.
#[derive(Debug, thiserror::Error)]
pub(super) struct NoneConnected<E>(Vec<(SocketAddr, Option<E>)>);

impl<E: fmt::Display> fmt::Display for NoneConnected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the name has no address");
        }
        for (number, (address, error)) in self.0.iter().enumerate() {
            let before = if number == 0 { "" } else { "; " };
            write!(f, "{before}{address}: ")?;
            match error {
                Some(error) => error.fmt(f)?,
                None => f.write_str("no answer yet when another was tried")?,
            }
        }
        Ok(())
    }
}

/// The first success of `attempt`. The next address is tried when an attempt has failed, and at the latest when the newest has been under
/// way for [`ATTEMPT_DELAY`]. Each attempt has a socket: of more than `at_once`, the oldest is given up. When one has succeeded, the others
/// are dropped.
pub(super) async fn first_to_connect<T, E, F>(
    addresses: Vec<SocketAddr>,
    at_once: usize,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, NoneConnected<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter();
    let mut racing = VecDeque::new();
    let mut failures = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => {
                if racing.len() >= at_once.max(1)
                    && let Some((oldest, _)) = racing.pop_front()
                {
                    failures.push((oldest, None));
                }
                racing.push_back((address, Box::pin(attempt(address))));
            }
            None if racing.is_empty() => return Err(NoneConnected(failures)),
            None => {}
        }
        let ended = match waiting.len() {
            0 => Some(next_to_end(&mut racing).await),
            _ => timeout(ATTEMPT_DELAY, next_to_end(&mut racing)).await.ok(),
        };
        match ended {
            Some((_, Ok(connected))) => return Ok(connected),
            Some((address, Err(error))) => failures.push((address, Some(error))),
            None => {}
        }
    }
}

/// Takes the attempt that ends next out of those that are under way. There must be one.
async fn next_to_end<F: Future>(
    racing: &mut VecDeque<(SocketAddr, Pin<Box<F>>)>,
) -> (SocketAddr, F::Output) {
    poll_fn(|cx| {
        for at in 0..racing.len() {
            let (address, attempt) = &mut racing[at];
            if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
                let address = *address;
                racing.remove(at);
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
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

    /// With two sockets at once.
    const NARROW_RACES: &[(&str, &[u64], &str)] = &[
        (". . . +100", &[0, 250, 500, 750], "3 at 850"),
        ("+400 +600 .", &[0, 250], "0 at 400"),
        // The first would have connected at 600.
        ("+600 -300 +900", &[0, 250, 500], "2 at 1400"),
        (". -300 -400", &[0, 250, 500], "none at 900"),
    ];

    #[tokio::test(start_paused = true)]
    async fn the_first_that_connects_wins() {
        let wide = RACES.iter().map(|race| (8, race));
        let narrow = NARROW_RACES.iter().map(|race| (2, race));
        for (at_once, (fates, begins, outcome)) in wide.chain(narrow) {
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
            let addresses = (0..fates.len()).map(address).collect();
            let won = first_to_connect(addresses, at_once, attempt).await;
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
        let failed = NoneConnected(vec![(address(1), Some("refused")), (address(2), None)]);
        assert_eq!(
            failed.to_string(),
            "10.0.0.1:1: refused; 10.0.0.1:2: no answer yet when another was tried"
        );
    }
}
