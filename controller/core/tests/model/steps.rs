//! Rule 5 and what follows it (6 and 7), a step at a time. Between any two steps time may pass, the process may stand still, end, or lose an answer, and the other
//! controller may do anything. Each step is atomic, as one request to a server is.

use crate::model::Model;
use crate::protocol::{
    Ambiguous, Counted, DebtWritten, DecidedOn, LastCheck, Order, Recovered, Resumed, SentOn, TakenOver, Withdrawal, Written,
};
use crate::world::{
    Answer, At, Cached, EXPIRES, Entry, FENCE, FOREIGN_INTENT, Guest, RECOVERY, Request, SEARCH_FOR, Stage, TIMEOUT, Told, WELL, Work,
    World, Wrongs,
};

/// What a controller does about one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The watch brings the newest version.
    Watch,
    /// Reads the ManagedVM and looks at Proxmox: the VM is silent, and nothing forbids a reset.
    Decide,
    /// Enters the intent in the journal.
    EnterIntent,
    /// Lists all intents.
    ListIntents,
    /// Creates the VMReset, held by its finalizer.
    CreateRecord,
    /// Writes into it that a start is owed.
    WriteDebt,
    /// Opens the connection.
    Open,
    /// Looks once more whether to send.
    LastCheck,
    /// Sends the request.
    Post(Fate),
    /// Writes down what was answered.
    Record,
    /// Strikes the debt out, or takes the VMReset back.
    TakeRecordBack,
    /// Takes the intent back.
    Withdraw,
    /// Takes it back, but the answer to that write is lost.
    WithdrawWithoutAnswer,
    /// Goes on with the reset in the journal.
    Continue,
    /// The same, but Proxmox could not be asked for its tasks.
    ContinueWithoutProxmox,
    /// The reconcile ends with an error, or an answer of the API server was lost.
    Fail,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    AnswerLost,
    LostOnTheWay,
    NotDelivered,
}

impl Model {
    /// The steps that this controller might take about this VM, by where its work is. [`Self::step`] says whether it really can.
    /// A reconcile begins only where the lease is held; once begun, it goes on until its last check.
    pub fn steps(&self, w: &World, c: usize, v: usize, steps: &mut Vec<Step>) {
        let vm = &w.vms[v];
        if self.protocol.decided_on == DecidedOn::Cache && !vm.caches[c].newest {
            steps.push(Step::Watch);
        }
        match vm.works[c].at {
            At::Idle if !self.scenario.parallel && w.vms.iter().any(|vm| vm.works[c].at != At::Idle) => return,
            At::Idle if vm.journal.is_some() && w.holds_lease(c) => steps.extend([Step::Continue, Step::ContinueWithoutProxmox]),
            At::Idle => {}
            At::Decided if self.protocol.order == Order::RequestFirst => steps.push(Step::Open),
            At::Decided => steps.push(Step::EnterIntent),
            At::Intended => steps.push(Step::ListIntents),
            At::Listed if self.owes() && self.protocol.debt_written == DebtWritten::BeforeTheStop => steps.push(Step::CreateRecord),
            At::Recorded => steps.push(Step::WriteDebt),
            At::Listed | At::Owed => steps.push(Step::Open),
            At::Late => steps.push(Step::CreateRecord),
            At::Connected => steps.push(Step::LastCheck),
            At::Checked => steps.extend([Fate::Answered, Fate::AnswerLost, Fate::LostOnTheWay, Fate::NotDelivered].map(Step::Post)),
            At::Answered(_) => steps.push(Step::Record),
            At::Withdrawing if vm.record.is_some() => steps.push(Step::TakeRecordBack),
            At::Withdrawing => steps.extend([Step::Withdraw, Step::WithdrawWithoutAnswer]),
        }
        match vm.works[c].at {
            At::Idle if w.holds_lease(c) && vm.silence >= TIMEOUT && (c == 0 || self.scenario.both_decide) => steps.push(Step::Decide),
            At::Idle => {}
            At::Withdrawing => {}
            _ => steps.push(Step::Fail),
        }
    }

    /// Takes a step. `None`: it cannot be taken now.
    pub fn step(&self, w: &mut World, c: usize, v: usize, step: Step) -> Option<()> {
        match step {
            Step::Watch => {
                let vm = &mut w.vms[v];
                vm.caches[c] = Cached {
                    busy: vm.journal.is_some(),
                    begun: vm.begun,
                    counted: vm.counted,
                    newest: true,
                };
            }
            Step::Decide => self.decide(w, c, v)?,
            Step::EnterIntent => self.enter_intent(w, c, v),
            Step::ListIntents => self.list_intents(w, c, v),
            Step::CreateRecord | Step::WriteDebt => self.write_record(w, c, v, step),
            Step::TakeRecordBack => Self::take_record_back(&mut w.vms[v]),
            Step::Open => {
                let work = &mut w.vms[v].works[c];
                work.at = At::Connected;
                work.idle = 0;
            }
            Step::LastCheck => self.last_check(w, c, v),
            Step::Post(fate) => self.post(w, c, v, fate)?,
            Step::Record => self.record(w, c, v),
            Step::Withdraw | Step::WithdrawWithoutAnswer => self.withdraw(w, c, v, step == Step::Withdraw)?,
            Step::Continue => self.go_on(w, c, v, true)?,
            Step::ContinueWithoutProxmox => self.go_on(w, c, v, false)?,
            Step::Fail => w.vms[v].works[c] = Work::default(),
        }
        Some(())
    }

    /// Of a VM that is silent, as the decider has witnessed, and on, as Proxmox says: nothing is under way for it or another, and the cap is not reached.
    fn decide(&self, w: &mut World, c: usize, v: usize) -> Option<()> {
        let read = |v: usize| match self.protocol.decided_on {
            DecidedOn::Cache => w.vms[v].caches[c],
            DecidedOn::LiveRead => Cached {
                busy: w.vms[v].journal.is_some(),
                begun: w.vms[v].begun,
                counted: w.vms[v].counted,
                newest: true,
            },
        };
        if w.vms[v].deleted || matches!(w.vms[v].guest, Guest::Off(_)) {
            return None;
        }
        let vm = read(v);
        let in_flight = (0..w.vms.len()).any(|other| read(other).busy);
        if in_flight || vm.counted >= self.scenario.max_resets || vm.begun > self.scenario.max_resets {
            return None;
        }
        w.vms[v].works[c] = Work {
            at: At::Decided,
            attempt: vm.begun + 1,
            unchanged: vm.newest,
            ..Work::default()
        };
        Some(())
    }

    fn enter_intent(&self, w: &mut World, c: usize, v: usize) {
        let vm = &mut w.vms[v];
        let work = vm.works[c];
        if vm.deleted || (self.protocol.written == Written::BySwap && !work.unchanged) {
            // 409: somebody wrote in between. What was decided is worth nothing; start again.
            vm.works[c] = Work::default();
            return;
        }
        vm.begun = work.attempt;
        if self.protocol.counted == Counted::Intended {
            // The list of resets is written as a whole, as it was read, with this one added.
            vm.counted = work.attempt;
        }
        vm.write(Some(Entry {
            attempt: work.attempt,
            holder: c,
            stage: Stage::Intended,
            age: 0,
        }));
        vm.works[c].at = At::Intended;
    }

    fn list_intents(&self, w: &mut World, c: usize, v: usize) {
        let intents = w.vms.iter().filter(|vm| vm.journal.is_some()).count();
        w.vms[v].works[c].at = if self.protocol.lists_intents && intents > 1 {
            At::Withdrawing
        } else {
            At::Listed
        };
    }

    fn last_check(&self, w: &mut World, c: usize, v: usize) {
        let holds_lease = w.holds_lease(c);
        let work = &mut w.vms[v].works[c];
        let passed = self.protocol.last_check == LastCheck::Missing || (work.age < EXPIRES && holds_lease);
        *work = Work {
            at: if passed { At::Checked } else { At::Withdrawing },
            attempt: work.attempt,
            idle: if passed { work.idle } else { 0 },
            ..Work::default()
        };
    }

    /// The request leaves, on the connection that was opened for it. What Proxmox takes is judged here, by what is true.
    fn post(&self, w: &mut World, c: usize, v: usize, fate: Fate) -> Option<()> {
        let attempt = w.vms[v].works[c].attempt;
        let closed = w.vms[v].works[c].idle >= FENCE && self.protocol.sent_on == SentOn::ItsOwnConnection;
        let taken = matches!(fate, Fate::Answered | Fate::AnswerLost);
        if taken && closed {
            return None;
        }
        if taken {
            let others_boot = (0..w.vms.len()).any(|other| other != v && w.vms[other].in_reset());
            let vm = &mut w.vms[v];
            vm.resets = (vm.resets + 1).min(self.scenario.max_resets + 1);
            w.wrong = Wrongs {
                healthy: vm.guest == Guest::Alive(WELL),
                double: vm.in_reset() || vm.in_power_cycle() || vm.task == attempt,
                budget: others_boot,
                cap: vm.resets > self.scenario.max_resets,
                unowed: false,
            };
            vm.request = Some(Request { attempt, age: 0 });
        }
        let answer = match fate {
            Fate::Answered => Answer::Task,
            Fate::AnswerLost | Fate::LostOnTheWay => Answer::Lost,
            Fate::NotDelivered => Answer::NotDelivered,
        };
        let again = answer == Answer::Lost && self.protocol.ambiguous == Ambiguous::SentAgain;
        w.vms[v].works[c] = Work {
            at: if again { At::Checked } else { At::Answered(answer) },
            attempt,
            ..Work::default()
        };
        Some(())
    }

    fn record(&self, w: &mut World, c: usize, v: usize) {
        let vm = &mut w.vms[v];
        let Work {
            at: At::Answered(answer),
            attempt,
            ..
        } = vm.works[c]
        else {
            return;
        };
        vm.works[c] = Work::default();
        let stage = match answer {
            Answer::Task => Stage::Running,
            Answer::Lost => Stage::Sent,
            Answer::NotDelivered if self.protocol.order == Order::RequestFirst => return,
            Answer::NotDelivered => {
                // Nothing happened: it is taken back.
                vm.works[c] = Work {
                    at: At::Withdrawing,
                    attempt,
                    ..Work::default()
                };
                return;
            }
        };
        let entry = Entry {
            attempt,
            holder: c,
            stage,
            age: 0,
        };
        match (self.protocol.order, vm.journal) {
            (Order::RequestFirst, None) => {
                vm.begun = attempt;
                vm.counted = attempt;
                vm.write(Some(entry));
            }
            (Order::IntentFirst, Some(known)) if known.attempt == attempt && known.holder == c => {
                self.reached(w, v, entry);
            }
            // It is not ours any more.
            _ => {}
        }
        if self.owes() && self.protocol.debt_written == DebtWritten::AfterTheStop {
            w.vms[v].works[c].at = At::Late;
        }
    }

    /// Writes how far a reset has come.
    fn reached(&self, w: &mut World, v: usize, entry: Entry) {
        let vm = &mut w.vms[v];
        if entry.stage == Stage::Running && self.protocol.counted == Counted::TaskKnown {
            vm.counted += 1;
        }
        vm.write(Some(entry));
    }

    fn withdraw(&self, w: &mut World, c: usize, v: usize, answered: bool) -> Option<()> {
        let vm = &mut w.vms[v];
        let attempt = vm.works[c].attempt;
        let ours = vm.journal.is_some_and(|j| j.attempt == attempt && j.holder == c);
        if !ours && !answered {
            return None;
        }
        if ours {
            vm.begun -= 1;
            if self.protocol.counted == Counted::Intended {
                vm.counted -= 1;
            }
            vm.write(None);
            if self.protocol.withdrawal == Withdrawal::OfAName {
                vm.to_withdraw[c] = if answered { 0 } else { attempt };
            }
        }
        vm.works[c] = Work::default();
        Some(())
    }

    /// What is in the journal is all there is: the same record leads to the same step, whoever was there before.
    fn go_on(&self, w: &mut World, c: usize, v: usize, proxmox: bool) -> Option<()> {
        let journal = w.vms[v].journal?;
        if journal.holder != c {
            let watched = journal.age >= FOREIGN_INTENT || self.protocol.taken_over == TakenOver::AtOnce;
            return watched.then(|| w.vms[v].write(Some(Entry { holder: c, ..journal })));
        }
        let vm = &mut w.vms[v];
        if vm.to_withdraw[c] == journal.attempt {
            vm.works[c].at = At::Withdrawing;
            vm.works[c].attempt = journal.attempt;
            return Some(());
        }
        let at = |stage| Entry { stage, age: 0, ..journal };
        let found = proxmox && vm.task == journal.attempt;
        match journal.stage {
            Stage::Intended if self.protocol.resumed == Resumed::BySending => {
                vm.works[c].at = At::Intended;
                vm.works[c].attempt = journal.attempt;
            }
            Stage::Intended | Stage::Sent if found => self.reached(w, v, at(Stage::Running)),
            // Proxmox does not have the task, or could not be asked all that time.
            Stage::Intended if journal.age >= SEARCH_FOR + EXPIRES => self.reached(w, v, at(Stage::Verifying)),
            Stage::Sent if journal.age >= SEARCH_FOR => self.reached(w, v, at(Stage::Verifying)),
            Stage::Running if found => self.reached(w, v, at(Stage::Verifying)),
            Stage::Verifying => {
                let back = match self.protocol.recovered {
                    // A task may have ended before the VM goes off, and no boot of before is new.
                    Recovered::ByNewBoot => vm.task == journal.attempt && vm.request.is_none() && matches!(vm.guest, Guest::Alive(1..)),
                    Recovered::ByTask => true,
                };
                if !back && journal.age < RECOVERY {
                    return None;
                }
                if self.owes() && vm.record.is_none_or(|record| record.told != Told::Ended) {
                    // The end is written into the VMReset first.
                    return None;
                }
                if self.protocol.counted == Counted::Ended {
                    vm.counted += 1;
                }
                vm.write(None);
            }
            Stage::Intended | Stage::Sent | Stage::Running => return None,
        }
        Some(())
    }

    /// A process ends, and starts again: it knows nothing but what was written.
    pub fn restart(&self, w: &mut World, c: usize) {
        let decides = w.decider == c;
        for vm in &mut w.vms {
            vm.works[c] = Work::default();
            vm.caches[c] = Cached::default();
            vm.to_withdraw[c] = 0;
            self.forget_debt(vm, c);
            if decides {
                vm.silence = 0;
            }
        }
    }

    /// The lease passes on. The new decider has heard nothing yet.
    pub fn take_lease(&self, w: &mut World, c: usize) {
        w.decider = c;
        w.lease_age = 0;
        for vm in &mut w.vms {
            vm.silence = 0;
        }
    }
}
