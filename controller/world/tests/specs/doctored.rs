//! Each check is seen to fail: on evidence that was doctored, and on controllers that are broken on purpose.

use crate::judge::problems;
use crate::plan::Story;
use crate::{Lived, live};
use defib_proxmox::PowerAction;
use defib_world::clock::Time;
use defib_world::evidence::{Sent, Write};
use defib_world::proxmox::{Effect, Post};
use defib_world::sabotage::Sabotage;
use serde_json::{Value, json};
use std::sync::Arc;

/// A short story in which nothing hangs.
fn story() -> Story {
    (0..)
        .map(Story::new)
        .find(|story| story.hung.is_none() && story.plan.end < Time::seconds(700))
        .unwrap()
}

fn said(story: &Story, lived: &Lived) -> String {
    problems(story, lived).0.join("\n")
}

/// The last write of an object, changed.
fn last(lived: &Lived, resource: &str, change: impl FnOnce(&mut Value)) -> Write {
    let last = lived
        .evidence
        .writes
        .iter()
        .rev()
        .find(|w| w.resource == resource && w.after.is_some());
    let mut write = last.unwrap().clone();
    let mut object = write.after.as_deref().cloned().unwrap();
    change(&mut object);
    write.before = write.after.replace(Arc::new(object));
    write.at = lived.evidence.end;
    write
}

fn post(lived: &Lived, at: Time) -> Sent {
    let post = Post {
        sent: at,
        ended: Some(at),
        vmid: 101,
        node: "pve1".into(),
        action: PowerAction::Reset,
        process: 0,
        effect: Effect::Reset,
        power: None,
        uuid: None,
        opened: at,
        upid: None,
        uuid_since: Time(0),
    };
    Sent {
        post,
        vm: 0,
        current: None,
        entered: at,
        declared: None,
        uid: String::new(),
        over: Some(lived.evidence.end),
    }
}

#[test]
fn each_check_sees_what_it_is_there_for() {
    let story = story();
    let mut lived = live(&story, None);
    assert_eq!(said(&story, &lived), "", "{}", story.told());

    let mut sees = |what: &str, spoil: &dyn Fn(&mut Lived), mend: &dyn Fn(&mut Lived)| {
        spoil(&mut lived);
        let said = said(&story, &lived);
        assert!(said.contains(what), "{what:?} is not in what is said:\n{said}");
        mend(&mut lived);
    };
    let object = |resource: &'static str, change: fn(&mut Value)| {
        move |lived: &mut Lived| {
            let write = last(lived, resource, change);
            lived.evidence.writes.push(write);
        }
    };
    let unwrite = |lived: &mut Lived| drop(lived.evidence.writes.pop());
    sees("panic: at the disco", &|l| l.panics.push("at the disco".into()), &|l| {
        l.panics.clear()
    });
    sees("ERROR: no", &|l| l.heard.logged.push((l.start, "ERROR: no".into())), &|l| {
        l.heard.logged.clear()
    });
    let hot = |l: &mut Lived| {
        let one = (l.start, "ManagedVM.v1alpha1.defib.dev/web.vms".to_owned());
        l.heard.reconciles.extend(vec![one; 1000]);
    };
    sees("is looked at 1000 times", &hot, &|l| {
        l.heard.reconciles.truncate(l.heard.reconciles.len() - 1000)
    });
    let many = |l: &mut Lived| {
        let write = last(l, "healthpolicies", |_| {});
        l.evidence.writes.extend(vec![write; 100]);
    };
    sees("is written 10", &many, &|l| {
        l.evidence.writes.truncate(l.evidence.writes.len() - 100)
    });
    sees(
        "STATE was",
        &object("managedvms", |o| o["status"]["conditions"][0]["reason"] = json!("Odd")),
        &unwrite,
    );
    sees(
        "status.node was",
        &object("managedvms", |o| o["status"]["node"] = json!("pve9")),
        &unwrite,
    );
    sees(
        "managedVMs was",
        &object("healthpolicies", |o| o["status"]["managedVMs"] = json!(99)),
        &unwrite,
    );
    sees(
        "observedGeneration was",
        &object("healthpolicies", |o| o["status"]["observedGeneration"] = json!(0)),
        &unwrite,
    );
    sees(
        "has a finalizer",
        &object("managedvms", |o| o["metadata"]["finalizers"] = json!(["x"])),
        &unwrite,
    );
    sees(
        "was declared",
        &object("managedvms", |o| o["spec"]["identity"] = json!("Trust")),
        &unwrite,
    );
    let pending = |l: &mut Lived| {
        let mut write = last(l, "managedvms", |o| o["status"] = json!({"state": "Pending"}));
        (write.resource, write.vm) = ("vmresets".into(), None);
        l.evidence.writes.push(write);
    };
    sees("is \"Pending\" at the end", &pending, &unwrite);
    let well = |l: &mut Lived| {
        let sent = post(l, Time::seconds(100));
        l.evidence.posts.push(sent);
    };
    sees("is reset, which is well", &well, &|l| drop(l.evidence.posts.pop()));
    let start = |l: &mut Lived| {
        let mut sent = post(l, Time::seconds(100)).post;
        sent.action = PowerAction::Start;
        l.evidence.follow_ups.push(sent);
    };
    sees("that no reset was before", &start, &|l| drop(l.evidence.follow_ups.pop()));
    assert_eq!(said(&story, &lived), "");
}

#[test]
fn a_loop_without_a_pause_is_seen() {
    let story = story();
    let said = said(&story, &live(&story, Some(Sabotage::NeverSettles)));
    assert!(said.contains("ManagedVM.v1alpha1.defib.dev/vm-0.vms is looked at"), "{said}");
}

#[test]
fn a_status_that_is_not_written_back_is_seen() {
    let story = story();
    let said = said(&story, &live(&story, Some(Sabotage::NeverTells)));
    assert!(said.contains("is written as it is"), "{said}");
}
