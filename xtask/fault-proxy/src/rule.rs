//! Which request goes wrong, when, and how.

use crate::request::Request;
use http::StatusCode;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Before or after the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The request has arrived in full, the server has not heard of it.
    Before,
    /// The server has answered, the client has not heard of it.
    After,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL to the [target](crate::Faults::target); the request, or its answer, is lost with it.
    Kill,
    /// SIGSTOP to the target. The request, or its answer, goes on: it waits in the target's socket.
    Stop,
    /// SIGSTOP to the target, and the request, or its answer, waits as well until [`Faults::release`](crate::Faults::release): a network that was as slow.
    StopAndHold,
    /// It waits until [`Faults::release`](crate::Faults::release).
    Hold,
    /// It waits for so long.
    Delay(Duration),
    /// The connection is closed: before, the server hears nothing; after, the answer is lost.
    Drop,
    /// The server's answer is not given, but this status. Before, the server hears nothing.
    Answer(StatusCode),
}

impl Act {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::StopAndHold => "stop and hold",
            Self::Hold => "hold",
            Self::Delay(_) => "delay",
            Self::Drop => "drop",
            Self::Answer(_) => "answer",
        }
    }
}

/// A rule's number, to ask how often it was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(pub(crate) usize);

/// Lets requests go wrong.
#[derive(Clone)]
pub struct Rule {
    pub(crate) moment: Moment,
    pub(crate) act: Act,
    pub(crate) skip: u64,
    pub(crate) times: u64,
    pub(crate) matches: Arc<dyn Fn(&Request) -> bool + Send + Sync>,
}

impl Rule {
    /// One request of any kind, the next.
    pub fn new(moment: Moment, act: Act) -> Self {
        Self {
            moment,
            act,
            skip: 0,
            times: 1,
            matches: Arc::new(|_| true),
        }
    }

    /// Only requests like this.
    #[must_use]
    pub fn matching(self, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        Self {
            matches: Arc::new(matches),
            ..self
        }
    }

    /// Lets so many of them pass first.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// So many of them; one by default.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("moment", &self.moment)
            .field("act", &self.act)
            .field("skip", &self.skip)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
