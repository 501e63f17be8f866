//! A small fleet, what people change of it, and the way back.

use crate::generate::{Generator, difference, schema_of};
use defib_api::{HealthPolicySpec, ManagedVMSpec, Mode};
use defib_core::policy::{Effective, Found, effective};
use defib_world::chance::Dice;
use defib_world::clock::Time;
use defib_world::declared::json_merge;
use defib_world::golden::Scenario;
use defib_world::plan::{Event, Key, Object, Plan, Speech};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// By then the fleet has settled, and the first change comes.
const SETTLED: u64 = 90;
/// After the way back, beside what agents wait for: three reports, and the counts of policies. It is shorter than the longest time without a look at a VM (300 s),
/// which is a net under lost events: nothing may hang by it.
const SETTLES: u64 = 240;
/// A report that is longer away is seldom: the world lasts until it has come.
const SHORT: u64 = 60;
/// From the way back until a VM that hangs is well, beside its time-out: start-up grace, vetoes of I/O, three attempts, a boot and the stabilization.
const RECOVERS: u64 = 600;

/// Kind in the plural, and name.
pub type Name = (&'static str, String);
/// Specs by object; none: it is not there.
pub type Specs = BTreeMap<Name, Option<Value>>;

/// Something that somebody declares: a whole spec, or that an object is not there.
#[derive(Clone)]
struct Change {
    at: Time,
    name: Name,
    spec: Option<Value>,
}

/// All that is done to a fleet.
#[derive(Clone)]
pub struct Story {
    /// With what follows from all below.
    pub plan: Plan,
    /// What was declared at first.
    pub first: Specs,
    changes: Vec<Change>,
    /// What was done, in words.
    steps: Vec<(Time, String)>,
    /// What it is at that time is what it must be at the end.
    pub settled: Time,
    /// From then on all is declared as at first.
    back: Time,
    /// The guest that hangs, and when.
    pub hung: Option<(usize, Time)>,
}

impl Story {
    /// The story of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x05ec_5000);
        let mut plan = fleet(&mut dice);
        plan.seed = seed;
        let policies = plan
            .policies
            .iter()
            .map(|p| (("healthpolicies", p.name.clone()), Some(p.spec.clone())));
        let vms = plan.vms.iter().map(|vm| (("managedvms", vm.name.clone()), Some(vm.spec.clone())));
        let spare = (("healthpolicies", "spare".to_owned()), None);
        let first: Specs = policies.chain(vms).chain([spare]).collect();
        let slow = dice.percent(8);
        let settled = Time::seconds(SETTLED);
        let (mut specs, mut changes) = (first.clone(), Vec::new());
        let mut longest = told_to_wait(&specs);
        let mut at = settled.plus(Duration::from_millis(1));
        for _ in 0..dice.between(2, 9) {
            let (name, spec) = loop {
                let (name, spec) = choose(&mut dice, &specs, &first, at);
                let mut changed = specs.clone();
                changed.insert(name.clone(), spec.clone());
                if slow || told_to_wait(&changed) <= SHORT {
                    break (name, spec);
                }
            };
            specs.insert(name.clone(), spec.clone());
            longest = longest.max(told_to_wait(&specs));
            changes.push(Change { at, name, spec });
            at = at.plus(dice.seconds(5, 60));
        }
        let hangs = !slow && dice.percent(35);
        let may_hang: Vec<usize> = (0..plan.vms.len()).filter(|vm| is_reset_at_first(&first, &plan, *vm)).collect();
        let hung = (hangs && !may_hang.is_empty()).then(|| (dice.pick(&may_hang), Time(dice.between(settled.0 + 2, at.0))));
        // An agent comes when it was told to, whatever is declared since, and until then its silence is longer too.
        let (wait, recovers) = if hung.is_none() { (1, 0) } else { (4, RECOVERS) };
        plan.calm = at;
        plan.end = at.plus(Duration::from_secs(longest * wait + SETTLES + recovers));
        let mut story = Self {
            plan,
            first,
            changes,
            steps: Vec::new(),
            settled,
            back: at,
            hung,
        };
        story.plan_events();
        story
    }

    /// The same without one change, or without its hang; none where there is nothing more to leave out.
    pub fn without(&self, n: usize) -> Option<Self> {
        let mut less = self.clone();
        if n < self.changes.len() {
            less.changes.remove(n);
        } else {
            (n == self.changes.len()).then(|| less.hung.take())??;
        }
        less.plan_events();
        Some(less)
    }

    fn plan_events(&mut self) {
        (self.plan.events, self.steps) = (Vec::new(), Vec::new());
        let mut specs = self.first.clone();
        for change in self.changes.clone() {
            self.declare(change, &mut specs);
        }
        for (name, spec) in self.first.clone() {
            if specs[&name] != spec {
                self.declare(Change { at: self.back, name, spec }, &mut specs);
            }
        }
        if let Some((vm, at)) = self.hung {
            self.plan.events.push((at, Event::Hang(vm, 0)));
            self.steps.push((at, format!("the guest of {} hangs", self.plan.vms[vm].name)));
        }
        self.plan.events.sort_by_key(|(at, _)| *at);
        self.steps.sort_by_key(|(at, _)| *at);
    }

    fn declare(&mut self, Change { at, name, spec: new }: Change, specs: &mut Specs) {
        let old = specs.insert(name.clone(), new.clone()).flatten();
        let (resource, object) = name;
        let (event, told) = match (&old, &new) {
            // It was not there.
            (None, None) => return,
            (Some(_), None) => (Event::Remove(resource, object.clone()), format!("{resource}/{object} is deleted")),
            (old, Some(new)) => {
                let patch = old.as_ref().map_or_else(|| new.clone(), |old| difference(old, new));
                let told = format!("{resource}/{object}: {}{patch}", if old.is_none() { "made as " } else { "" });
                let event = Event::Declare(Object {
                    resource,
                    name: object.clone(),
                    fields: json!({ "spec": patch }),
                    told: told.clone(),
                });
                (event, told)
            }
        };
        self.plan.events.push((at, event));
        self.steps.push((at, told));
        // The agent gets its new key at once. One that keeps an old one is another story.
        if let Some(vm) = self.plan.vms.iter().position(|vm| resource == "managedvms" && vm.name == object) {
            let generation = |spec: &Option<Value>| spec.as_ref().and_then(|s| s["agent"]["keyGeneration"].as_u64()).unwrap_or(1);
            if generation(&old) != generation(&new) {
                let key = Key::Generation(u32::try_from(generation(&new)).unwrap());
                self.plan.events.push((at, Event::Speaks(vm, Speech { key, ..quiet() })));
            }
        }
    }

    /// For who wants to know what was done.
    pub fn told(&self) -> String {
        let mut text = format!("seed {}, at first:\n", self.plan.seed);
        for ((resource, name), spec) in &self.first {
            if let Some(spec) = spec {
                writeln!(text, "  {resource}/{name}: {spec}").unwrap();
            }
        }
        let mut back = None;
        for (at, step) in &self.steps {
            if *at == self.back {
                back.get_or_insert_with(|| text.push_str("back:\n"));
            }
            writeln!(text, "  {at}  {step}").unwrap();
        }
        writeln!(text, "end: {}", self.plan.end).unwrap();
        text
    }
}

/// What applies to a VM by these specs.
pub fn applies(specs: &Specs, vm: &Value) -> Effective {
    let named = vm["policyRef"]["name"].as_str();
    let name = named.unwrap_or("default");
    let policy = specs.get(&("healthpolicies", name.to_owned())).cloned().flatten();
    let policy: Option<HealthPolicySpec> = policy.map(|spec| serde_json::from_value(spec).unwrap());
    let found = match (&policy, named) {
        (Some(spec), _) => Found::Policy { name, spec },
        (None, Some(name)) => Found::Missing(name),
        (None, None) => Found::None,
    };
    let vm: ManagedVMSpec = serde_json::from_value(vm.clone()).unwrap();
    effective(&vm, found)
}

/// The longest that an agent is told to wait for its next report, in seconds.
fn told_to_wait(specs: &Specs) -> u64 {
    let vms = specs.iter().filter(|((resource, _), _)| *resource == "managedvms");
    let told = vms.filter_map(|(_, spec)| Some(applies(specs, spec.as_ref()?).report.as_secs()));
    told.max().unwrap_or(0)
}

/// Whether a VM that hangs is reset by the first specs.
fn is_reset_at_first(first: &Specs, plan: &Plan, vm: usize) -> bool {
    let spec = &plan.vms[vm].spec;
    spec["pauses"].is_null() && applies(first, spec).mode == Mode::Enforce
}

/// What somebody declares next.
fn choose(dice: &mut Dice, specs: &Specs, first: &Specs, at: Time) -> (Name, Option<Value>) {
    let names: Vec<Name> = specs.keys().cloned().collect();
    let of = |resource: &str| names.iter().filter(|name| name.0 == resource).cloned().collect::<Vec<Name>>();
    let name = if dice.percent(60) {
        dice.pick(&of("managedvms"))
    } else {
        dice.pick(&of("healthpolicies"))
    };
    let schema = schema_of(name.0);
    let now = (at.0 / 1000) as i64;
    let old = specs[&name].clone();
    let remove = name.0 == "healthpolicies" && dice.percent(12);
    let whole = dice.percent(15);
    let again = dice.percent(30);
    let mut generator = Generator { dice, now };
    let new = match old {
        Some(_) if remove => return (name, None),
        // A policy that was deleted is made again, as it was or as another one.
        None if again => first[&name].clone().unwrap_or_else(|| generator.value(schema)),
        None => generator.value(schema),
        Some(mut old) if whole => {
            let mut new = generator.value(schema);
            if name.0 == "managedvms" {
                new["proxmox"] = old["proxmox"].take();
            }
            new
        }
        Some(mut old) => {
            let patch = generator.change(schema, &old);
            json_merge(&mut old, &patch);
            old
        }
    };
    (name, Some(new))
}

/// An agent that reports the least that a threshold may allow: none is exceeded, whatever it says.
fn quiet() -> Speech {
    Speech {
        cpu: 1,
        memory: 1,
        disk: 1,
        ..Speech::default()
    }
}

/// Three to six VMs and two policies, as people have them.
fn fleet(dice: &mut Dice) -> Plan {
    // Nobody is to wait for the built-in five minutes each time.
    let mut policy = || {
        let report = dice.between(3, 10);
        let heartbeat = json!({"reportSeconds": report, "timeoutSeconds": report * 4 + dice.between(0, 20)});
        let mode = if dice.percent(85) { "Enforce" } else { "Observe" };
        json!({
            "heartbeat": heartbeat,
            "resetPolicy": {"mode": mode, "maxResets": dice.between(2, 4), "steps": dice.pick(&[Value::Null, json!([
                {"action": "Reset", "maxAttempts": 2, "recoveryDeadlineSeconds": 60},
                {"action": "PowerCycle", "maxAttempts": 1, "recoveryDeadlineSeconds": 60},
            ])])},
            "budget": dice.pick(&[Value::Null, json!({"maxInFlight": 2, "maxUnhealthy": "50%", "stormCooldownSeconds": 30})]),
            "thresholds": dice.pick(&[Value::Null, json!([{"metric": "CPU", "action": "Alert", "percent": 80, "durationSeconds": 10}])]),
            "maintenanceWindows": dice.pick(&[Value::Null, Value::Null, json!([{"schedule": "30 2 * * SUN", "durationSeconds": 3600}])]),
        })
    };
    let policies = json!({"default": policy(), "batch": policy()});
    let vms: BTreeMap<String, Value> = (0..dice.between(3, 6))
        .map(|n| {
            let mut spec = json!({"policyRef": dice.pick(&[Value::Null, json!({"name": "default"}), json!({"name": "batch"})])});
            match dice.between(0, 9) {
                0 => spec["powerState"] = json!("Running"),
                1 => spec["pauses"] = json!([{"owner": "ops", "reason": "migration"}]),
                2 => spec["resetPolicy"] = json!({"mode": "Observe"}),
                3 => spec["heartbeat"] = json!({"timeoutSeconds": 60}),
                4 => spec["thresholds"] = json!([{"metric": "Memory", "action": "Alert", "percent": 90, "durationSeconds": 10}]),
                _ => {}
            }
            let vm = json!({"guestAgent": dice.percent(60), "bootSeconds": dice.between(4, 12), "spec": spec});
            (format!("vm-{n}"), vm)
        })
        .collect();
    let scenario = json!({"about": "specs", "setup": {"policies": policies, "vms": vms, "maxInFlight": 3}, "timeline": []});
    let mut plan = Scenario::read(&scenario.to_string()).and_then(|s| s.plan()).unwrap();
    for vm in &mut plan.vms {
        vm.speech = quiet();
    }
    plan
}
