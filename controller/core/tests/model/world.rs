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
/// A guest boots for so long at most ...
pub const BOOT: u8 = 2;
/// ... and for so long a VM has time to recover (`recoveryDeadlineSeconds`).
pub const RECOVERY: u8 = 3;
/// A guest that has lived for so many ticks is well, and must not be reset. A shorter life cannot always be seen: a guest that comes back by itself between the last
/// check and the request was not heard yet. The fence is what makes that window short.
pub const WELL: u8 = FENCE;

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
    /// A VM is reset that still boots from its last reset, or twice for one attempt.
    Double,
    /// A VM is reset while another still boots from its reset: more than maxInFlight allows, which is 1 here.
    Budget,
    /// A VM is reset more often than maxResets allows.
    Cap,
}

/// Which of it a step has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrongs {
    pub healthy: bool,
    pub double: bool,
    pub budget: bool,
    pub cap: bool,
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
    Connected,
    Checked,
    Answered(Answer),
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
        };
        Self {
            vms: vec![vm; vms],
            decider: 0,
            lease_age: 0,
            wrong: Wrongs::default(),
        }
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
