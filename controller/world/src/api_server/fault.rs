//! What can go wrong: one hook that is asked about every request and every event of a watch.

use std::fmt;
use std::time::Duration;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads all.
    List,
    /// Follows changes.
    Watch,
    /// Makes an object.
    Create,
    /// Replaces an object (PUT).
    Update,
    /// Changes a part of an object.
    Patch,
    /// Deletes an object.
    Delete,
}

impl Verb {
    /// Whether it changes anything.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Patch | Self::Delete)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// A request, as the hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the client, as given to [`ApiServer::client`](super::ApiServer::client).
    pub client: String,
    /// What it does.
    pub verb: Verb,
    /// The kind in the plural, such as `managedvms`.
    pub resource: String,
    /// Namespace, empty for all or none.
    pub namespace: String,
    /// Name of the object, empty for lists, and for a create that leaves it to the server.
    pub name: String,
    /// `/status` is meant.
    pub status: bool,
    /// For a write: how many writes this client has sent, with this one.
    pub write: Option<u64>,
    /// For a write: how many writes all clients have sent, with this one.
    pub write_of_all: Option<u64>,
    /// How many requests have come from all clients, with this one: the audit log's number of it.
    pub number: u64,
}

/// What happens to a request. The default is nothing out of the ordinary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// It waits so long before it is looked at. It is carried out even when the client has stopped waiting.
    pub before: Duration,
    /// What becomes of it then.
    pub outcome: Outcome,
    /// The answer takes so long.
    pub after: Duration,
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It is carried out and answered.
    #[default]
    Proceed,
    /// It is refused with this code and nothing is done.
    Fail(u16),
    /// It never arrives.
    LoseRequest(Loss),
    /// It is carried out, and the answer never arrives.
    LoseReply(Loss),
}

/// How a client notices that something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Not at all: it waits for ever.
    Silence,
    /// The connection ends.
    Reset,
}

impl From<Outcome> for Fault {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            ..Self::default()
        }
    }
}

/// How a watch fares. It is asked each time the watch could go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Events go out as they come.
    #[default]
    Open,
    /// Events go out so long after they happened.
    Lag(Duration),
    /// Nothing goes out until the hook says otherwise. The watch still ends when its time is over: a server whose cache is stuck.
    Hold,
    /// Nothing goes out, not even the end: a dead connection.
    Silent,
    /// The stream ends now.
    Cut,
    /// An error event says 410 Expired, and the stream ends.
    Expire,
}

/// What happens to one event of a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventFault {
    /// It is delivered.
    #[default]
    Deliver,
    /// It is left out.
    Drop,
    /// A MODIFIED is left out where the next event of the same object is a MODIFIED that already waits: the client sees the last state only.
    Collapse,
}

/// An event, as the hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// Namespace of the object, empty where it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The resourceVersion of the change.
    pub version: u64,
}

/// Decides what goes wrong. All default to nothing.
///
/// After its answers about watches have changed, [`ApiServer::nudge`](super::ApiServer::nudge) has them asked again.
pub trait Faults: Send + Sync {
    /// Asked once for each request, in the order of their arrival.
    fn request(&self, call: &Call) -> Fault {
        let _ = call;
        Fault::default()
    }

    /// Asked each time a watch could go on.
    fn watch(&self, watch: &Call) -> Flow {
        let _ = watch;
        Flow::Open
    }

    /// Asked for each event of a watch that is about to be delivered.
    fn event(&self, watch: &Call, event: &EventInfo) -> EventFault {
        let _ = (watch, event);
        EventFault::Deliver
    }
}

/// Nothing goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl Faults for NoFaults {}
