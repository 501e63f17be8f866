//! Watches that break again and again, and watches of which nothing comes, not even the end.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// From one cut of all watches to the next.
const CUT_EVERY: Duration = Duration::from_millis(300);

/// Cuts all watches again and again until it is dropped.
struct Cutter(Arc<AtomicBool>);

impl Cutter {
    fn start(faults: Faults) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                faults.cut_watches();
                thread::sleep(CUT_EVERY);
            }
        });
        Self(ended)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Watches that were begun so far.
fn begun(faults: &Faults) -> usize {
    faults.record().iter().filter(|e| e.request.is_watch()).count()
}

#[test]
fn watches_that_are_cut_or_held_neither_keep_a_reset_back_nor_lead_to_another() -> Result<()> {
    let mut story = Story::begin()?;
    let before = begun(&story.faults);
    let cutter = Cutter::start(story.faults.clone());
    story.hang_stubborn(101)?;
    story.wait_cured(101)?;
    let begun = begun(&story.faults) - before;
    ensure!(begun >= 20, "the watches were begun {begun} times only: they were not cut");
    drop(cutter);

    story.faults.hold_watches(true);
    story.hang_stubborn(102)?;
    story.wait_cured(102)?;
    // Three fall silent together: a storm, in which each of them is proved to hang, and they are reset one after the other.
    for vmid in VICTIMS {
        story.hang(vmid)?;
    }
    for vmid in VICTIMS {
        story.wait_cured(vmid)?;
    }
    story.faults.hold_watches(false);
    story.end()
}
