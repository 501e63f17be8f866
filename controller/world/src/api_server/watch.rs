//! Watches: streams of events out of the store's history.

use super::Inner;
use super::fault::{Call, EventFault, EventInfo, Flow};
use super::read::{at_version, shown};
use super::request::{Place, Query};
use super::selector::Selector;
use super::status::Refusal;
use super::store::{Change, Store};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes so long before the end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// How long a watch lasts when it does not say. A real server picks one of 30 to 60 minutes.
const DEFAULT_TIMEOUT: u64 = 1800;
/// A watch lasts so long at least. Clients ask anew at once: with a hook that always cuts, virtual time would stand still.
const SHORTEST: Duration = Duration::from_millis(1);
/// Says in a bookmark that what was there at the beginning has been sent.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(super) struct Watch {
    inner: Arc<Inner>,
    call: Call,
    place: Place,
    selector: Selector,
    metadata_only: bool,
    /// The version up to which everything has been sent or left out.
    position: u64,
    /// What was there at the beginning.
    initial: VecDeque<Bytes>,
    opened: Instant,
    ends: Instant,
    bookmark: Option<Instant>,
    over: bool,
}

/// What a look at the history found.
enum Next {
    Event(Bytes),
    /// The next event is not due before.
    Due(Instant),
    Nothing,
    /// The watch is too far behind.
    Lost,
}

impl Watch {
    pub(super) fn open(
        inner: &Arc<Inner>,
        store: &Store,
        call: Call,
        place: &Place,
        query: &Query,
        metadata_only: bool,
    ) -> Result<Self, Box<Refusal>> {
        let kind = inner.kind(place);
        let selector = query.selector(kind)?;
        let initial_events = query.is_true("sendInitialEvents");
        let bookmarks = query.is_true("allowWatchBookmarks");
        let matching = query.text("resourceVersionMatch");
        if initial_events && matching != "NotOlderThan" {
            let why = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Refusal::invalid_options(why));
        }
        if !matching.is_empty() && query.text("sendInitialEvents").is_empty() {
            let why = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(Refusal::invalid_options(why));
        }
        let version = query.number("resourceVersion");
        let asked = version
            .map_err(|refusal| Refusal::without_reason(&refusal.message))?
            .filter(|version| *version > 0);
        let seconds = query.number("timeoutSeconds")?.filter(|n| *n > 0).unwrap_or(DEFAULT_TIMEOUT);
        let now = Instant::now();
        let mut watch = Self {
            inner: inner.clone(),
            call,
            place: place.clone(),
            selector,
            metadata_only,
            position: store.version(),
            initial: VecDeque::new(),
            opened: now,
            ends: now + Duration::from_secs(seconds),
            bookmark: None,
            over: false,
        };
        watch.bookmark = bookmarks.then(|| watch.next_bookmark(now)).flatten();
        // Without a version it begins with what is there now.
        if initial_events || (asked.is_none() && query.text("sendInitialEvents") != "false") {
            for (key, object) in store.of_kind(place.kind) {
                if watch.is_about(&key.path) && watch.in_namespace(object) && watch.selector.matches(object) {
                    let line = watch.line("ADDED", object);
                    watch.initial.push_back(line);
                }
            }
            if initial_events && bookmarks {
                let line = watch.bookmark_line(&json!({ INITIAL_EVENTS_END: "true" }));
                watch.initial.push_back(line);
            }
        } else if let Some(version) = asked {
            if version < store.oldest() {
                // As a real server does: the watch is granted, and its one event is the error.
                let message = format!("too old resource version: {version} ({})", store.oldest());
                watch.end_with(&Refusal::expired(message));
            }
            watch.position = version;
        }
        Ok(watch)
    }

    /// The next line of the body; `None` at its end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let inner = self.inner.clone();
        loop {
            // What changes from here on is not missed.
            let woken = inner.wake.notified();
            if self.over {
                return self.initial.pop_front();
            }
            let flow = self.inner.faults().watch(&self.call);
            let now = Instant::now();
            let mut until = Some(self.ends);
            match flow {
                Flow::Silent => until = None,
                Flow::Cut | Flow::Expire if now < self.opened + SHORTEST => until = Some(self.opened + SHORTEST),
                Flow::Cut => {
                    self.over = true;
                    self.initial.clear();
                    continue;
                }
                Flow::Expire => {
                    self.initial.clear();
                    self.end_with(&Refusal::expired("The resourceVersion for the provided watch is too old."));
                    continue;
                }
                Flow::Hold if now >= self.ends => return None,
                Flow::Hold => {}
                Flow::Open | Flow::Lag(_) => {
                    if let Some(line) = self.initial.pop_front() {
                        return Some(line);
                    }
                    let lag = if let Flow::Lag(lag) = flow { lag } else { Duration::ZERO };
                    match self.advance(now, lag) {
                        Next::Event(line) => return Some(line),
                        Next::Lost => return None,
                        Next::Due(at) => until = Some(self.ends.min(at)),
                        Next::Nothing => {
                            if let Some(at) = self.bookmark {
                                if now >= at {
                                    self.bookmark = self.next_bookmark(now);
                                    return Some(self.bookmark_line(&json!({})));
                                }
                                until = Some(self.ends.min(at));
                            }
                        }
                    }
                    if now >= self.ends {
                        return None;
                    }
                }
            }
            match until {
                None => woken.await,
                Some(until) => tokio::select! {
                    biased;
                    () = woken => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// Goes on in the history to the next event that is to be delivered.
    fn advance(&mut self, now: Instant, lag: Duration) -> Next {
        loop {
            let (change, overtaken) = match self.look(now, lag) {
                Ok(found) => found,
                Err(next) => return next,
            };
            self.position = change.version;
            let Some((kind, object)) = self.event(&change) else { continue };
            let (namespace, name) = change.key.path.split_once('/').unwrap_or(("", &change.key.path));
            let info = EventInfo {
                kind,
                namespace: namespace.into(),
                name: name.into(),
                version: change.version,
            };
            match self.inner.faults().event(&self.call, &info) {
                EventFault::Drop => {}
                EventFault::Collapse if kind == "MODIFIED" && overtaken => {}
                EventFault::Deliver | EventFault::Collapse => return Next::Event(self.line(kind, &object)),
            }
        }
    }

    /// The next change here, and whether the next of the same object is a MODIFIED. The store is free again before the hook is asked, which may ask the server.
    fn look(&mut self, now: Instant, lag: Duration) -> Result<(Change, bool), Next> {
        let inner = self.inner.clone();
        let store = inner.store();
        let changes = store.after(self.position).map_err(|()| Next::Lost)?;
        let mut changes = changes.filter(|change| change.key.kind == self.place.kind && self.is_of_place(change));
        let Some(change) = changes.next() else {
            self.position = store.version().max(self.position);
            return Err(Next::Nothing);
        };
        if change.at + lag > now {
            return Err(Next::Due(change.at + lag));
        }
        let later = changes.find(|later| later.key == change.key);
        let overtaken = later
            .and_then(|later| self.event(later))
            .is_some_and(|(kind, _)| kind == "MODIFIED");
        Ok((change.clone(), overtaken))
    }

    /// What a change is to a watch with this selector: an object that begins to match is added, one that ceases to is deleted.
    fn event(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        let before = change.before.as_ref().filter(|object| self.selector.matches(object));
        let after = change.after.as_ref().filter(|object| self.selector.matches(object));
        match (before, after) {
            (None, Some(after)) => Some(("ADDED", after.clone())),
            (Some(_), Some(after)) => Some(("MODIFIED", after.clone())),
            (Some(before), None) => Some(("DELETED", Arc::new(at_version(before, change.version)))),
            (None, None) => None,
        }
    }

    fn is_of_place(&self, change: &Change) -> bool {
        change.key.in_namespace(&self.place.namespace) && self.is_about(&change.key.path)
    }

    fn is_about(&self, path: &str) -> bool {
        self.place.name.is_empty() || path == self.place.name
    }

    fn in_namespace(&self, object: &Value) -> bool {
        self.place.namespace.is_empty() || object["metadata"]["namespace"] == *self.place.namespace
    }

    fn end_with(&mut self, refusal: &Refusal) {
        self.initial.push_back(line("ERROR", &refusal.to_json()));
        self.over = true;
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        line(kind, &shown(object, self.metadata_only))
    }

    fn bookmark_line(&self, annotations: &Value) -> Bytes {
        let kind = self.inner.kind(&self.place);
        let mut meta = json!({ "resourceVersion": self.position.to_string() });
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            meta["annotations"] = annotations.clone();
        }
        self.line(
            "BOOKMARK",
            &json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": meta }),
        )
    }

    fn next_bookmark(&self, now: Instant) -> Option<Instant> {
        let last = self.ends.checked_sub(LAST_BOOKMARK)?;
        (now < last).then(|| last.min(now + BOOKMARK_EVERY))
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    // Written as text: an object would be copied only to be written.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}
