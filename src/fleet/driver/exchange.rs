//! One exchange: a statement, the one function on the pool, and a value that replaces the one that it was made of.
//!
//! The last value that was seen is kept. As a rule nobody else has written meanwhile, and one exchange with the register is enough.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::Driver;
use crate::{
    fleet::register::{Exchanged, Failure, Fault, Found, Key, Tag, Write},
    policy::fleet::{MAX_REPLICAS, Pool, Reply, Statement, Timing, ValueFault},
    random,
    state::quota::Group,
    telemetry::{
        labels::{ExchangeResult, Lost, Sharing},
        shared::{GroupStatus, Standing},
    },
};

/// Those of one group.
pub(super) struct Exchanges<'a> {
    driver: &'a Driver,
    name: &'a Arc<str>,
    key: Key,
    seen: Option<Seen>,
    listens: bool,
}

/// What is in the register, as far as is known.
struct Seen {
    tag: Option<Tag>,
    pool: Pool,
    /// Of this process, before the register was asked.
    at: Duration,
    /// By the register's clock, when it answered.
    register: Duration,
}

impl<'a> Exchanges<'a> {
    pub(super) fn new(driver: &'a Driver, name: &'a Arc<str>) -> Exchanges<'a> {
        Exchanges {
            driver,
            name,
            key: driver.parts.names.of_group(name),
            seen: None,
            listens: false,
        }
    }

    /// States where this replica stands, and takes the reply.
    pub(super) async fn exchange(
        &mut self,
        group: &Arc<Group>,
        status: &GroupStatus,
    ) -> Result<(), Failure> {
        self.listen(group);
        let began = Instant::now();
        let Some((mut statement, at)) = group.statement() else {
            return Ok(());
        };
        let purses = self.driver.purses.get();
        statement.wants = purses.map_or_else(Vec::new, |purses| purses.statement(self.name));
        let timeout = self.driver.parts.timeout;
        let mut overtaken = 0;
        // Together, however often others are faster.
        let converging = self.converge(&statement, status, &mut overtaken);
        let replied = timeout_at(began + timeout, converging).await;
        let replied = replied.unwrap_or_else(|_| {
            let within = timeout.as_millis();
            Err(match overtaken {
                0 => Failure::new(Fault::TimedOut, format!("no answer within {within} ms")),
                times => Failure::new(
                    Fault::Overtaken,
                    format!("others were faster {times} times within {within} ms"),
                ),
            })
        });
        let result = match &replied {
            Ok(_) => ExchangeResult::Ok,
            Err(failure) => failure.fault.into(),
        };
        self.driver.parts.status.exchanged(result, began.elapsed());
        // What was seen is kept: if it is not there any more the next exchange is told what is.
        let (reply, round_trip) = replied?;
        let Some(seen) = &self.seen else {
            return Ok(());
        };
        let timing = Timing {
            began: at,
            round_trip,
        };
        group.hear(&reply, &seen.pool, timing);
        if let Some(purses) = purses {
            purses.apply(self.name, &reply.sales);
            purses.set_alone(self.name, false);
        }
        tell(group, status, &reply, &seen.pool);
        Ok(())
    }

    /// Writes what the pool is with this statement, over what is there. Also returns how long the last message and its answer took. Counts
    /// how often others were faster.
    async fn converge(
        &mut self,
        statement: &Statement,
        status: &GroupStatus,
        overtaken: &mut u32,
    ) -> Result<(Reply, Duration), Failure> {
        let parts = &self.driver.parts;
        let mut begins_anew = false;
        loop {
            let now = parts.clock.now();
            let Some(seen) = &mut self.seen else {
                let found = parts.register.exchange(&self.key, None).await?;
                self.see(found, now, status);
                continue;
            };
            let mut pool = seen.pool.clone();
            let register = seen.register.saturating_add(now.saturating_sub(seen.at));
            let reply = pool.sync(statement, register);
            if reply.is_full {
                let reason = format!("{MAX_REPLICAS} other replicas share this group already");
                return Err(Failure::new(Fault::Full, reason));
            }
            let value = match pool.to_bytes() {
                Ok(value) => value,
                Err(fault @ ValueFault::Unreadable) if !begins_anew => {
                    // It was made of what somebody else has written.
                    status.unreadable(&fault.to_string());
                    seen.pool = Pool::default();
                    begins_anew = true;
                    continue;
                }
                Err(fault) => {
                    let reason = format!("the value cannot be kept: {fault}");
                    return Err(Failure::new(Fault::Refused, reason));
                }
            };
            let tag = Tag(random::id64());
            let write = Write {
                over: seen.tag,
                tag,
                value: Bytes::from(value),
                keep: pool.kept_for(reply.now),
                hint: Bytes::from(reply.hint.to_bytes()),
            };
            match parts.register.exchange(&self.key, Some(write)).await? {
                Exchanged::Written { now: register } => {
                    self.seen = Some(Seen {
                        tag: Some(tag),
                        pool,
                        at: now,
                        register,
                    });
                    return Ok((reply, parts.clock.now().saturating_sub(now)));
                }
                found @ Exchanged::Found(_) => {
                    *overtaken += 1;
                    parts
                        .status
                        .exchanged(ExchangeResult::Conflict, Duration::ZERO);
                    self.see(found, now, status);
                }
            }
        }
    }

    /// There is nothing to say for now. What was seen is old by the next time, and of many replicas it is large.
    pub(super) fn rest(&mut self) {
        self.seen = None;
    }

    fn see(&mut self, exchanged: Exchanged, at: Duration, status: &GroupStatus) {
        let Exchanged::Found(Found { current, now }) = exchanged else {
            return;
        };
        let (tag, value) = current.unzip();
        let pool = match value {
            None => Pool::default(),
            Some(value) => Pool::from_bytes(&value).unwrap_or_else(|fault| {
                status.unreadable(&fault.to_string());
                Pool::default()
            }),
        };
        self.seen = Some(Seen {
            tag,
            pool,
            at,
            register: now,
        });
    }

    fn listen(&mut self, group: &Arc<Group>) {
        if !std::mem::replace(&mut self.listens, true) {
            let mut listening = self.driver.listening.lock();
            listening.insert(self.key.clone(), Arc::downgrade(group));
            drop(listening);
            self.driver.parts.register.listen(&self.key);
        }
    }

    /// The group is no more.
    pub(super) fn forget(self) {
        let mut listening = self.driver.listening.lock();
        // Another one may have its name by now.
        let is_gone = |group: &std::sync::Weak<Group>| group.strong_count() == 0;
        if listening.get(&self.key).is_some_and(is_gone) {
            listening.remove(&self.key);
            drop(listening);
            self.driver.parts.register.forget(&self.key);
        }
    }
}

/// Tells operators how the group stands.
fn tell(group: &Group, status: &GroupStatus, reply: &Reply, pool: &Pool) {
    if let Some(is_gone) = reply.lost {
        status.lost(if is_gone { Lost::Gone } else { Lost::Older });
    }
    let sharing = if reply.keeps[0] {
        Sharing::Plenty
    } else {
        Sharing::Scarce
    };
    status.stands(Standing {
        sharing,
        replicas: reply.replicas,
        free: pool.ledger().free(),
        leased: reply.leased_in_all,
        limbo: reply.limbo,
        waiting: group.waiting_in_fleet(),
    });
    let without_room = reply.sales.iter().filter(|sale| !sale.has_room).count();
    if without_room > 0 {
        status.no_room(without_room as u64);
    }
    status.joined();
}
