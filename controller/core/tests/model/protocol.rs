//! What is compared: the protocol of rule 5, and protocols that leave a part of it out or do it in a simpler way. All are carried out by the same steps; a protocol
//! is only data.

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
    AtIntent,
    /// When its task is known.
    AtTask,
    /// In the write that clears the journal.
    AtEnd,
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
    counted: Counted::AtIntent,
    recovered: Recovered::ByNewBoot,
    withdrawal: Withdrawal::OfOneIntent,
};

/// Each of these differs from [`REAL`] in one thing, but for the first.
pub const SIMPLER: [Protocol; 16] = [
    Protocol { name: "reset, then write it down", order: Order::RequestFirst, ..REAL },
    Protocol { name: "decide from the cache, write over whatever is there", decided_on: DecidedOn::Cache, written: Written::Blindly, ..REAL },
    Protocol { name: "write the intent without compare-and-swap", written: Written::Blindly, ..REAL },
    Protocol { name: "cache, swap", decided_on: DecidedOn::Cache, ..REAL },
    Protocol { name: "do not list all intents before the request", lists_intents: false, ..REAL },
    Protocol { name: "no last check (age, lease, heartbeat)", last_check: LastCheck::Missing, ..REAL },
    Protocol { name: "last check blind to standstill", last_check: LastCheck::WithoutStandstill, ..REAL },
    Protocol { name: "a pooled connection (no fence)", sent_on: SentOn::AnyConnection, ..REAL },
    Protocol { name: "send again when answer lost", ambiguous: Ambiguous::SentAgain, ..REAL },
    Protocol { name: "after crash send what was intended", resumed: Resumed::BySending, ..REAL },
    Protocol { name: "take over at once", taken_over: TakenOver::AtOnce, ..REAL },
    Protocol { name: "take over at once, send", taken_over: TakenOver::AtOnce, resumed: Resumed::BySending, ..REAL },
    Protocol { name: "count at the end", counted: Counted::AtEnd, ..REAL },
    Protocol { name: "count when task known", counted: Counted::AtTask, ..REAL },
    Protocol { name: "believe task", recovered: Recovered::ByTask, ..REAL },
    Protocol { name: "withdrawal by name", withdrawal: Withdrawal::OfAName, ..REAL },
];
