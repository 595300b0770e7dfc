//! What becomes of a window's units at the present rate.
//!
//! Units that are first come, first served are used up at the rate at which they are spent. Then the rest is spread to the window's end,
//! so that revgate's own attempts never use it up before. Only units taken outside revgate can.

use std::time::Duration;

/// What is known of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Units left.
    pub remaining: f64,
    /// Those of them that are first come, first served.
    pub first_come: f64,
    /// Whether something is left to be spread when those are used up.
    pub spreads: bool,
    /// Units spent per second, also outside revgate.
    pub rate: f64,
    /// Units taken per second outside revgate.
    pub external_rate: f64,
    pub ends_in: Duration,
}

/// What is expected before the window's end; both are `None` if it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Forecast {
    /// From when on the rest is spread.
    pub spreads_in: Option<Duration>,
    /// When no unit is left.
    pub runs_out_in: Option<Duration>,
}

impl Outlook {
    pub(super) fn forecast(&self) -> Forecast {
        let lasts = |units: f64, rate: f64| {
            let time = Duration::try_from_secs_f64(units / rate).ok();
            time.filter(|time| rate > 0.0 && *time < self.ends_in)
        };
        if !self.spreads {
            return Forecast {
                spreads_in: None,
                runs_out_in: lasts(self.remaining, self.rate),
            };
        }
        Forecast {
            spreads_in: lasts(self.first_come, self.rate).filter(|_| self.first_come > 0.0),
            // Of what is spread, revgate takes only what the others leave.
            runs_out_in: lasts(self.remaining, self.external_rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(first_come: f64, spreads: bool, rate: f64, external_rate: f64) -> (f64, f64) {
        let outlook = Outlook {
            remaining: 600.0,
            first_come,
            spreads,
            rate,
            external_rate,
            ends_in: Duration::from_secs(120),
        };
        let found = outlook.forecast();
        let seconds = |time: Option<Duration>| time.map_or(-1.0, |time| time.as_secs_f64());
        (seconds(found.spreads_in), seconds(found.runs_out_in))
    }

    const NEVER: f64 = -1.0;

    #[test]
    fn what_is_spread_lasts_to_the_end() {
        // Idle, slow, and fast: the first come part is used up, the rest lasts.
        assert_eq!(forecast(300.0, true, 0.0, 0.0), (NEVER, NEVER));
        assert_eq!(forecast(300.0, true, 2.0, 0.0), (NEVER, NEVER));
        assert_eq!(forecast(300.0, true, 30.0, 0.0), (10.0, NEVER));
        // It is spread already: whatever the rate was, it is not used up.
        assert_eq!(forecast(0.0, true, 100.0, 0.0), (NEVER, NEVER));
    }

    #[test]
    fn what_is_not_spread_runs_out() {
        assert_eq!(forecast(600.0, false, 4.0, 0.0), (NEVER, NEVER));
        assert_eq!(forecast(600.0, false, 30.0, 0.0), (NEVER, 20.0));
    }

    #[test]
    fn others_can_use_up_what_is_spread() {
        assert_eq!(forecast(0.0, true, 12.0, 10.0), (NEVER, 60.0));
        assert_eq!(forecast(0.0, true, 5.0, 4.0), (NEVER, NEVER));
        assert_eq!(forecast(300.0, true, 30.0, 20.0), (10.0, 30.0));
    }
}
