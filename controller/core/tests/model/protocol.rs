//! What is compared: the protocol of rule 5, and protocols that leave a part of it out or do it in a simpler way. All are carried out by the same steps; a protocol
//! is only data.

use crate::model::Scenario;
use crate::model::scenarios::{ONE_VM, ONE_VM_TWICE, TWO_VMS};
use crate::world::Wrong;

/// How a reset is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name in the table.
    pub name: &'static str,
    pub order: Order,
    pub decided_on: DecidedOn,
    pub written: Written,
    /// After the intent stands in the journal, all intents are listed live; too many: it is withdrawn.
    pub lists_intents: bool,
    pub last_check: LastCheck,
    pub sent_on: SentOn,
    pub ambiguous: Ambiguous,
    pub resumed: Resumed,
    pub taken_over: TakenOver,
    pub counted: Counted,
    pub recovered: Recovered,
    pub withdrawal: Withdrawal,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The intent is entered in the journal, then the request is sent.
    IntentFirst,
    /// The request is sent, then it is written down.
    RequestFirst,
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedOn {
    /// The ManagedVM as it is read for this decision.
    LiveRead,
    /// A copy of it from the watch, which may be arbitrarily old.
    Cache,
}

/// How the intent is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// By compare-and-swap: over the very version that was decided on, or not at all.
    BySwap,
    /// Over whatever is there.
    Blindly,
}

/// What is looked at between the open connection and the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastCheck {
    /// Decided a moment ago, lease held, nothing heard of the VM, and we have not stood still since.
    Whole,
    /// As above, but a process that stood still does not mind.
    WithoutStandstill,
    /// Nothing.
    Missing,
}

/// The connection of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentOn {
    /// One that was opened before the last check; Proxmox closes it when it is idle: the fence.
    ItsOwnConnection,
    /// One from a pool, which opens a new one when the old one is closed.
    AnyConnection,
}

/// What follows an answer that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// The tasks of the node are searched.
    Searched,
    /// The request is sent again.
    SentAgain,
}

/// What follows an intent that a process finds in the journal when it starts, or takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The tasks of the node are searched.
    BySearch,
    /// What was intended is sent.
    BySending,
}

/// When the intent of another holder is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenOver {
    /// When it was watched unchanged for long.
    WatchedUnchanged,
    /// At once.
    AtOnce,
}

/// When an attempt counts towards maxResets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// In the write that enters the intent.
    Intended,
    /// When its task is known.
    TaskKnown,
    /// In the write that clears the journal.
    Ended,
}

/// What ends a reset well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A heartbeat of a new boot.
    ByNewBoot,
    /// The task of Proxmox is done.
    ByTask,
}

/// What becomes of the note in memory that an intent is to be withdrawn, when the write of the withdrawal has got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It is forgotten when the next intent begins.
    OfOneIntent,
    /// It is kept, and meets the next intent, which may have the same name.
    OfAName,
}

/// Rule 5 as it is.
pub const REAL: Protocol = Protocol {
    name: "**the protocol of Defib**",
    order: Order::IntentFirst,
    decided_on: DecidedOn::LiveRead,
    written: Written::BySwap,
    lists_intents: true,
    last_check: LastCheck::Whole,
    sent_on: SentOn::ItsOwnConnection,
    ambiguous: Ambiguous::Searched,
    resumed: Resumed::BySearch,
    taken_over: TakenOver::WatchedUnchanged,
    counted: Counted::Intended,
    recovered: Recovered::ByNewBoot,
    withdrawal: Withdrawal::OfOneIntent,
};

/// Simpler protocols, each of which goes wrong: how, and in which scenario that shows. The README has them as a table.
pub const SIMPLER: [(Protocol, &[(Wrong, Scenario)]); 11] = [
    (
        Protocol {
            name: "reset first, write it down then",
            order: Order::RequestFirst,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "decide from the cache, write over whatever is there",
            decided_on: DecidedOn::Cache,
            written: Written::Blindly,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "write the intent without compare-and-swap",
            written: Written::Blindly,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM)],
    ),
    (
        Protocol {
            name: "do not list all intents after the swap",
            lists_intents: false,
            ..REAL
        },
        &[(Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "no last check before the request",
            last_check: LastCheck::Missing,
            ..REAL
        },
        &[(Wrong::Healthy, ONE_VM), (Wrong::Double, ONE_VM_TWICE), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "a last check that does not know that the process stood still",
            last_check: LastCheck::WithoutStandstill,
            ..REAL
        },
        &[(Wrong::Healthy, ONE_VM)],
    ),
    (
        Protocol {
            name: "send on a pooled connection (no fence)",
            sent_on: SentOn::AnyConnection,
            ..REAL
        },
        &[(Wrong::Healthy, ONE_VM), (Wrong::Double, ONE_VM_TWICE), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "send again when the answer is lost",
            ambiguous: Ambiguous::SentAgain,
            ..REAL
        },
        &[(Wrong::Healthy, ONE_VM), (Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "after a crash, send what was intended",
            resumed: Resumed::BySending,
            ..REAL
        },
        &[(Wrong::Healthy, ONE_VM), (Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "believe the finished task",
            recovered: Recovered::ByTask,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM_TWICE), (Wrong::Budget, TWO_VMS)],
    ),
    (
        Protocol {
            name: "remember a withdrawal by the attempt's name",
            withdrawal: Withdrawal::OfAName,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS)],
    ),
];
