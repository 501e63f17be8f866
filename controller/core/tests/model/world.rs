//! The world of the model: VMs with their guests, what the API server and Proxmox hold of each, and two controllers. Time is counted in ticks of some seconds, and
//! every age stops at the number from which on nothing changes any more, so that the world has finitely many states and all of them can be visited.

/// Two controllers, each a process that may be the decider.
pub const CONTROLLERS: usize = 2;

/// Without a heartbeat for so many ticks, a VM is silent. A living guest is heard at each tick.
pub const TIMEOUT: u8 = 2;
/// Nothing is sent that was decided so many ticks ago (`INTENT_EXPIRES`).
pub const EXPIRES: u8 = 2;
/// Proxmox closes a connection at its so-manieth idle tick.
pub const FENCE: u8 = 2;
/// A holder trusts in its lease for so many ticks (`HELD_FOR`) ...
pub const HELD_FOR: u8 = 2;
/// ... and another takes it after so many (`DURATION`).
pub const LEASE: u8 = 3;
/// An intent of another holder is left alone for so long (`FOREIGN_INTENT`).
pub const FOREIGN_INTENT: u8 = 4;
/// Proxmox may hold a request for so long before it carries it out.
pub const PROXMOX_HOLDS: u8 = 1;
/// A request whose answer was lost is searched for so long (`SEARCH_FOR`).
pub const SEARCH_FOR: u8 = 2;
/// A VM that runs for so long after the last answer of Proxmox was not stopped by what it was doing then (`RUNS_FOR`).
pub const RUNS_FOR: u8 = 2;
/// When its ManagedVM is gone, nobody follows a stop any more: by then it has arrived or never will, as `stop_answered` counts.
pub const ORPHANED: u8 = SEARCH_FOR + EXPIRES;
/// A guest boots for so long at most ...
pub const BOOT: u8 = 2;
/// ... and for so long a VM has time to recover (`recoveryDeadlineSeconds`).
pub const RECOVERY: u8 = 3;
/// A guest that has lived for so many ticks is well, and must not be reset. A shorter life cannot always be seen: a guest that comes back by itself between the last
/// check and the request was not heard yet. The fence is what makes that window short.
pub const WELL: u8 = FENCE;
/// And one that was stopped by a person so many ticks ago must not be started.
pub const STOPPED: u8 = FENCE;

/// All that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub vms: Vec<Vm>,
    /// Who is written in the Lease. Agents reach this one.
    pub decider: usize,
    /// Ticks since it was renewed.
    pub lease_age: u8,
    /// What the last step did that must never be done.
    pub wrong: Wrongs,
}

/// What must never be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A VM that was well is reset.
    Healthy,
    /// A VM is reset or stopped that still boots from its last reset, or twice for one attempt.
    Double,
    /// A VM is reset while another still boots from its reset: more than maxInFlight allows, which is 1 here.
    Budget,
    /// A VM is reset more often than maxResets allows.
    Cap,
    /// A VM is started that a person has stopped.
    Unowed,
    /// A VM that was stopped by us stays off for ever. That is no step, but what follows when faults stop.
    LeftOff,
}

/// Which of it a step has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrongs {
    pub healthy: bool,
    pub double: bool,
    pub budget: bool,
    pub cap: bool,
    pub unowed: bool,
}

/// One VM, everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vm {
    pub guest: Guest,
    /// Ticks for which the decider has witnessed silence.
    pub silence: u8,
    /// `status.currentReset`.
    pub journal: Option<Entry>,
    /// Intents that were entered and not withdrawn: they give the next one its name.
    pub begun: u8,
    /// `status.recentResets`: what counts towards maxResets.
    pub counted: u8,
    /// A request that Proxmox has taken and not carried out yet.
    pub request: Option<Request>,
    /// Attempt of the last task that ran in Proxmox, which is the one that the guest has booted from; 0: none yet.
    pub task: u8,
    /// Requests that Proxmox has taken. Nobody in the model sees this number.
    pub resets: u8,
    /// What each controller is doing about this VM.
    pub works: [Work; CONTROLLERS],
    /// What each controller's cache holds of it.
    pub caches: [Cached; CONTROLLERS],
    /// The attempt that each controller remembers to withdraw; 0: none.
    pub to_withdraw: [u8; CONTROLLERS],
    /// The ManagedVM was deleted, and its journal with it.
    pub deleted: bool,
    /// The VMReset of the one PowerCycle that there is.
    pub record: Option<Record>,
    /// A start that Proxmox has taken and not carried out yet, for so many ticks.
    pub start: Option<u8>,
    /// What each controller is doing about the start that is owed.
    pub pays: [Pay; CONTROLLERS],
}

/// What runs in the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    /// It lives, for so many ticks.
    Alive(u8),
    /// It hangs, and does not come back without help (but may).
    Hung,
    /// It boots after a reset, for so many ticks.
    Booting(u8),
    /// There is no QEMU.
    Off(By),
}

/// Who has stopped a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    Us,
    /// So many ticks ago. Like a guest that comes back by itself, one that is stopped between our look and our start cannot be told.
    Person(u8),
}

/// The journal of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub attempt: u8,
    pub holder: usize,
    pub stage: Stage,
    /// Ticks since it came to this stage.
    pub age: u8,
}

/// How far a reset has come, by the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Intended,
    /// The answer was lost.
    Sent,
    /// The task is known.
    Running,
    /// The VM has to prove that it is back.
    Verifying,
}

/// What of a VMReset has to do with the start that is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// It has the finalizer, which holds it when its ManagedVM is deleted, and by which a debt is found.
    pub held: bool,
    /// `status.startOwed` is there.
    pub owed: bool,
    /// A start was asked for, and that was written.
    pub asked: bool,
    pub told: Told,
    /// Ticks since Proxmox's last answer that is written here; without one, since the intent.
    pub age: u8,
}

/// What a VMReset knows of the stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Told {
    #[default]
    Nothing,
    /// Its task.
    Task,
    /// Its task has ended, or the search for it was given up.
    Ended,
}

/// A controller's work on a start that is owed, between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pay {
    #[default]
    Idle,
    /// The VM was off, so many ticks ago.
    SawOff(u8),
    /// Proxmox was asked to start it, which may count as paid.
    Asked { paid: bool },
    /// It runs, and has done so for long enough.
    SawPaid,
    /// The debt is struck out: the record may go.
    Struck,
    /// A record that is held had no debt, and was in no journal.
    SawNothingOwed,
}

/// In Proxmox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub attempt: u8,
    pub age: u8,
}

/// A controller's work on one VM, between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Work {
    pub at: At,
    pub attempt: u8,
    /// Ticks since the decision. At [`EXPIRES`] it is worth nothing any more; so it is at once when the VM is heard of, or when this process stood still.
    pub age: u8,
    /// The ManagedVM is still at the version that was decided on.
    pub unchanged: bool,
    /// For so many ticks its connection has been open.
    pub idle: u8,
}

/// Where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum At {
    #[default]
    Idle,
    Decided,
    /// The intent stands in the journal.
    Intended,
    /// All intents were listed, and they are not too many.
    Listed,
    /// The VMReset is there, and held.
    Recorded,
    /// It has the debt.
    Owed,
    Connected,
    Checked,
    Answered(Answer),
    /// It is to be written down only now that a start is owed.
    Late,
    Withdrawing,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Task,
    Lost,
    NotDelivered,
}

/// A copy from the watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cached {
    pub busy: bool,
    pub begun: u8,
    pub counted: u8,
    /// It is the newest version.
    pub newest: bool,
}

impl World {
    /// Nothing has happened yet, and the first controller decides.
    pub fn new(vms: usize, guest: Guest) -> Self {
        let vm = Vm {
            guest,
            silence: 0,
            journal: None,
            begun: 0,
            counted: 0,
            request: None,
            task: 0,
            resets: 0,
            works: [Work::default(); CONTROLLERS],
            caches: [Cached::default(); CONTROLLERS],
            to_withdraw: [0; CONTROLLERS],
            deleted: false,
            record: None,
            start: None,
            pays: [Pay::default(); CONTROLLERS],
        };
        Self {
            vms: vec![vm; vms],
            decider: 0,
            lease_age: 0,
            wrong: Wrongs::default(),
        }
    }

    /// Each VM was stopped a moment ago, its reset is over, and its start is owed.
    pub fn with_vms_stopped(mut self) -> Self {
        for vm in &mut self.vms {
            vm.guest = Guest::Off(By::Us);
            (vm.begun, vm.counted, vm.task, vm.resets) = (1, 1, 1, 1);
            vm.record = Some(Record {
                held: true,
                owed: true,
                told: Told::Ended,
                ..Record::default()
            });
        }
        self
    }

    /// Whether this controller holds the lease, by its own clock.
    pub fn holds_lease(&self, c: usize) -> bool {
        self.decider == c && self.lease_age < HELD_FOR
    }
}

impl Vm {
    /// Whether it boots, or is about to.
    pub fn in_reset(&self) -> bool {
        self.request.is_some() || matches!(self.guest, Guest::Booting(_))
    }

    /// Whether it is on its way from our stop to its start.
    pub fn in_power_cycle(&self) -> bool {
        self.guest == Guest::Off(By::Us) || self.start.is_some()
    }

    /// Whether no reset of it is under way, as everybody can see.
    pub fn is_left_alone(&self) -> bool {
        let due = self.record.is_some_and(|record| record.held);
        let idle = self.works.iter().all(|work| work.at == At::Idle);
        let on = matches!(self.guest, Guest::Alive(_) | Guest::Hung);
        on && self.journal.is_none() && !due && self.request.is_none() && idle
    }

    /// Another version of the ManagedVM.
    pub fn write(&mut self, journal: Option<Entry>) {
        self.journal = journal;
        for work in &mut self.works {
            work.unchanged = false;
        }
        for cache in &mut self.caches {
            cache.newest = false;
        }
    }
}
