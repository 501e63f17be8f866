//! Waiting on a condition, with a deadline.

use anyhow::{Result, bail};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Looks again and again until the condition holds. The inner `Err` says why it does not hold yet.
///
/// # Errors
/// At the deadline, with the last word of the condition; at once when looking fails for good is not assumed: an API server may be down on purpose.
pub fn until<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let not_yet = match look() {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(not_yet)) => not_yet,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {} s for: {what}; {not_yet}", patience.as_secs());
        }
        sleep(POLL);
    }
}

/// Looks again and again that something does not happen for a while.
///
/// # Errors
/// As soon as it happens.
pub fn never(during: Duration, what: &str, mut look: impl FnMut() -> Result<Result<(), String>>) -> Result<()> {
    let end = Instant::now() + during;
    while Instant::now() < end {
        if let Err(happened) = look()? {
            bail!("must not happen: {what}; {happened}");
        }
        sleep(POLL);
    }
    Ok(())
}
