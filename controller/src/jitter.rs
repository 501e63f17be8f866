//! Small random shifts of times, so that a fleet that starts together does not stay in step.
//!
//! A world in virtual time (`controller/world`) must come out the same each time it is run. There a shift follows from a seed, from whom it concerns and from
//! the time alone: in which order the tasks of one moment are run may then differ.

use std::cell::Cell;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tokio::time::Instant;

thread_local! {
    static SEED: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
}

tokio::task_local! {
    static ABOUT: u64;
}

/// From now on the shifts on this thread follow from `seed`: for tests in virtual time on one thread.
pub fn seed(seed: u64) {
    SEED.set(Some((seed, Instant::now())));
}

/// Runs a future whose shifts concern `whom`.
pub fn about<H: Hash, F: Future>(whom: H, future: F) -> impl Future<Output = F::Output> + use<H, F> {
    let whom = SEED.get().map(|_| hash(whom));
    async move {
        match whom {
            Some(whom) => ABOUT.scope(whom, future).await,
            None => future.await,
        }
    }
}

/// `wait`, give or take a tenth.
pub fn around(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.2 * share())
}

/// `wait` times 0.5 to 1.
pub fn up_to(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + 0.5 * share())
}

/// Between `low` and `high`.
pub fn between(low: Duration, high: Duration) -> Duration {
    low + high.saturating_sub(low).mul_f64(share())
}

/// From 0 to 1.
fn share() -> f64 {
    let Some((seed, start)) = SEED.get() else {
        return rand::random();
    };
    let whom = ABOUT.try_with(|whom| *whom).unwrap_or_default();
    // The upper 53 bits: as many as a float holds exactly.
    (hash((seed, whom, start.elapsed().as_millis())) >> 11) as f64 / (1u64 << 53) as f64
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn with_a_seed_a_shift_follows_from_whom_and_when() {
        seed(1);
        let one = about("a", async { around(SECOND) }).await;
        assert_eq!(about("a", async { around(SECOND) }).await, one);
        assert_ne!(about("b", async { around(SECOND) }).await, one);
        tokio::time::advance(SECOND).await;
        assert_ne!(about("a", async { around(SECOND) }).await, one);
        SEED.set(None);
    }

    #[test]
    fn shifts_stay_within_their_bounds() {
        for _ in 0..1_000 {
            assert!((Duration::from_millis(900)..=Duration::from_millis(1_100)).contains(&around(SECOND)));
            assert!((SECOND / 2..=SECOND).contains(&up_to(SECOND)));
            assert!((SECOND..=2 * SECOND).contains(&between(SECOND, 2 * SECOND)));
        }
    }
}
