//! How a replica exchanges, as the driver does it: when that is due, until it is written or takes too long.

use std::{rc::Rc, sync::Arc, time::Duration};

use super::{
    super::{Pool, Reply, Statement, Timing, orders},
    RULES, TIMEOUT,
    register::Tagged,
    run::{Answer, Event, Fleet, Write},
};

/// Alone, it asks for the register again after this time, and then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

pub(super) struct Exchange {
    number: u64,
    /// The number of the message that it sent last.
    message: u64,
    statement: Statement,
    began: Duration,
    /// When that message was sent.
    asked: Duration,
    /// Whether another replica was faster.
    overtaken: bool,
    /// What it tries to write, and the answer if that succeeds. Nothing while it reads.
    tries: Option<(Tagged, Reply)>,
}

impl Fleet {
    /// Begins an exchange if one is due, or says when it is.
    pub(super) fn exchange(&mut self, index: usize) -> Option<Duration> {
        let replica = &mut self.replicas[index];
        if replica.exchange.is_some() {
            return None;
        }
        let now = replica.own(self.now);
        let claimed = replica.ledger.in_flight() + replica.ledger.in_doubt() > 0;
        let waits = !replica.queue.is_empty();
        let lease = replica.ledger.supply()?;
        // Alone it asks on until it is heard.
        let due = if lease.is_alone() {
            replica.retry_at.max(now)
        } else {
            lease.due(waits, claimed, now)?
        };
        if due > now {
            return Some(due);
        }
        let waiting = orders(&replica.queue, Arc::clone, now);
        let statement = replica.ledger.state(waiting, RULES, now)?;
        replica.exchanges += 1;
        let number = replica.exchanges;
        if let Some((value, own, register)) = replica.cached.clone() {
            let found = (Some(value), register + (now - own));
            self.try_write(index, number, (statement, now, false), found);
        } else {
            self.ask(index, number, (statement, now, false), None, None);
        }
        self.after(TIMEOUT, Event::Answered(index, number, None));
        None
    }

    fn try_write(
        &mut self,
        index: usize,
        number: u64,
        (statement, began, overtaken): (Statement, Duration, bool),
        (over, register): (Option<Tagged>, Duration),
    ) {
        let mut pool = match &over {
            Some((_, pool)) => Pool::clone(pool),
            None => Pool::default(),
        };
        let reply = pool.sync(&statement, register);
        let value = (self.dice.next(), Rc::new(pool));
        let over = over.map(|(tag, _)| tag);
        self.ask(
            index,
            number,
            (statement, began, overtaken),
            over,
            Some((value, reply)),
        );
    }

    /// Asks the register to write this over that, or reads.
    fn ask(
        &mut self,
        index: usize,
        number: u64,
        (statement, began, overtaken): (Statement, Duration, bool),
        over: Option<u64>,
        tries: Option<(Tagged, Reply)>,
    ) {
        let (value, hint) = tries
            .clone()
            .map(|(value, reply)| (value, reply.hint))
            .unzip();
        let message = self.number();
        let write = Rc::new(Write {
            replica: index,
            number,
            message,
            over,
            value,
            hint: hint.unwrap_or_default(),
        });
        self.replicas[index].exchange = Some(Exchange {
            number,
            message,
            statement,
            began,
            asked: self.now,
            overtaken,
            tries,
        });
        self.message(index, || Event::Asked(write.clone()));
    }

    pub(super) fn answered(&mut self, index: usize, number: u64, answer: Option<(u64, Answer)>) {
        if self.is_away(index, || Event::Answered(index, number, answer.clone())) {
            return;
        }
        let replica = &mut self.replicas[index];
        let now = replica.own(self.now);
        // A message that came twice is answered twice.
        let is_it = |exchange: &mut Exchange| {
            let message = answer.as_ref().map(|(message, _)| *message);
            exchange.number == number && message.is_none_or(|message| exchange.message == message)
        };
        let Some(exchange) = replica.exchange.take_if(is_it) else {
            return;
        };
        let answer = answer.map(|(_, answer)| answer);
        match answer {
            None => {
                // Whether it was written is not known. If it was, what is cached is told to be old.
                let Some(lease) = replica.ledger.supply_mut() else {
                    unreachable!("it is one of a fleet");
                };
                if !(exchange.overtaken && lease.bears_being_overtaken(now)) {
                    lease.fail(now);
                    let times = replica.failures.min(5);
                    replica.retry_at = now + (FIRST_RETRY * 2_u32.pow(times)).min(LAST_RETRY);
                    replica.failures += 1;
                }
            }
            Some(Answer::Written(register)) => {
                let Some((value, reply)) = exchange.tries else {
                    unreachable!("it was written");
                };
                replica.failures = 0;
                let timing = Timing {
                    began: exchange.began,
                    round_trip: self.now - exchange.asked,
                };
                replica.ledger.hear(&reply, &value.1, timing, now);
                replica.cached = Some((value, now, register));
            }
            Some(Answer::Found(found, register)) => {
                let overtaken = exchange.overtaken || exchange.tries.is_some();
                let statement = (exchange.statement, exchange.began, overtaken);
                self.try_write(index, number, statement, (found, register));
                return;
            }
        }
        self.wake(index);
    }
}
