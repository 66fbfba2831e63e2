//! What was used of a key's limits, and how answers tell it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::Bucket;
use super::{KeySpec, lock};
use crate::error::{ApiError, RateLimit};

/// What was used.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    num_running: u32,
}

impl State {
    /// The buckets under the limits of `spec`, which may have changed.
    fn fit(&mut self, spec: &KeySpec, now: Instant) {
        fit(&mut self.requests, spec.requests_per_minute.map(u64::from), now);
        fit(&mut self.tokens, spec.tokens_per_minute, now);
    }
}

fn fit(bucket: &mut Option<Bucket>, limit: Option<u64>, now: Instant) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.set_limit(limit, now),
        (None, Some(limit)) => *bucket = Some(Bucket::new(limit, now)),
        (_, None) => *bucket = None,
    }
}

impl Meters {
    /// Counts a request that begins, if there is room for it.
    ///
    /// # Errors
    /// 429 for the limit that is reached.
    pub(super) fn begin(&self, spec: &KeySpec, now: Instant) -> Result<(), ApiError> {
        let mut state = lock(&self.0);
        state.fit(spec, now);
        if let Some(limit) = spec.max_concurrent
            && state.num_running >= limit
        {
            return Err(ApiError::RateLimited(RateLimit {
                kind: "requests",
                what: format!("{limit} requests at the same time"),
                retry_after: Duration::from_secs(1),
            }));
        }
        let limits = [
            ("requests", spec.requests_per_minute.map(u64::from), state.requests),
            ("tokens", spec.tokens_per_minute, state.tokens),
        ];
        for (kind, limit, bucket) in limits {
            let wait = bucket.map_or(Duration::ZERO, |bucket| bucket.wait_for_one(now));
            if let (Some(limit), false) = (limit, wait.is_zero()) {
                let what = format!("{limit} {kind} per minute");
                return Err(ApiError::RateLimited(RateLimit { kind, what, retry_after: wait }));
            }
        }
        if let Some(bucket) = &mut state.requests {
            bucket.take(1, now);
        }
        state.num_running += 1;
        Ok(())
    }

    /// Counts tokens of a request that runs.
    pub(super) fn take_tokens(&self, num_tokens: usize, now: Instant) {
        if let Some(bucket) = &mut lock(&self.0).tokens {
            bucket.take(num_tokens as u64, now);
        }
    }

    /// A request is over.
    pub(super) fn end(&self) {
        let mut state = lock(&self.0);
        state.num_running = state.num_running.saturating_sub(1);
    }

    /// Tells what is left, as OpenAI does.
    pub(super) fn write(&self, spec: &KeySpec, headers: &mut HeaderMap, now: Instant) {
        let mut state = lock(&self.0);
        state.fit(spec, now);
        for (kind, limit, bucket) in [
            ("requests", spec.requests_per_minute.map(u64::from), state.requests),
            ("tokens", spec.tokens_per_minute, state.tokens),
        ] {
            let (Some(limit), Some(bucket)) = (limit, bucket) else { continue };
            let left = bucket.level(now).max(0.0) as u64;
            set(headers, &format!("x-ratelimit-limit-{kind}"), &limit.to_string());
            set(headers, &format!("x-ratelimit-remaining-{kind}"), &left.to_string());
            set(headers, &format!("x-ratelimit-reset-{kind}"), &pause(bucket.wait_for_all(now)));
        }
    }
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

/// A pause as OpenAI writes it: `120ms`, `1s`, `6m0s`.
fn pause(pause: Duration) -> String {
    let seconds = pause.as_secs();
    match seconds {
        0 => format!("{}ms", pause.as_millis()),
        1..60 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::keys::tests::spec;

    #[test]
    fn pauses_look_like_openais() {
        for (millis, expected) in
            [(0, "0ms"), (120, "120ms"), (1_500, "1s"), (360_000, "6m0s"), (61_000, "1m1s")]
        {
            assert_eq!(pause(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn each_limit_is_told_by_its_kind_and_passes() {
        let start = Instant::now();
        let (meters, mut key) = (Meters::default(), spec("k", "s"));
        (key.requests_per_minute, key.tokens_per_minute, key.max_concurrent) = (Some(2), Some(60), Some(1));
        let refused = |meters: &Meters, now| match meters.begin(&key, now) {
            Err(ApiError::RateLimited(limit)) => {
                Some((limit.kind, limit.what, limit.retry_after.as_secs_f64().round() as u64))
            }
            _ => None,
        };
        meters.begin(&key, start).expect("the first");
        let at_once = ("requests", "1 requests at the same time".to_owned(), 1);
        assert_eq!(refused(&meters, start), Some(at_once));
        meters.take_tokens(70, start);
        meters.end();
        assert_eq!(refused(&meters, start), Some(("tokens", "60 tokens per minute".to_owned(), 11)));
        let later = start + Duration::from_secs(20);
        meters.begin(&key, later).expect("the overdraft is paid back");
        meters.end();
        assert_eq!(refused(&meters, later), Some(("requests", "2 requests per minute".to_owned(), 10)));
    }
}
