//! All scenarios, lived through once.

use crate::diff::diff;
use defib_world::golden::{Scenario, play};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// A scenario, and what came of it.
pub struct Story {
    /// Folder and name, without an end.
    pub name: String,
    /// Violations of safety.
    pub violations: Vec<String>,
    /// How long its world took.
    pub took: Duration,
    /// What is not as it is written.
    pub problem: Option<String>,
    /// Status and reason of ResetAllowed of each VM, one after the other.
    pub allowed: BTreeMap<String, Vec<(String, String)>>,
}

/// Where they are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Files with this end, folder and name without it.
pub fn files(end: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|e| e == end) {
                let part = |p: &Path| p.file_stem().unwrap().to_string_lossy().into_owned();
                found.push(format!("{}/{}", part(&path), part(&file)));
            }
        }
    }
    found.sort();
    found
}

/// All of them. `DEFIB_GOLDEN_ONLY=gates/lock` lives through those alone whose names begin so.
pub fn stories() -> &'static [Story] {
    static STORIES: LazyLock<Vec<Story>> = LazyLock::new(|| {
        let only = std::env::var("DEFIB_GOLDEN_ONLY").unwrap_or_default();
        let mut names = files("yaml");
        names.retain(|name| name.starts_with(&only));
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, Into::into) {
                scope.spawn(|| {
                    while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let began = Instant::now();
                        let mut story = live(name);
                        story.took = began.elapsed();
                        done.lock().unwrap().push(story);
                    }
                });
            }
        });
        let mut stories = done.into_inner().unwrap();
        stories.sort_by(|a, b| a.name.cmp(&b.name));
        stories
    });
    &STORIES
}

/// What a runtime can that the world itself cannot ask for.
pub fn stand_still(long: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(tokio::time::advance(long))
}

/// Lives through a world.
pub fn on_a_runtime<T: Send, W: Future<Output = T>>(world: impl FnOnce() -> W + Send) -> T {
    hash_order::apart(0, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(world())
    })
}

fn live(name: &str) -> Story {
    let path = folder().join(name);
    let text = fs::read_to_string(path.with_extension("yaml")).unwrap();
    let mut story = Story {
        name: name.to_owned(),
        violations: Vec::new(),
        took: Duration::ZERO,
        problem: None,
        allowed: BTreeMap::new(),
    };
    // A world that cannot be set up ends by a panic: the others are told all the same.
    let lived = std::panic::catch_unwind(|| Scenario::read(&text).and_then(|scenario| on_a_runtime(|| play(&scenario, stand_still))));
    let outcome = match lived.unwrap_or_else(|_| Err("its world ended by a panic, see above".into())) {
        Ok(outcome) => outcome,
        Err(error) => {
            story.problem = Some(format!("{name}.yaml: {error}"));
            return story;
        }
    };
    story.violations = outcome.violations.iter().map(ToString::to_string).collect();
    for write in outcome.evidence.writes.iter().filter(|w| w.resource == "managedvms") {
        let Some(object) = &write.after else { continue };
        let conditions = object["status"]["conditions"].as_array();
        let Some(allowed) = conditions.into_iter().flatten().find(|c| c["type"] == "ResetAllowed") else {
            continue;
        };
        let word = |field: &str| allowed[field].as_str().unwrap_or_default().to_owned();
        let now = (word("status"), word("reason"));
        let before = story.allowed.entry(write.name.clone()).or_default();
        if before.last() != Some(&now) {
            before.push(now);
        }
    }
    let log = path.with_extension("log");
    let kept = fs::read_to_string(&log).unwrap_or_default();
    if kept != outcome.story {
        if std::env::var("DEFIB_GOLDEN").as_deref() == Ok("update") {
            fs::write(&log, &outcome.story).unwrap();
        } else {
            story.problem = Some(format!(
                "{name}.log is not what happens:\n{}DEFIB_GOLDEN=update DEFIB_GOLDEN_ONLY={name} cargo test -p defib-world --test golden",
                diff(&kept, &outcome.story)
            ));
        }
    }
    story
}
