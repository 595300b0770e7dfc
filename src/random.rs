//! Random numbers that may be guessable. They only spread load or have to be unique; what must not be guessed, such as the key of the
//! introspection cache, comes from `aws_lc_rs`.

#![expect(clippy::disallowed_methods, reason = "the one place")]

/// From 0 up to 1, so that what failed together is not retried together.
pub(crate) fn jitter() -> f64 {
    fastrand::f64()
}

/// For the ids of requests and traces.
pub(crate) fn id128() -> u128 {
    fastrand::u128(..)
}

/// For the ids of spans.
pub(crate) fn id64() -> u64 {
    fastrand::u64(..)
}

/// Numbers that are the same for the same seed, for what must be repeatable.
pub(crate) fn seeded(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}
