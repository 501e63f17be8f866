//! What a world leaves behind, put in order for the oracles.

use crate::clock::Time;
use crate::plan::{Event, Plan, PolicyPlan};
use crate::proxmox::{Effect, Machine, Post};
use crate::record::{Heard, Log};
use crate::weather::process_of;
use crate::world::World;
use defib_proxmox::PowerAction;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Everything.
pub struct Evidence {
    /// What was planned.
    pub plan: Plan,
    /// When it was taken.
    pub end: Time,
    /// What was written down.
    pub log: Log,
    /// Changes of the four kinds, in order.
    pub writes: Vec<Write>,
    /// Writes of controllers that were answered well and changed nothing: when, which process, kind and name.
    pub idle_writes: Vec<(Time, usize, String, String)>,
    /// POSTs, each with the journal as it was when it was sent.
    pub posts: Vec<Sent>,
    /// Starts and resumes: they are in no journal, and made as often as it takes.
    pub follow_ups: Vec<Post>,
    /// The processes.
    pub processes: Vec<Life>,
    /// The machines at the end.
    pub machines: BTreeMap<u32, Machine>,
    /// The journal of each machine: each change of `currentReset`.
    pub journals: Vec<Vec<Entry>>,
    /// Events that were published, in order.
    pub events: Vec<Told>,
    /// Writes of controllers to the API server but for leases, in the order in which each sent them: which process, and whether it is a mere heartbeat.
    pub sent_writes: Vec<(usize, bool)>,
}

/// An event of Kubernetes.
#[derive(Clone, Debug)]
pub struct Told {
    /// When.
    pub at: Time,
    /// Name of the object that it is about.
    pub about: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// In a word.
    pub reason: String,
    /// In a sentence.
    pub note: String,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Life {
    /// Name in lease and journal.
    pub name: String,
    /// Which controller it is.
    pub controller: usize,
    /// When it was started.
    pub started: Time,
    /// When it died, or was asked to end.
    pub ended: Option<Time>,
}

/// A change of an object.
#[derive(Clone, Debug)]
pub struct Write {
    /// When.
    pub at: Time,
    /// Whose it was; none: a person's, or the garbage collector's.
    pub process: Option<usize>,
    /// Kind in the plural.
    pub resource: String,
    /// Name.
    pub name: String,
    /// Which machine, of a ManagedVM.
    pub vm: Option<usize>,
    /// Before.
    pub before: Option<Arc<Value>>,
    /// After.
    pub after: Option<Arc<Value>>,
}

/// A change of a journal.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// Who made it.
    pub process: Option<usize>,
    /// UID of the ManagedVM.
    pub uid: String,
    /// `currentReset` from then on.
    pub current: Option<Value>,
    /// The whole object before.
    pub before: Option<Arc<Value>>,
}

/// A POST.
#[derive(Clone, Debug)]
pub struct Sent {
    /// As Proxmox saw it.
    pub post: Post,
    /// Which machine.
    pub vm: usize,
    /// The journal at that moment.
    pub current: Option<Value>,
    /// When this reset was entered there.
    pub entered: Time,
    /// The ManagedVM just before that.
    pub declared: Option<Arc<Value>>,
    /// UID of the ManagedVM.
    pub uid: String,
    /// When the journal ended it.
    pub over: Option<Time>,
}

impl Sent {
    /// Name of the VMReset.
    pub fn name(&self) -> &str {
        self.current.as_ref().map_or("", |c| text(c, "name"))
    }

    /// Whether Defib wanted it.
    pub fn is_automatic(&self) -> bool {
        self.current.as_ref().is_none_or(|c| text(c, "trigger") == "Automatic")
    }

    /// Whether it did something, or may have.
    pub fn counts(&self) -> bool {
        !matches!(self.post.effect, Effect::None | Effect::Refused)
    }

    /// When its work was done.
    pub fn done(&self) -> Time {
        self.post.ended.unwrap_or(self.post.sent)
    }
}

/// A text field.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The condition of a type.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| text(c, "type") == type_)
}

const KINDS: [&str; 4] = ["managedvms", "vmresets", "healthpolicies", "proxmoxclusters"];

impl Evidence {
    /// Takes the evidence of a world.
    pub fn of(world: &World) -> Self {
        let plan = world.plan.clone();
        let index: BTreeMap<&str, usize> = plan.vms.iter().enumerate().map(|(n, vm)| (vm.name.as_str(), n)).collect();
        let mut writers = BTreeMap::new();
        let mut idle_writes = Vec::new();
        for entry in world.api.audit() {
            let Some(process) = process_of(&entry.call.client) else { continue };
            if entry.changed() {
                writers.extend(entry.after.or(Some(entry.version)).map(|version| (version, process)));
            } else if entry.call.verb.is_write() && (200..300).contains(&entry.code) && KINDS.contains(&entry.call.resource.as_str()) {
                let at = Time((entry.time.as_millisecond() - world.clock.wall(Time::default()).as_millisecond()) as u64);
                idle_writes.push((at, process, entry.call.resource, entry.call.name));
            }
        }
        let writes: Vec<Write> = world
            .api
            .history(&KINDS)
            .into_iter()
            .map(|c| Write {
                at: world.clock.of(c.at),
                process: writers.get(&c.version).copied(),
                vm: index.get(c.name.as_str()).copied().filter(|_| c.resource == "managedvms"),
                resource: c.resource,
                name: c.name,
                before: c.before,
                after: c.after,
            })
            .collect();
        let journals: Vec<Vec<Entry>> = (0..plan.vms.len()).map(|vm| journal(&writes, vm)).collect();
        // Several ManagedVMs may name one machine: a POST is that of the one whose journal says so.
        let vm_of = |post: &Post| {
            let of_machine = |vm: &usize| plan.vms[*vm].vmid == post.vmid;
            let intends = |vm: &usize| {
                let last = journals[*vm].iter().rev().find(|entry| entry.at <= post.sent);
                last.is_some_and(|entry| entry.current.is_some())
            };
            let candidates: Vec<usize> = (0..plan.vms.len()).filter(of_machine).collect();
            candidates
                .iter()
                .find(|vm| intends(vm))
                .or(candidates.first())
                .copied()
                .unwrap_or_default()
        };
        let (first, follow_ups): (Vec<Post>, Vec<Post>) = world
            .pve()
            .posts
            .iter()
            .cloned()
            .partition(|post| !matches!(post.action, PowerAction::Start | PowerAction::Resume));
        let posts = first.iter().map(|post| sent(post, vm_of(post), &journals)).collect();
        let processes = world
            .processes()
            .iter()
            .map(|p| Life {
                name: world.name_of(p.controller),
                controller: p.controller,
                started: p.started,
                ended: p.ended,
            })
            .collect();
        Self {
            end: world.clock.now(),
            log: std::mem::take(&mut *world.log()),
            writes,
            idle_writes,
            posts,
            follow_ups,
            processes,
            machines: world.pve().machines.clone(),
            journals,
            events: events(world),
            sent_writes: sent_writes(world),
            plan,
        }
    }

    /// The policy of a machine.
    pub fn policy(&self, vm: usize) -> &PolicyPlan {
        let vm = &self.plan.vms[vm];
        vm.own.as_ref().unwrap_or(&self.plan.policies[vm.policy])
    }

    /// The last report of a machine before a moment.
    pub fn heard_before(&self, vm: usize, at: Time) -> Option<&Heard> {
        let until = self.log.heard.partition_point(|h| h.at < at);
        self.log.heard[..until].iter().rev().find(|h| h.vm == vm)
    }

    /// An object as it was at a moment.
    pub fn object_at(&self, resource: &str, name: &str, at: Time) -> Option<&Arc<Value>> {
        let last = self
            .writes
            .iter()
            .rev()
            .find(|w| w.at <= at && w.resource == resource && w.name == name);
        last.and_then(|w| w.after.as_ref())
    }

    /// Whether something holds of an object from one moment to another, all the time.
    pub fn all_the_time(&self, resource: &str, name: &str, from: Time, to: Time, holds: impl Fn(&Value) -> bool) -> bool {
        let first = self.object_at(resource, name, from);
        let later = self
            .writes
            .iter()
            .filter(|w| w.at > from && w.at <= to && w.resource == resource && w.name == name);
        first.is_some_and(|o| holds(o)) && later.into_iter().all(|w| w.after.as_ref().is_some_and(|o| holds(o)))
    }

    /// The time-out of a machine's silence.
    pub fn timeout(&self, vm: usize) -> Duration {
        Duration::from_secs(u64::from(self.policy(vm).timeout))
    }

    /// Whether a minute has not passed since the API server was in trouble.
    pub fn api_trouble(&self, at: Time) -> bool {
        self.troubled(at, |event| match event {
            Event::Api(trouble) => Some(trouble.is_some()),
            Event::Calm => Some(false),
            _ => None,
        })
    }

    /// The same of watches. What they have missed they come to know when all trouble is over.
    pub fn watch_trouble(&self, at: Time) -> bool {
        self.troubled(at, |event| match event {
            Event::Watch(Some(_)) => Some(true),
            Event::Calm => Some(false),
            _ => None,
        })
    }

    fn troubled(&self, at: Time, turns: impl Fn(&Event) -> Option<bool>) -> bool {
        let turned = self.plan.events.iter().take_while(|(when, _)| *when <= at);
        let mut until = Time::default();
        let mut on = false;
        for (when, now_on) in turned.filter_map(|(when, event)| Some((*when, turns(event)?))) {
            if on && !now_on {
                until = when.plus(Duration::from_secs(60));
            }
            on = now_on;
        }
        on || at < until
    }

    /// Whether the clock of a controller's machine was wrong before a moment.
    pub fn clocks_were_wrong(&self, before: Time) -> bool {
        let skew = |(at, event): &(Time, Event)| *at < before && matches!(event, Event::Skew(..));
        self.plan.events.iter().any(skew)
    }
}

fn sent_writes(world: &World) -> Vec<(usize, bool)> {
    let mut sent: Vec<_> = world.api.audit();
    sent.retain(|entry| entry.call.verb.is_write() && entry.call.resource != "leases");
    // Those that were sent together may have been carried out in another order.
    sent.sort_by_key(|entry| entry.call.number);
    let write = |entry: &crate::api_server::Entry| {
        let beat = entry.body.as_ref().is_some_and(|body| !body["status"]["heartbeat"].is_null());
        Some((process_of(&entry.call.client)?, beat))
    };
    sent.iter().filter_map(write).collect()
}

/// A repetition is a change of the event that was there.
fn events(world: &World) -> Vec<Told> {
    let told = |c: crate::api_server::Committed| {
        let event = c.after?;
        Some(Told {
            at: world.clock.of(c.at),
            about: text(&event["regarding"], "name").to_owned(),
            kind: text(&event, "type").to_owned(),
            reason: text(&event, "reason").to_owned(),
            note: text(&event, "note").to_owned(),
        })
    };
    world.api.history(&["events"]).into_iter().filter_map(told).collect()
}

fn journal(writes: &[Write], vm: usize) -> Vec<Entry> {
    let current = |object: &Option<Arc<Value>>| {
        object
            .as_ref()
            .map(|o| &o["status"]["currentReset"])
            .filter(|c| !c.is_null())
            .cloned()
    };
    let changes = writes.iter().filter(|w| w.vm == Some(vm));
    changes
        .filter(|w| w.before.is_none() || w.after.is_none() || current(&w.before) != current(&w.after))
        .map(|w| Entry {
            at: w.at,
            process: w.process,
            uid: w
                .after
                .as_ref()
                .or(w.before.as_ref())
                .map_or("", |o| text(&o["metadata"], "uid"))
                .to_owned(),
            current: current(&w.after),
            before: w.before.clone(),
        })
        .collect()
}

fn sent(post: &Post, vm: usize, journals: &[Vec<Entry>]) -> Sent {
    let journal = &journals[vm];
    let known = journal.partition_point(|entry| entry.at <= post.sent);
    // A person who deletes a ManagedVM just as its request leaves takes the journal with it: it was there, and how long before is looked at elsewhere.
    let deleted = journal[..known]
        .last()
        .is_some_and(|entry| entry.current.is_none() && entry.process.is_none() && entry.before.is_some());
    let known = known - usize::from(deleted);
    let last = known.checked_sub(1).and_then(|n| journal.get(n));
    let current = last.and_then(|entry| entry.current.clone());
    let name = current.as_ref().map(|c| text(c, "name").to_owned());
    let same = |entry: &&Entry| entry.current.as_ref().map(|c| text(c, "name")) == name.as_deref();
    let first = journal[..known].iter().rev().take_while(same).last();
    Sent {
        vm,
        entered: first.map_or(post.sent, |entry| entry.at),
        declared: first.and_then(|entry| entry.before.clone()),
        uid: last.map_or(String::new(), |entry| entry.uid.clone()),
        over: journal[known..].iter().find(|entry| !same(entry)).map(|entry| entry.at),
        current,
        post: post.clone(),
    }
}
