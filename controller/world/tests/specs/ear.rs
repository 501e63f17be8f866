//! What a world says while it runs: reconciles by object, warnings, panics.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, Once};
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// All that was heard.
#[derive(Default)]
pub struct Heard {
    /// Each reconcile: when, and of which object, as `ManagedVM.v1alpha1.defib.dev/web.vms`.
    pub reconciles: Vec<(Instant, String)>,
    /// What was logged as a warning or an error.
    pub logged: Vec<(Instant, String)>,
}

/// Listens on one thread.
#[derive(Clone, Default)]
pub struct Ear(pub Arc<Mutex<Heard>>);

/// The span that kube's Controller makes for each reconcile.
const RECONCILE: &str = "reconciling object";
/// Each event that is published is logged too: what it says is told by conditions and POSTs, which are judged.
const EVENTS: &str = "defib::reconcile::events";

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (*metadata.level() <= Level::WARN && metadata.target() != EVENTS) || metadata.name() == RECONCILE
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if span.metadata().name() == RECONCILE {
            let mut words = Words::default();
            span.record(&mut words);
            self.0.lock().unwrap().reconciles.push((Instant::now(), words.of("object.ref")));
        }
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let text = format!("{} {}: {}", event.metadata().level(), event.metadata().target(), words.all());
        self.0.lock().unwrap().logged.push((Instant::now(), text));
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Words(Vec<(&'static str, String)>);

impl Words {
    fn of(&self, name: &str) -> String {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, text)| text.clone())
            .unwrap_or_default()
    }

    fn all(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            write!(text, "{name}={value} ").unwrap();
        }
        text
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs a world on this thread. Its tasks may panic without anybody else's noticing; answers what they said.
pub fn panics_of<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|all| all.push(panic.to_string()));
            before(panic);
        }));
    });
    PANICS.with_borrow_mut(Vec::clear);
    let done = run();
    (done, PANICS.with_borrow_mut(std::mem::take))
}
