//! What Redis and this process do meanwhile.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::redis::Server;

/// Of a server since its start, or in a time; then what is counted is by the second.
pub struct Load {
    at: Instant,
    /// Round trips of exchanges, also those in vain.
    pub exchanges: f64,
    /// Seconds of CPU.
    redis: f64,
    here: f64,
    pub connections: u64,
}

impl Load {
    pub async fn of(server: &Server) -> Load {
        let number = async |name: &str| -> f64 {
            let line = server.info(name).await.unwrap_or_default();
            line.parse().unwrap_or_default()
        };
        let calls = server.call(&["INFO", "commandstats"]).await.text();
        let calls = calls
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
            .and_then(|line| line.split(',').next()?.parse().ok());
        let here = clock_gettime(ClockId::ProcessCPUTime);
        Load {
            at: Instant::now(),
            exchanges: calls.unwrap_or_default(),
            redis: number("used_cpu_user").await + number("used_cpu_sys").await,
            here: here.tv_sec as f64 + here.tv_nsec as f64 / 1e9,
            connections: number("connected_clients").await as u64,
        }
    }

    pub fn since(&self, before: &Load) -> Load {
        let seconds = (self.at - before.at).max(Duration::from_millis(1));
        let seconds = seconds.as_secs_f64();
        Load {
            at: self.at,
            exchanges: (self.exchanges - before.exchanges) / seconds,
            redis: (self.redis - before.redis) / seconds,
            here: (self.here - before.here) / seconds,
            connections: self.connections,
        }
    }

    /// Of one core, by Redis.
    pub fn cpu(&self) -> String {
        format!("{:.1}", self.redis * 100.0)
    }

    /// Of one core, by this process.
    pub fn cpu_here(&self) -> String {
        format!("{:.0}", self.here * 100.0)
    }
}
