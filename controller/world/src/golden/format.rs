//! The format of a scenario, and the plan that follows from it.

use super::happening::{Happening, Spoken};
use crate::clock::Time;
use crate::declared::json_merge;
use crate::plan::{Event, Plan, Point, PolicyPlan, Speech, Start, Theme, VmPlan};
use defib_api::{HealthPolicySpec, IntOrPercent, ManagedVMSpec, PowerState, StepAction};
use defib_core::policy::{Effective, Found, effective};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A world goes on for so long after the last thing that happens in it.
const AFTERWARDS: u64 = 60;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, and why that is right.
    pub about: String,
    #[serde(default)]
    setup: Setup,
    timeline: Vec<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Setup {
    /// Specs of HealthPolicies, each a merge patch over `usual_policy`.
    #[serde(default)]
    policies: BTreeMap<String, Value>,
    #[serde(default)]
    vms: BTreeMap<String, VmSetup>,
    #[serde(default)]
    controllers: Controllers,
    #[serde(default)]
    observe_only: bool,
    max_in_flight: Option<u32>,
    max_unhealthy: Option<IntOrPercent>,
    own_host: Option<String>,
    /// How long a controller that died or was asked to end stays away, in seconds.
    away: Option<u64>,
    /// When the world ends, in seconds.
    end: Option<u64>,
}

/// How many controllers there are, and what they share.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Controllers {
    #[default]
    One,
    /// Two share a Lease.
    Two,
    /// Two have one each: two installations.
    Rivals,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VmSetup {
    vmid: Option<u32>,
    /// It has a QEMU guest agent.
    #[serde(default)]
    guest_agent: bool,
    boot_seconds: Option<u64>,
    first_report: Option<u64>,
    #[serde(default)]
    agent: Spoken,
    /// A merge patch over a spec that names its VMID and the policy `default`.
    #[serde(default)]
    spec: Value,
}

fn usual_policy() -> Value {
    json!({
        "heartbeat": {"reportSeconds": 5, "timeoutSeconds": 20, "startupGraceSeconds": 10},
        "resetPolicy": {
            "mode": "Enforce",
            "steps": [{"action": "Reset", "maxAttempts": 2, "recoveryDeadlineSeconds": 60}],
            "maxResets": 3, "windowSeconds": 3600, "stabilizationSeconds": 10,
            "corroborate": {"maxVetoSeconds": 60},
        },
        "budget": {"maxUnhealthy": "50%", "maxInFlight": 1, "stormCooldownSeconds": 30},
    })
}

impl Scenario {
    /// Reads one.
    ///
    /// # Errors
    /// When it is no YAML, or has a field that nobody knows; with the place.
    pub fn read(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// The plan that follows from it.
    ///
    /// # Errors
    /// When something in it cannot be understood.
    pub fn plan(&self) -> Result<Plan, String> {
        let setup = &self.setup;
        let mut declared = setup.policies.clone();
        declared.entry("default".into()).or_insert(json!({}));
        let mut policies = Vec::new();
        for (name, patch) in &declared {
            policies.push(policy(name, patch).map_err(|error| format!("policy {name}: {error}"))?);
        }
        let mut named = setup.vms.clone();
        if named.is_empty() {
            named.insert("web".into(), VmSetup::default());
        }
        let names: Vec<String> = named.keys().cloned().collect();
        let mut vms = Vec::new();
        for (index, (name, vm)) in named.iter().enumerate() {
            vms.push(vm_plan(index, name, vm, &policies).map_err(|error| format!("VM {name}: {error}"))?);
        }
        let own_host = setup.own_host.as_ref().map(|name| place(&names, name)).transpose()?;
        let mut plan = Plan {
            seed: 0,
            theme: match setup.controllers {
                Controllers::One => Theme::Plain,
                Controllers::Two => Theme::Two,
                Controllers::Rivals => Theme::Rivals,
            },
            vms,
            policies,
            max_in_flight: setup.max_in_flight.unwrap_or(3),
            calm: Time::default(),
            probe: Time(u64::MAX / 2),
            end: Time::default(),
            events: Vec::new(),
            reached: Vec::new(),
            start: Start {
                observe_only: setup.observe_only,
                max_unhealthy: setup.max_unhealthy.clone().unwrap_or_else(|| Start::default().max_unhealthy),
                own_host,
                away: setup.away.map(Duration::from_secs),
                crashes: Vec::new(),
            },
        };
        let mut speech: Vec<Speech> = plan.vms.iter().map(|vm| vm.speech.clone()).collect();
        for (number, entry) in self.timeline.iter().enumerate() {
            let happens = read_entry(entry, &names, &mut speech).map_err(|error| format!("timeline, entry {}: {error}", number + 1))?;
            match happens {
                (at, None, event) => plan.events.push((at, event)),
                (from, Some(point), event) => plan.reached.push((from, point, event)),
            }
        }
        plan.events.sort_by_key(|(at, _)| *at);
        let last = plan.events.iter().map(|(at, _)| *at).max().unwrap_or_default();
        plan.end = setup.end.map_or_else(|| last.plus(Duration::from_secs(AFTERWARDS)), Time::seconds);
        if plan.end < last {
            return Err(format!("it ends at {}, and something happens at {last}", plan.end));
        }
        plan.calm = plan.end;
        Ok(plan)
    }
}

fn place(names: &[String], name: &str) -> Result<usize, String> {
    let found = names.iter().position(|known| known == name);
    found.ok_or_else(|| format!("there is no VM {name:?}; there are {}", names.join(", ")))
}

fn policy(name: &str, patch: &Value) -> Result<PolicyPlan, String> {
    let mut spec = usual_policy();
    json_merge(&mut spec, patch);
    let typed: HealthPolicySpec = known(&spec)?;
    let applies = effective(&ManagedVMSpec::new("", 0), Found::Policy { name, spec: &typed });
    Ok(numbers(name, &applies, spec))
}

/// What oracles judge by.
fn numbers(name: &str, applies: &Effective, spec: Value) -> PolicyPlan {
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    let attempts = |action| {
        applies
            .steps
            .iter()
            .filter(|step| step.action == action)
            .map(|step| step.max_attempts)
            .sum()
    };
    let (max_unhealthy, most_unhealthy) = match &applies.max_unhealthy {
        IntOrPercent::Percent(text) => (text.trim_end_matches('%').parse().unwrap_or(100), None),
        IntOrPercent::Count(count) => (100, Some(*count)),
    };
    PolicyPlan {
        name: name.into(),
        report: seconds(applies.report),
        timeout: seconds(applies.timeout),
        grace: seconds(applies.startup_grace),
        guest_reboots: attempts(StepAction::GuestReboot),
        attempts: attempts(StepAction::Reset),
        power_cycles: attempts(StepAction::PowerCycle),
        recovery: applies
            .steps
            .iter()
            .map(|step| step.recovery_deadline_seconds)
            .min()
            .unwrap_or_default(),
        max_resets: applies.max_resets,
        window: seconds(applies.window),
        stabilization: seconds(applies.stabilization),
        max_in_flight: applies.max_in_flight,
        max_unhealthy,
        veto: seconds(applies.max_veto),
        most_unhealthy,
        spec,
    }
}

fn vm_plan(index: usize, name: &str, setup: &VmSetup, policies: &[PolicyPlan]) -> Result<VmPlan, String> {
    let vmid = setup.vmid.unwrap_or(101 + u32::try_from(index).unwrap_or_default());
    let mut spec = json!({"proxmox": {"clusterRef": {"name": crate::declared::CLUSTER}, "vmid": vmid}, "policyRef": {"name": "default"}});
    if !setup.spec.is_null() {
        json_merge(&mut spec, &setup.spec);
    }
    let typed: ManagedVMSpec = known(&spec)?;
    let named = typed.policy_ref.as_ref().map_or("default", |r| r.name.as_str());
    // Where the policy does not exist, nothing is reset, and no number matters.
    let policy = policies.iter().position(|p| p.name == named).unwrap_or_default();
    let of_policy: HealthPolicySpec = known(&policies[policy].spec)?;
    let found = Found::Policy {
        name: named,
        spec: &of_policy,
    };
    let own = typed.heartbeat.is_some() || typed.reset_policy.is_some();
    let numbers = own.then(|| numbers(&policies[policy].name, &effective(&typed, found), policies[policy].spec.clone()));
    let mut speech = Speech::default();
    setup.agent.change(&mut speech);
    Ok(VmPlan {
        name: name.into(),
        vmid,
        policy,
        guest_agent: setup.guest_agent,
        is_to_run: typed.power_state == Some(PowerState::Running),
        boot_takes: Duration::from_secs(setup.boot_seconds.unwrap_or(8)),
        first_report: Duration::from_secs(setup.first_report.unwrap_or(4)),
        speech,
        spec,
        own: numbers,
    })
}

/// A spec as its type, which drops fields that it does not know: here each is an error.
pub(super) fn known<T: DeserializeOwned + serde::Serialize>(spec: &Value) -> Result<T, String> {
    let dated = with_times(spec);
    let typed: T = serde_json::from_value(dated.clone()).map_err(|error| error.to_string())?;
    let kept = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    match dropped(&dated, &kept, String::new()) {
        Some(path) => Err(format!("unknown field `{path}`")),
        None => Ok(typed),
    }
}

/// Texts such as `@90` are times. Which time it is does not matter here.
fn with_times(value: &Value) -> Value {
    match value {
        Value::String(text) if text.strip_prefix('@').is_some_and(|s| s.parse::<i64>().is_ok()) => json!("2027-01-15T08:00:00Z"),
        Value::Array(items) => items.iter().map(with_times).collect(),
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), with_times(field))).collect(),
        _ => value.clone(),
    }
}

/// Lists of the specs.
const LISTS: [&str; 3] = ["pauses", "thresholds", "maintenanceWindows"];

fn dropped(given: &Value, kept: &Value, path: String) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), kept) => given.iter().find_map(|(name, field)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match kept.get(name) {
                Some(kept) => dropped(field, kept, path),
                // A list that is empty is left out when it is written.
                None if LISTS.contains(&name.as_str()) && field.as_array().is_some_and(Vec::is_empty) => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let mut both = given.iter().zip(kept).enumerate();
            both.find_map(|(n, (given, kept))| dropped(given, kept, format!("{path}[{n}]")))
        }
        _ => None,
    }
}

/// When, at which point of a reset, and what.
fn read_entry(entry: &Map<String, Value>, names: &[String], speech: &mut [Speech]) -> Result<(Time, Option<Point>, Event), String> {
    let mut entry = entry.clone();
    let at = entry.remove("at");
    let seconds = |value: &Value| {
        value
            .as_f64()
            .filter(|s| *s >= 0.0)
            .ok_or_else(|| format!("`at` is {value}, not seconds"))
    };
    let time = |value: &Value| seconds(value).map(|s| Time((s * 1000.0) as u64));
    let point = match entry.remove("on") {
        None => None,
        Some(Value::String(point)) => Some(match point.as_str() {
            "look" => Point::Look,
            "intent" => Point::Intent,
            "open" => Point::Open,
            "post" => Point::Post,
            other => return Err(format!("`on` is {other:?}, not look, intent, open or post")),
        }),
        Some(other) => return Err(format!("`on` is {other}, not look, intent, open or post")),
    };
    let at = match (&at, point) {
        (Some(at), _) => time(at)?,
        (None, Some(_)) => Time::default(),
        (None, None) => return Err("`at` is missing".into()),
    };
    if entry.len() != 1 {
        let fields: Vec<&String> = entry.keys().collect();
        return Err(format!("one thing happens in an entry, here {fields:?}"));
    }
    let happening: Happening = serde_json::from_value(Value::Object(entry)).map_err(|error| error.to_string())?;
    let event = happening.event(names, speech, at)?;
    Ok((at, point, event))
}

/// Which VM has this name.
pub(super) fn index(names: &[String], name: &str) -> Result<usize, String> {
    place(names, name)
}
