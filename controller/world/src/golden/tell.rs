//! The story of a world in prose: what happened, and what Defib made of it.

use crate::clock::{Time, WorldClock};
use crate::evidence::{Evidence, Write, condition, text};
use crate::proxmox::{Effect, Post, Power};
use defib_proxmox::PowerAction;
use regex_lite::{Captures, Regex};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// A line: when, of whom, and what.
type Line = (Time, String, String);

/// The whole story.
pub fn story(about: &str, e: &Evidence) -> String {
    let mut lines: Vec<Line> = Vec::new();
    let name = |vm: Option<usize>| vm.map_or(String::new(), |vm| e.plan.vms[vm].name.clone());
    for (at, vm, text) in &e.log.lines {
        lines.push((*at, name(*vm), text.clone()));
    }
    for w in &e.writes {
        let several = living(e, w.at) > 1;
        let who = w.process.filter(|_| several).map_or(String::new(), |p| format!(" (process {p})"));
        lines.extend(written(w).into_iter().map(|(whose, text)| (w.at, whose, text + &who)));
    }
    for s in &e.posts {
        let several = living(e, s.post.sent) > 1;
        let who = if several {
            format!(" (process {})", s.post.process)
        } else {
            String::new()
        };
        lines.push((s.post.sent, name(Some(s.vm)), posted(&s.post) + &who));
    }
    for post in &e.follow_ups {
        let vm = e.plan.vms.iter().position(|vm| vm.vmid == post.vmid);
        lines.push((post.sent, name(vm), posted(post)));
    }
    for told in e.events.iter().filter(|told| !is_told_by_a_condition(e, told)) {
        let note = if is_told_by_its_vmreset(e, told) {
            String::new()
        } else {
            format!(": {}", told.note)
        };
        lines.push((told.at, told.about.clone(), format!("event {}{note}", told.reason)));
    }
    for vm in 0..e.plan.vms.len() {
        lines.extend(heard(e, vm).into_iter().map(|(at, text)| (at, name(Some(vm)), text)));
    }
    lines.push((e.end, String::new(), "the end".into()));
    in_order(e, &mut lines);
    shorten(e, &mut lines);
    let width = e.plan.vms.iter().map(|vm| vm.name.len()).max().unwrap_or_default();
    let mut story = format!("{}\n\n", about.trim());
    let names = Names::of(e);
    for (at, whose, text) in lines {
        let text = names.plain(&text);
        let of_vm = e.plan.vms.iter().any(|vm| vm.name == whose);
        let (who, text) = match (of_vm, whose.is_empty()) {
            (true, _) => (whose.as_str(), text),
            (false, true) => ("", text),
            (false, false) => ("", format!("{}: {text}", names.plain(&whose))),
        };
        let (minutes, seconds) = (at.0 / 60_000, at.0 / 1000 % 60);
        let _ = writeln!(story, "{minutes:02}:{seconds:02}  {who:width$}  {text}");
    }
    story
}

/// In the order of time. What happens to several VMs in one second is told of one after the other: which of them is first by a millisecond means nothing, and is
/// chance where they are equal.
fn in_order(e: &Evidence, lines: &mut [Line]) {
    let is_vm = |line: &Line| e.plan.vms.iter().any(|vm| vm.name == line.1);
    // Of equal times, what happens to all comes first.
    lines.sort_by(|a, b| (a.0, is_vm(a), &a.1).cmp(&(b.0, is_vm(b), &b.1)));
    for second in lines.chunk_by_mut(|a, b| a.0.0 / 1000 == b.0.0 / 1000 && is_vm(a) == is_vm(b)) {
        if second.first().is_some_and(is_vm) {
            second.sort_by(|a, b| a.1.cmp(&b.1));
        }
    }
}

/// What a world begins with is the same almost everywhere, and is told in a line.
fn shorten(e: &Evidence, lines: &mut Vec<Line>) {
    let is_vm = |name: &str| e.plan.vms.iter().any(|vm| vm.name == name);
    lines.retain(|(at, whose, text)| *at > BEGINNING || is_vm(whose) || !USUAL.iter().any(|usual| text.starts_with(usual)));
    for vm in 0..e.plan.vms.len() {
        let name = &e.plan.vms[vm].name;
        if e.heard_before(vm, BEGINNING).is_none() {
            continue;
        }
        // What is so before the first report.
        lines.retain(|(at, whose, text)| *at > BEGINNING || whose != name || !AT_FIRST.iter().any(|first| text.starts_with(first)));
        let mut well = 0;
        let part_of_it = |line: &Line| line.1 == *name && line.0 < BEGINNING && WELL.iter().any(|well| line.2.starts_with(well));
        if lines.iter().filter(|line| part_of_it(line)).count() == WELL.len() {
            lines.retain_mut(|line| {
                if !part_of_it(line) {
                    return true;
                }
                well += 1;
                line.2 = "is adopted, reports, and is armed".into();
                well == WELL.len()
            });
        }
    }
}

/// By then all that is well has reported.
const BEGINNING: Time = Time(10_000);
const FIRST: &str = "its first report is taken";
const USUAL: [&str; 4] = [
    "controller process 0 starts as defib-0",
    "Ready True Connected",
    "Ready True Valid",
    "StormActive False Calm",
];
const AT_FIRST: [&str; 5] = [
    "Ready Unknown NeverReported",
    "HeartbeatFresh Unknown NeverReported",
    "WithinThresholds True NoThresholds",
    "ResetAllowed False NeverReported",
    "Adopted Unknown ProxmoxUnreachable: Proxmox was not read yet",
];
const WELL: [&str; 5] = [
    FIRST,
    "Ready True Healthy",
    "HeartbeatFresh True Fresh",
    "ResetAllowed True Armed",
    "Adopted True Adopted",
];

/// Processes that live at a moment.
fn living(e: &Evidence, at: Time) -> usize {
    e.processes
        .iter()
        .filter(|p| p.started <= at && p.ended.is_none_or(|end| at < end))
        .count()
}

/// When a VM was heard of last before a silence, and when it was heard of again.
fn heard(e: &Evidence, vm: usize) -> Vec<(Time, String)> {
    let mut lines = Vec::new();
    let heard: Vec<Time> = e.log.heard.iter().filter(|h| h.vm == vm).map(|h| h.at).collect();
    if let Some(first) = heard.first() {
        lines.push((*first, FIRST.to_owned()));
    }
    let missed = e.timeout(vm) / 2;
    for pair in heard.windows(2) {
        if let [last, next] = pair
            && next.since(*last) > missed
        {
            lines.push((*last, "its last report for a while".to_owned()));
            lines.push((*next, format!("it reports again, after {} s", next.since(*last).as_secs())));
        }
    }
    if let Some(last) = heard.last().filter(|last| e.end.since(**last) > missed) {
        lines.push((*last, "its last report".to_owned()));
    }
    lines
}

/// Its words are those of a condition that changed with it: told already.
fn is_told_by_a_condition(e: &Evidence, told: &crate::evidence::Told) -> bool {
    let conditions = |object: &Value| object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let same = |w: &&Write| w.name == told.about && w.at <= told.at && told.at.since(w.at).as_secs() < 5;
    let shown = e.writes.iter().filter(same).filter_map(|w| w.after.as_ref());
    shown
        .flat_map(|object| conditions(object))
        .any(|c| SHOWN.contains(&text(&c, "type")) && text(&c, "message") == told.note)
}

/// Its words are those of a VMReset: why it was opened, or how it ended.
fn is_told_by_its_vmreset(e: &Evidence, told: &crate::evidence::Told) -> bool {
    let of_reset = |w: &&Write| w.resource == "vmresets" && w.at <= told.at && told.note.contains(&w.name);
    let mut objects = e.writes.iter().filter(of_reset).filter_map(|w| w.after.as_ref());
    objects.any(|o| {
        let (why, end) = (text(&o["spec"], "reason"), text(&o["status"], "message"));
        (!why.is_empty() && told.note.ends_with(why)) || (!end.is_empty() && told.note.ends_with(end))
    })
}

/// Conditions whose changes are told.
const SHOWN: [&str; 5] = ["Ready", "HeartbeatFresh", "WithinThresholds", "ResetAllowed", "Adopted"];

fn posted(post: &Post) -> String {
    let came_of_it = match post.effect {
        Effect::OnItsWay => "it is still on its way",
        Effect::None => "it does not arrive",
        Effect::Refused => "Proxmox refuses it",
        Effect::Reset if post.action == PowerAction::Resume => "the guest goes on",
        Effect::Reset if post.power.is_some_and(|(power, _)| power != Power::Running) => "QEMU is in prelaunch, and nothing executes",
        Effect::Reset => "the machine is reset",
        Effect::Nothing => "nothing happens to the guest",
        Effect::Stopped => "QEMU ends: the machine is stopped",
        Effect::Started => "QEMU starts anew",
    };
    format!("POST {} to {}: {came_of_it}", post.action, post.node)
}

/// What a write changes, in words, and of whom.
fn written(w: &Write) -> Vec<(String, String)> {
    let null = Value::Null;
    let (before, after) = (w.before.as_deref().unwrap_or(&null), w.after.as_deref().unwrap_or(&null));
    let lines = match w.resource.as_str() {
        "managedvms" => of_vm(before, after),
        "vmresets" => return of_reset(w, before, after),
        _ => of_other(before, after),
    };
    lines.into_iter().map(|line| (w.name.clone(), line)).collect()
}

fn of_vm(before: &Value, after: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if after.is_null() {
        return vec!["its ManagedVM is gone".into()];
    }
    let (old, new) = (&before["status"]["currentReset"], &after["status"]["currentReset"]);
    if new.is_object() && old["name"] != new["name"] {
        lines.push(format!(
            "intent: {} {}, step {}, attempt {}",
            text(new, "action"),
            text(new, "name"),
            new["step"],
            new["attempt"]
        ));
    }
    for field in ["holder", "upid", "answer", "taskResult"] {
        let plain = field == "taskResult" && new[field] == "OK";
        if new.is_object() && old["name"] == new["name"] && old[field] != new[field] && !plain {
            let value = new[field].as_str().unwrap_or_default();
            lines.push(format!("journal: {field} {value}"));
        }
    }
    for type_ in SHOWN {
        lines.extend(changed(type_, before, after));
    }
    let attempts = |object: &Value| object["status"]["episode"]["attempts"].as_u64();
    // The words of another condition, or the intent, say so.
    if let Some(ready) = lines.iter().position(|line| line.starts_with("Ready ")) {
        let reason = lines[ready].split(' ').nth(2).unwrap_or_default().to_owned();
        let others = lines.iter().enumerate().filter(|(n, _)| *n != ready).any(|(_, line)| {
            let mut words = line.split(' ');
            SHOWN.contains(&words.next().unwrap_or_default()) && words.nth(1).is_some_and(|word| word.trim_end_matches(':') == reason)
        });
        if others || matches!(reason.as_str(), "Resetting" | "Recovering") {
            lines.remove(ready);
        }
    }
    if attempts(before).is_some() && attempts(after).is_none() {
        lines.push("the episode is over".into());
    }
    if old.is_object() && new.is_null() {
        lines.push(format!(
            "the journal is cleared; {} automatic resets are remembered",
            after["status"]["recentResets"].as_array().map_or(0, Vec::len)
        ));
    }
    lines
}

/// A condition whose reason or status changed; of ResetAllowed, the message too.
fn changed(type_: &str, before: &Value, after: &Value) -> Option<String> {
    let new = condition(after, type_)?;
    let old = condition(before, type_);
    let same = |field: &str| old.is_some_and(|old| old[field] == new[field]);
    let told = same("reason") && same("status") && (type_ != "ResetAllowed" || same("message"));
    // Ready and the journal say so, and there is nothing to choose.
    let told = told || (type_ == "ResetAllowed" && text(new, "reason") == "ResetUnderWay");
    // The summary repeats the words of another condition.
    let message = if type_ == "Ready" { "" } else { text(new, "message") };
    let colon = if message.is_empty() { "" } else { ": " };
    (!told).then(|| format!("{type_} {} {}{colon}{message}", text(new, "status"), text(new, "reason")))
}

fn of_reset(w: &Write, before: &Value, after: &Value) -> Vec<(String, String)> {
    let whole = if after.is_null() { before } else { after };
    let vm = text(&whole["spec"]["vmRef"], "name").to_owned();
    let say = |line: String| vec![(vm.clone(), format!("VMReset {} {line}", w.name))];
    if after.is_null() {
        return say("is deleted".into());
    }
    let mut lines = Vec::new();
    if before.is_null() && w.process.is_some() {
        lines.extend(say(format!("is opened: {}", text(&after["spec"], "reason"))));
    }
    let (old, new) = (&before["status"], &after["status"]);
    let message = text(new, "message");
    if new["outcome"] != old["outcome"] && new["outcome"].is_string() {
        lines.extend(say(format!("ends as {}: {message}", text(new, "outcome"))));
        let evidence = shown(&new["evidence"]);
        if text(new, "outcome") == "WouldReset" && !evidence.is_empty() {
            lines.push((vm.clone(), format!("  seen: {evidence}")));
        }
    } else if text(new, "state") == "Running" && text(old, "state") != "Running" {
        lines.push((vm, format!("  seen: {}", shown(&new["evidence"]))));
    } else if new["state"] != old["state"] || (new["message"] != old["message"] && text(new, "state") == "Pending") {
        let colon = if message.is_empty() { "" } else { ": " };
        lines.extend(say(format!("is {}{colon}{message}", text(new, "state"))));
    }
    lines
}

/// What was seen before a reset, in a line.
fn shown(evidence: &Value) -> String {
    let Some(fields) = evidence.as_object() else {
        return String::new();
    };
    // Times are told by the lines themselves.
    let told = fields.iter().filter(|(name, _)| name.as_str() != "lastReceivedTime");
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let shown: Vec<String> = told.map(|(name, field)| format!("{name} {}", value(field))).collect();
    shown.join(", ")
}

fn of_other(before: &Value, after: &Value) -> Vec<String> {
    ["Ready", "StormActive"]
        .iter()
        .filter_map(|type_| changed(type_, before, after))
        .collect()
}

/// Names that follow from times, put into plain words: a story must not change with a millisecond.
struct Names {
    episodes: BTreeMap<String, usize>,
    uuids: BTreeMap<String, String>,
}

static TIME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").expect("a pattern"));
static EPISODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-([0-9a-z]{8})-(\d+|observed)\b").expect("a pattern"));
static UPID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"UPID:([a-z0-9]+):0*([0-9A-F]+):[^:]*:[^:]*:(\w+):(\d+):[^:]*:").expect("a pattern"));
static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").expect("a pattern"));

impl Names {
    fn of(e: &Evidence) -> Self {
        let mut episodes = BTreeMap::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for w in e.writes.iter().filter(|w| w.resource == "vmresets" || w.resource == "managedvms") {
            let intent = w.after.as_ref().map_or("", |o| text(&o["status"]["currentReset"], "name"));
            for name in [w.name.as_str(), intent] {
                let Some(found) = EPISODE.captures(name) else { continue };
                let vm = name[..found.get(0).map_or(0, |m| m.start())].to_owned();
                episodes.entry(found[1].to_owned()).or_insert_with(|| {
                    let count = seen.entry(vm).or_default();
                    *count += 1;
                    *count
                });
            }
        }
        let mut uuids = BTreeMap::new();
        for vm in &e.plan.vms {
            let own = crate::world::uuid_of(vm.vmid);
            uuids.insert(own.to_string(), format!("(uuid of {})", vm.vmid));
            let other = uuid::Uuid::from_u128(own.as_u128() ^ 0xffff_0000);
            uuids.insert(other.to_string(), "(another uuid)".to_owned());
        }
        Self { episodes, uuids }
    }

    fn plain(&self, text: &str) -> String {
        let text = TIME.replace_all(text, |found: &Captures<'_>| {
            WorldClock::world_time(&found[0]).map_or_else(
                || "(before the world)".into(),
                |at| format!("{:02}:{:02}", at.0 / 60_000, at.0 / 1000 % 60),
            )
        });
        let text = EPISODE.replace_all(&text, |found: &Captures<'_>| match self.episodes.get(&found[1]) {
            Some(number) => format!("-e{number}-{}", &found[2]),
            None => found[0].to_owned(),
        });
        let text = UPID.replace_all(&text, "#$2 on $1");
        let known = |found: &Captures<'_>| self.uuids.get(&found[0]).cloned().unwrap_or_else(|| "(another uuid)".into());
        UUID.replace_all(&text, known).into_owned()
    }
}
