//! Hash maps whose order follows from a seed.
//!
//! kube's controllers poll reconciles that are due together in the order of a hash map. The standard library draws that order from the operating system, anew for
//! each thread, and ahash, which kube's stores use, once for a process: a world that is lived through twice would come out differently. On a thread of
//! [`apart`] both draw from a seed.
//!
//! For this `getrandom` of the C library is another in programs that are linked with this crate: elsewhere than on such a thread it is the system call that it
//! always was. On other systems than Linux nothing is replaced, and worlds may differ.

use ahash::random_state::{RandomSource, set_random_source};
use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// What is drawn next on this thread; none: from the operating system.
    static DRAWN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lives on a thread of its own, where the order of hash maps follows from the seed and from what happens there.
///
/// # Panics
/// As `life` does; and when a map of ahash was made before the first call, as its order can then no longer be chosen.
pub fn apart<T: Send>(seed: u64, life: impl FnOnce() -> T + Send) -> T {
    static AHASH: Once = Once::new();
    AHASH.call_once(|| {
        on_a_thread(0, || {
            assert!(
                set_random_source(Source).is_ok(),
                "ahash was used before: its order cannot be chosen any more"
            );
            // The part of its keys that is drawn once for a process.
            let _ = ahash::RandomState::new();
        });
    });
    on_a_thread(seed, life)
}

fn on_a_thread<T: Send>(seed: u64, life: impl FnOnce() -> T + Send) -> T {
    let of_the_seed = || {
        DRAWN.set(Some(seed));
        life()
    };
    match std::thread::scope(|scope| scope.spawn(of_the_seed).join()) {
        Ok(lived) => lived,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The next number of this thread: splitmix64. None where the operating system is to draw.
fn next() -> Option<u64> {
    // A thread that ends may draw after its variables are gone.
    let drawn = DRAWN.try_with(Cell::get).ok().flatten()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
    DRAWN.set(Some(drawn));
    let mut z = drawn;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Some(z ^ (z >> 31))
}

/// What tells maps of ahash apart.
struct Source;

impl RandomSource for Source {
    fn gen_hasher_seed(&self) -> usize {
        static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
        next().map_or_else(|| ELSEWHERE.fetch_add(1, Ordering::Relaxed), |drawn| drawn as usize)
    }
}

/// In the place of the C library's.
///
/// # Safety
/// As of that: `len` bytes from `into` on can be written.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut libc::c_void, len: libc::size_t, flags: libc::c_uint) -> libc::ssize_t {
    let Some(mut drawn) = next() else {
        // SAFETY: what the caller owes is handed on as it is; the call itself takes nothing else.
        let written = unsafe { libc::syscall(libc::SYS_getrandom, into, len, flags) };
        return written as libc::ssize_t;
    };
    // SAFETY: the caller owes that these bytes can be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(into.cast::<std::mem::MaybeUninit<u8>>(), len) };
    for eight in bytes.chunks_mut(8) {
        for (byte, of) in eight.iter_mut().zip(drawn.to_le_bytes()) {
            byte.write(of);
        }
        drawn = next().unwrap_or_default();
    }
    len as libc::ssize_t
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::apart;
    use std::collections::HashSet;

    fn order<S: std::hash::BuildHasher + Default>() -> Vec<u32> {
        (0..100).collect::<HashSet<u32, S>>().into_iter().collect()
    }

    fn orders() -> [Vec<u32>; 4] {
        type Std = std::hash::RandomState;
        [
            order::<Std>(),
            order::<Std>(),
            order::<ahash::RandomState>(),
            order::<ahash::RandomState>(),
        ]
    }

    #[test]
    fn maps_are_ordered_alike_with_a_seed_and_otherwise_with_another() {
        let one = apart(1, orders);
        assert_eq!(one, apart(1, orders));
        let two = apart(2, orders);
        for (one, two) in one.iter().zip(&two) {
            assert_ne!(one, two);
        }
        // Elsewhere nothing is chosen.
        assert_ne!(orders(), orders());
    }
}
