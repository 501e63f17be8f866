//! Rule 8, a step at a time: the start that is owed to a VM which was stopped. As in `steps.rs`, anything may happen between two steps.

use crate::model::Model;
use crate::protocol::{DebtChecked, DebtKept, DebtWritten, LetGo, Paid, SentOn, Started};
use crate::steps::Step;
use crate::world::{At, By, FENCE, Guest, ORPHANED, Pay, RUNS_FOR, Record, STOPPED, Stage, Told, Vm, Work, World};

/// What a controller does about the start that is owed to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Brings the VMReset to what the journal says.
    Copy,
    /// Looks at the VMReset, its ManagedVM and the VM. The connection for a start is open by then.
    Look,
    /// The same, at the end of a process that is asked to end: it has no time to wait for the journal, and may have lost the lease.
    LookAtTheEnd,
    /// Asks Proxmox to start the VM.
    Start { taken: bool },
    /// Writes down that it was asked.
    WriteAsked,
    /// Strikes the debt out, as it is paid.
    Strike,
    /// Takes the finalizer away.
    LetGo,
    /// The reconcile ends with an error, or an answer of the API server was lost.
    Fail,
}

impl Model {
    pub fn due(&self, w: &World, c: usize, v: usize, steps: &mut Vec<Due>) {
        let vm = &w.vms[v];
        match vm.pays[c] {
            Pay::Idle => {
                if w.holds_lease(c) {
                    steps.extend([Due::Copy, Due::Look]);
                }
                steps.push(Due::LookAtTheEnd);
                return;
            }
            Pay::SawOff(_) => steps.extend([true, false].map(|taken| Due::Start { taken })),
            Pay::Asked { .. } => steps.push(Due::WriteAsked),
            Pay::SawPaid => steps.push(Due::Strike),
            Pay::Struck | Pay::SawNothingOwed => steps.push(Due::LetGo),
        }
        steps.push(Due::Fail);
    }

    /// Takes a step. `None`: it cannot be taken now, or changes nothing.
    pub fn pay(&self, w: &mut World, c: usize, v: usize, due: Due) -> Option<()> {
        match due {
            Due::Copy => self.copy(&mut w.vms[v], c)?,
            Due::Look | Due::LookAtTheEnd => {
                if due == Due::LookAtTheEnd {
                    self.restart(w, c);
                }
                let seen = self.look(&w.vms[v], due == Due::LookAtTheEnd)?;
                w.vms[v].pays[c] = seen;
            }
            Due::Start { taken } => {
                let vm = &mut w.vms[v];
                let closed = vm.pays[c] == Pay::SawOff(FENCE) && self.protocol.sent_on == SentOn::ItsOwnConnection;
                if taken && closed {
                    return None;
                }
                let paid = taken && self.protocol.paid == Paid::StartTaskEnded;
                vm.pays[c] = Pay::Asked { paid };
                if taken {
                    w.wrong.unowed = vm.guest == Guest::Off(By::Person(STOPPED));
                    vm.start = Some(0);
                }
            }
            Due::WriteAsked => {
                let vm = &mut w.vms[v];
                let paid = vm.pays[c] == Pay::Asked { paid: true };
                vm.pays[c] = if paid { Pay::SawPaid } else { Pay::Idle };
                // The whole debt is written.
                if let Some(record) = &mut vm.record {
                    record.owed = true;
                    record.asked = true;
                    record.age = 0;
                }
            }
            Due::Strike => {
                let vm = &mut w.vms[v];
                vm.pays[c] = Pay::Struck;
                if let Some(record) = &mut vm.record {
                    record.strike();
                }
            }
            Due::LetGo => {
                let vm = &mut w.vms[v];
                vm.pays[c] = Pay::Idle;
                if let Some(record) = &mut vm.record
                    && (self.protocol.let_go == LetGo::AsSeen || !record.owed)
                {
                    record.held = false;
                }
            }
            Due::Fail => w.vms[v].pays[c] = Pay::Idle,
        }
        Some(())
    }

    /// What there is to do about it.
    fn look(&self, vm: &Vm, at_the_end: bool) -> Option<Pay> {
        let off = matches!(vm.guest, Guest::Off(_));
        let whatever = self.protocol.started == Started::WhateverIsOff && !at_the_end;
        if whatever && off && vm.journal.is_none() && vm.start.is_none() {
            return Some(Pay::SawOff(0));
        }
        let record = vm.record.filter(|record| record.held)?;
        // Of the ManagedVM as it is read now.
        let orphaned = vm.journal.is_none();
        if !record.owed {
            return (orphaned && !at_the_end).then_some(Pay::SawNothingOwed);
        }
        let task_seen = record.told == Told::Task && (orphaned || at_the_end) && vm.task > 0;
        let lost = orphaned && (record.asked || record.age >= ORPHANED);
        let answered = record.told == Told::Ended || task_seen || lost;
        if !answered {
            return None;
        }
        if off {
            // It is not asked for at each look.
            let patient = !record.asked || record.age > 0;
            return patient.then_some(Pay::SawOff(0));
        }
        let since = if lost && record.told == Told::Nothing && !record.asked {
            record.age - ORPHANED
        } else {
            record.age
        };
        let paid = since >= RUNS_FOR || self.protocol.paid == Paid::SeenToRun;
        (paid && !at_the_end).then_some(Pay::SawPaid)
    }

    /// What follows the intent: the VMReset, held, and then the debt in it.
    pub fn write_record(&self, w: &mut World, c: usize, v: usize, step: Step) {
        let vm = &mut w.vms[v];
        let after = self.protocol.debt_written == DebtWritten::AfterTheStop;
        let at = if step == Step::CreateRecord {
            // One that is there already is taken as it is.
            let _ = vm.record.get_or_insert(Record::new());
            At::Recorded
        } else {
            match &mut vm.record {
                Some(record) if self.protocol.debt_checked == DebtChecked::Written || record.held => {
                    record.owed = true;
                    if after { At::Idle } else { At::Owed }
                }
                _ if after => At::Idle,
                _ => At::Withdrawing,
            }
        };
        vm.works[c] = match at {
            At::Idle => Work::default(),
            At::Withdrawing => Work {
                at,
                attempt: vm.works[c].attempt,
                ..Work::default()
            },
            _ => Work { at, ..vm.works[c] },
        };
    }

    /// The VMReset of what was not sent: its debt goes, its finalizer, and then it.
    pub fn take_record_back(vm: &mut Vm) {
        vm.record = match vm.record {
            Some(record) if record.owed => Some(Record { owed: false, ..record }),
            _ => None,
        };
    }

    /// The journal first, then the VMReset: it may be behind.
    fn copy(&self, vm: &mut Vm, c: usize) -> Option<()> {
        let journal = vm.journal.filter(|journal| journal.holder == c)?;
        let told = match journal.stage {
            Stage::Intended | Stage::Sent => return None,
            Stage::Running => Told::Task,
            Stage::Verifying => Told::Ended,
        };
        let after = self.protocol.debt_written == DebtWritten::AfterTheStop;
        let made_anew = Record {
            owed: !after,
            ..Record::new()
        };
        let record = vm.record.get_or_insert(made_anew);
        if record.told == told || record.told == Told::Ended {
            return None;
        }
        record.told = told;
        record.age = 0;
        Some(())
    }

    /// The ManagedVM is deleted, and its journal with it.
    pub fn delete(&self, vm: &mut Vm) {
        vm.deleted = true;
        vm.write(None);
        if self.protocol.debt_kept == DebtKept::InManagedVM {
            vm.record = None;
        }
    }

    /// A process has ended, and its memory with it.
    pub fn forget_debt(&self, vm: &mut Vm, c: usize) {
        vm.pays[c] = Pay::Idle;
        if self.protocol.debt_kept == DebtKept::InMemory {
            vm.record = None;
        }
    }
}

impl Record {
    fn new() -> Self {
        Self {
            held: true,
            ..Self::default()
        }
    }

    fn strike(&mut self) {
        *self = Self {
            held: self.held,
            told: Told::Ended,
            ..Self::default()
        };
    }

    /// Time goes on. Of its ManagedVM only one that is deleted leaves it to itself.
    pub fn tick(&mut self, deletes: bool) {
        let most = match self.told {
            _ if !self.held || !self.owed => 0,
            Told::Nothing if !self.asked && deletes => ORPHANED + RUNS_FOR,
            Told::Nothing if !self.asked => 0,
            _ => RUNS_FOR,
        };
        self.age = (self.age + 1).min(most);
    }
}

impl Pay {
    /// Time goes on.
    pub fn tick(&mut self) {
        if let Self::SawOff(age) = self {
            *age = (*age + 1).min(FENCE);
        }
    }
}
