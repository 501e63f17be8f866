//! What is compared: the protocol of rule 5, and protocols that leave a part of it out or do it in a simpler way. All are carried out by the same steps; a protocol
//! is only data.

use crate::model::Scenario;
use crate::model::scenarios::{ONE_VM, ONE_VM_TWICE, POWER_CYCLE, STOPPED_BY_PEOPLE, TWO_VMS};
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
    pub debt_kept: DebtKept,
    pub debt_written: DebtWritten,
    pub debt_checked: DebtChecked,
    pub let_go: LetGo,
    pub paid: Paid,
    pub started: Started,
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

/// Where it stands that a VM is owed a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebtKept {
    /// In its VMReset, which is held by a finalizer.
    InVMReset,
    /// In the ManagedVM, with which it goes.
    InManagedVM,
    /// In the process that has stopped the VM.
    InMemory,
}

/// When it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebtWritten {
    BeforeTheStop,
    AfterTheStop,
}

/// Whether the VMReset is looked at when the debt was written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebtChecked {
    /// It must still be held, or nothing is sent.
    Held,
    /// A write that was answered is enough.
    Written,
}

/// Which VMReset its finalizer is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// One that has no debt in the very version that is changed.
    WithoutDebt,
    /// One that had none when it was looked at.
    AsSeen,
}

/// What pays it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// The VM runs, long after the last answer of Proxmox.
    RunsForLong,
    /// The VM is seen to run after its stop was answered.
    SeenToRun,
    /// A start was answered: Proxmox has a task of it, which ends.
    StartTaskEnded,
}

/// Which VM is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// One that is owed it.
    WhatIsOwed,
    /// Any that is off.
    WhateverIsOff,
}

/// Rules 5 and 8 as they are.
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
    debt_kept: DebtKept::InVMReset,
    debt_written: DebtWritten::BeforeTheStop,
    debt_checked: DebtChecked::Held,
    let_go: LetGo::WithoutDebt,
    paid: Paid::RunsForLong,
    started: Started::WhatIsOwed,
};

/// A simpler protocol, and how it goes wrong, in which scenario.
pub type Simpler = (Protocol, &'static [(Wrong, Scenario)]);

/// Protocols that are simpler than rule 5, each of which goes wrong. The README has them as a table.
pub const SIMPLER: [Simpler; 11] = [
    (
        Protocol {
            name: "reset first, write it down then",
            order: Order::RequestFirst,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS), (Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "decide from the cache, write over whatever is there",
            decided_on: DecidedOn::Cache,
            written: Written::Blindly,
            ..REAL
        },
        &[(Wrong::Double, ONE_VM), (Wrong::Budget, TWO_VMS), (Wrong::LeftOff, POWER_CYCLE)],
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
        &[
            (Wrong::Healthy, ONE_VM),
            (Wrong::Double, ONE_VM_TWICE),
            (Wrong::Budget, TWO_VMS),
            (Wrong::LeftOff, POWER_CYCLE),
        ],
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
        &[
            (Wrong::Healthy, ONE_VM),
            (Wrong::Double, ONE_VM_TWICE),
            (Wrong::Budget, TWO_VMS),
            (Wrong::LeftOff, POWER_CYCLE),
            (Wrong::Unowed, STOPPED_BY_PEOPLE),
        ],
    ),
    (
        Protocol {
            name: "send again when the answer is lost",
            ambiguous: Ambiguous::SentAgain,
            ..REAL
        },
        &[
            (Wrong::Healthy, ONE_VM),
            (Wrong::Double, ONE_VM),
            (Wrong::Budget, TWO_VMS),
            (Wrong::LeftOff, POWER_CYCLE),
        ],
    ),
    (
        Protocol {
            name: "after a crash, send what was intended",
            resumed: Resumed::BySending,
            ..REAL
        },
        &[
            (Wrong::Healthy, ONE_VM),
            (Wrong::Double, ONE_VM),
            (Wrong::Budget, TWO_VMS),
            (Wrong::LeftOff, POWER_CYCLE),
        ],
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

/// And than rule 8.
pub const SIMPLER_DEBTS: [Simpler; 9] = [
    (
        Protocol {
            name: "stop again when the answer to the stop is lost",
            ambiguous: Ambiguous::SentAgain,
            ..REAL
        },
        &[
            (Wrong::Healthy, POWER_CYCLE),
            (Wrong::Double, POWER_CYCLE),
            (Wrong::LeftOff, POWER_CYCLE),
        ],
    ),
    (
        Protocol {
            name: "stop first, write down then that a start is owed",
            debt_written: DebtWritten::AfterTheStop,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "remember in memory that a start is owed",
            debt_kept: DebtKept::InMemory,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "write it into the ManagedVM, which may be deleted",
            debt_kept: DebtKept::InManagedVM,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "write it, and do not look whether the finalizer still holds it",
            debt_checked: DebtChecked::Written,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "let a VMReset go that owed nothing when it was looked at",
            let_go: LetGo::AsSeen,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "call the start made when its task has ended",
            paid: Paid::StartTaskEnded,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "call it made when the VM is first seen to run",
            paid: Paid::SeenToRun,
            ..REAL
        },
        &[(Wrong::LeftOff, POWER_CYCLE)],
    ),
    (
        Protocol {
            name: "start whatever is off",
            started: Started::WhateverIsOff,
            ..REAL
        },
        &[(Wrong::Unowed, STOPPED_BY_PEOPLE)],
    ),
];
