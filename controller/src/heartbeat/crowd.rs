//! Places for strangers: whoever has not shown a key yet. Anyone can come, so anyone can fill them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A bounded number of places. When all are taken, the one that was taken longest ago goes to whoever comes next, once its holder has had its fair time:
/// who has something to say says it within that time, and who only sits there makes room.
pub(super) struct Crowd {
    inner: Mutex<Inner>,
    most: usize,
    fair: Duration,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By number, which is by age.
    held: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One place, given back when dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    taken_back: CancellationToken,
}

impl Crowd {
    /// So many places, each for at least this long.
    pub(super) fn new(most: usize, fair: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            most,
            fair,
        })
    }

    /// A place; none when all are taken, none of them for long enough.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.lock();
        if inner.held.len() >= self.most && !inner.take_back(self.fair) {
            return None;
        }
        let number = inner.next;
        inner.next = number.wrapping_add(1);
        let taken_back = CancellationToken::new();
        inner.held.insert(number, (Instant::now(), taken_back.clone()));
        drop(inner);
        Some(Place {
            crowd: self.clone(),
            number,
            taken_back,
        })
    }

    /// Takes the oldest place back, if its holder has had its fair time. Returns whether it did.
    pub(super) fn make_room(&self) -> bool {
        self.lock().take_back(self.fair)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No step leaves it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_back(&mut self, fair: Duration) -> bool {
        let Some(oldest) = self.held.first_entry().filter(|e| e.get().0.elapsed() >= fair) else {
            return false;
        };
        let (_, taken_back) = oldest.remove();
        taken_back.cancel();
        true
    }
}

impl Place {
    /// Waits until the place is taken back.
    pub(super) async fn taken_back(&self) {
        self.taken_back.cancelled().await;
    }

    /// Cancelled when the place is taken back; it outlives the place, and is never cancelled after that.
    pub(super) fn token(&self) -> CancellationToken {
        self.taken_back.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const FAIR: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_after_its_fair_time_and_not_before() {
        let crowd = Crowd::new(2, FAIR);
        let first = crowd.enter().unwrap();
        advance(FAIR / 2).await;
        let second = crowd.enter().unwrap();
        assert!(crowd.enter().is_none(), "both came a moment ago");
        advance(FAIR / 2).await;
        let third = crowd.enter().unwrap();
        assert!(first.token().is_cancelled() && !second.token().is_cancelled());
        assert!(crowd.enter().is_none());
        drop(second);
        let fourth = crowd.enter().unwrap();
        // The first one's place is the third's by now: its end frees nothing.
        drop(first);
        assert!(crowd.enter().is_none());
        drop((third, fourth));
        assert!(crowd.lock().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_told_to_leave() {
        let crowd = Crowd::new(1, FAIR);
        let known = crowd.enter().unwrap();
        let token = known.token();
        drop(known);
        advance(FAIR).await;
        assert!(crowd.enter().is_some() && !crowd.make_room());
        assert!(!token.is_cancelled());
    }
}
