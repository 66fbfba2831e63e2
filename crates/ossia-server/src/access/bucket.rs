//! A bucket that fills evenly to what a minute allows. It may be overdrawn, since how long an answer gets is known
//! only afterwards; then nothing is given until it has filled up again.

use std::time::{Duration, Instant};

/// What is left of a limit per minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    per_minute: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(per_minute: u64, now: Instant) -> Self {
        Self { per_minute: per_minute as f64, level: per_minute as f64, at: now }
    }

    /// The same level under another limit.
    pub(super) fn set_limit(&mut self, per_minute: u64, now: Instant) {
        let level = self.level(now).min(per_minute as f64);
        *self = Self { per_minute: per_minute as f64, level, at: now };
    }

    /// What could be taken now; below zero if the bucket is overdrawn.
    pub(super) fn level(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + seconds * self.per_minute / 60.0).min(self.per_minute)
    }

    /// Takes, whether or not there is enough.
    pub(super) fn take(&mut self, amount: u64, now: Instant) {
        (self.level, self.at) = (self.level(now) - amount as f64, now);
    }

    /// How long until one can be taken; zero if one can be taken now.
    pub(super) fn wait_for_one(&self, now: Instant) -> Duration {
        self.wait_for(1.0, now)
    }

    /// How long until the bucket is full.
    pub(super) fn wait_for_all(&self, now: Instant) -> Duration {
        self.wait_for(self.per_minute, now)
    }

    fn wait_for(&self, level: f64, now: Instant) -> Duration {
        let missing = (level - self.level(now)).max(0.0);
        Duration::from_secs_f64(missing * 60.0 / self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_evenly_and_never_over() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(60, start);
        assert_eq!(bucket.level(after(600)), 60.0);
        bucket.take(60, start);
        assert_eq!(bucket.wait_for_one(start), Duration::from_secs(1));
        assert_eq!(bucket.level(after(30)), 30.0);
        assert_eq!(bucket.wait_for_one(after(1)), Duration::ZERO);
        assert_eq!(bucket.wait_for_all(after(10)), Duration::from_secs(50));
    }

    #[test]
    fn an_overdraft_is_paid_back_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(600, start);
        bucket.take(1200, start);
        assert_eq!(bucket.level(start), -600.0);
        assert_eq!(bucket.wait_for_one(start), Duration::from_secs_f64(60.1));
        bucket.set_limit(1200, start);
        assert_eq!(bucket.wait_for_one(start), Duration::from_secs_f64(601.0 / 20.0));
    }
}
