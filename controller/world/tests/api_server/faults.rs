//! Each fault, as a client notices it, and the audit log.

use crate::support::{eventually, refusal, server, vm, vms};
use crate::watches::{nodes, reflect, write_node};
use defib_world::api_server::{ApiServer, Call, EventFault, EventInfo, Fault, Faults, Flow, Loss, Outcome, Verb};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The same for each of these; tests change it as they go.
#[derive(Default)]
struct Script {
    /// For writes of the client `victim`.
    writes: Mutex<Fault>,
    /// For watches of the client `reflector`.
    flow: Mutex<Flow>,
    event: Mutex<EventFault>,
    calls: Mutex<Vec<Call>>,
}

impl Faults for Script {
    fn request(&self, call: &Call) -> Fault {
        self.calls.lock().unwrap().push(call.clone());
        if call.client == "victim" && call.verb.is_write() {
            self.writes.lock().unwrap().clone()
        } else {
            Fault::default()
        }
    }

    fn watch(&self, watch: &Call) -> Flow {
        assert_eq!((watch.client.as_str(), watch.verb), ("reflector", Verb::Watch));
        *self.flow.lock().unwrap()
    }

    fn event(&self, _: &Call, event: &EventInfo) -> EventFault {
        match event.kind {
            "MODIFIED" => *self.event.lock().unwrap(),
            _ => EventFault::Deliver,
        }
    }
}

fn scripted() -> (ApiServer, Arc<Script>) {
    let (server, script) = (server(), Arc::new(Script::default()));
    server.set_faults(script.clone());
    (server, script)
}

fn is_there(server: &ApiServer, name: &str) -> bool {
    server.object("managedvms", "vms", name).is_some()
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_not_made() {
    let (server, script) = scripted();
    *script.writes.lock().unwrap() = Outcome::Fail(503).into();
    let victim = vms(&server, "victim");
    let made = victim.create(&PostParams::default(), &vm("web-1")).await;
    assert_eq!(refusal(made), (503, "ServiceUnavailable".into()));
    assert!(!is_there(&server, "web-1"));
    // Another client is not concerned.
    vms(&server, "other").create(&PostParams::default(), &vm("web-1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_before_is_not_made_and_what_is_lost_after_is() {
    let (server, script) = scripted();
    let victim = vms(&server, "victim");
    let losses = [
        (Outcome::LoseRequest(Loss::Silence), "a", false, false),
        (Outcome::LoseRequest(Loss::Reset), "b", false, true),
        (Outcome::LoseReply(Loss::Silence), "c", true, false),
        (Outcome::LoseReply(Loss::Reset), "d", true, true),
    ];
    for (outcome, name, made, noticed) in losses {
        *script.writes.lock().unwrap() = outcome.clone().into();
        let object = vm(name);
        let answer = timeout(Duration::from_secs(60), victim.create(&PostParams::default(), &object)).await;
        match answer {
            Err(_) => assert!(!noticed, "{outcome:?}"),
            Ok(answer) => assert!(noticed && matches!(answer, Err(kube::Error::Service(_))), "{outcome:?}"),
        }
        assert_eq!(is_there(&server, name), made, "{outcome:?}");
        let entry = server.audit().pop().unwrap();
        assert_eq!(
            (entry.code != 0, entry.after.is_some(), entry.lost.is_some()),
            (made, made, true),
            "{outcome:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_write_is_made_though_nobody_waits_for_it_any_more() {
    let (server, script) = scripted();
    let seconds = Duration::from_secs;
    *script.writes.lock().unwrap() = Fault {
        before: seconds(10),
        after: seconds(5),
        ..Fault::default()
    };
    let victim = vms(&server, "victim");
    let began = Instant::now();
    let object = vm("web-1");
    assert!(timeout(seconds(2), victim.create(&PostParams::default(), &object)).await.is_err());
    assert!(!is_there(&server, "web-1"));
    eventually("the write", || is_there(&server, "web-1")).await;
    assert_eq!(began.elapsed().as_secs(), 10);
    let began = Instant::now();
    victim.create(&PostParams::default(), &vm("web-2")).await.unwrap();
    assert_eq!(began.elapsed(), seconds(15));
}

#[tokio::test(start_paused = true)]
async fn writes_are_numbered_by_client_and_in_all() {
    let (server, script) = scripted();
    let (one, other) = (vms(&server, "one"), vms(&server, "other"));
    one.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    other.get("web-1").await.unwrap();
    write_node(&other, "web-1", "pve1").await;
    one.delete("web-1", &DeleteParams::default()).await.unwrap();
    let calls = script.calls.lock().unwrap();
    let seen: Vec<_> = calls
        .iter()
        .map(|c| (c.client.as_str(), c.verb, c.name.as_str(), c.status, c.write, c.write_of_all))
        .collect();
    let expected = [
        ("one", Verb::Create, "web-1", false, Some(1), Some(1)),
        ("other", Verb::Get, "web-1", false, None, None),
        ("other", Verb::Patch, "web-1", true, Some(1), Some(2)),
        ("one", Verb::Delete, "web-1", false, Some(2), Some(3)),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn the_audit_log_tells_what_each_write_did() {
    let server = server();
    let vms = vms(&server, "test");
    vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    write_node(&vms, "web-1", "pve1").await;
    write_node(&vms, "web-1", "pve1").await;
    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": "2"}, "status": {"node": "pve2"}}));
    let _ = vms.patch_status("web-1", &PatchParams::default(), &stale).await;
    vms.delete("web-1", &DeleteParams::default()).await.unwrap();
    let log: Vec<_> = server
        .audit()
        .into_iter()
        .map(|e| (e.code, e.reason.clone(), e.before, e.after, e.changed()))
        .collect();
    let entry = |code, reason: &str, before, after, changed| (code, reason.to_owned(), before, after, changed);
    let expected = [
        entry(201, "", None, Some(2), true),
        entry(200, "", Some(2), Some(3), true),
        entry(200, "", Some(3), Some(3), false),
        entry(409, "Conflict", Some(3), Some(3), false),
        entry(200, "", Some(3), None, true),
    ];
    assert_eq!(log, expected);
    assert_eq!(server.audit()[1].body, Some(json!({"status": {"node": "pve1"}})));
}

#[tokio::test(start_paused = true)]
async fn the_audit_log_is_bounded() {
    let server = ApiServer::with_limits(|| jiff::Timestamp::UNIX_EPOCH, 10, 3);
    let vms = vms(&server, "test");
    for _ in 0..5 {
        let _ = vms.get_opt("web-1").await;
    }
    assert_eq!((server.audit().len(), server.audit_dropped()), (3, 2));
    assert_eq!(server.audit()[0].call.number, 3);
}

/// A server with one object, and a reflector that has it.
async fn watched() -> (ApiServer, Arc<Script>, kube::runtime::reflector::Store<defib_api::ManagedVM>) {
    let (server, script) = scripted();
    vms(&server, "test").create(&PostParams::default(), &vm("web-1")).await.unwrap();
    let store = reflect(&server, watcher::Config::default().timeout(50));
    eventually("the first list", || nodes(&store) == ["web-1 "]).await;
    // The watch is open once its request was answered.
    eventually("the watch", || watches(&server) == 1).await;
    (server, script, store)
}

fn count(server: &ApiServer, verb: Verb) -> usize {
    server
        .audit()
        .iter()
        .filter(|e| e.call.client == "reflector" && e.call.verb == verb)
        .count()
}

fn watches(server: &ApiServer) -> usize {
    count(server, Verb::Watch)
}

fn set(server: &ApiServer, script: &Script, flow: Flow) {
    *script.flow.lock().unwrap() = flow;
    server.nudge();
}

#[tokio::test(start_paused = true)]
async fn a_held_watch_says_nothing_until_it_is_let_go() {
    let (server, script, store) = watched().await;
    set(&server, &script, Flow::Hold);
    write_node(&vms(&server, "test"), "web-1", "pve1").await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(nodes(&store), ["web-1 "]);
    set(&server, &script, Flow::Open);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((nodes(&store), watches(&server)), (vec!["web-1 pve1".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_held_watch_ends_in_time_and_a_silent_one_does_not() {
    for (flow, seconds) in [(Flow::Hold, 50), (Flow::Silent, 55)] {
        let (server, script, _store) = watched().await;
        // kube gives a silent connection 5 s more than the server was to take, from the last that it heard.
        set(&server, &script, flow);
        let began = Instant::now();
        eventually("the next watch", || watches(&server) == 2).await;
        assert_eq!(began.elapsed().as_secs(), seconds, "{flow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_watch_is_late_by_so_much() {
    let (server, script, store) = watched().await;
    set(&server, &script, Flow::Lag(Duration::from_secs(7)));
    let began = Instant::now();
    write_node(&vms(&server, "test"), "web-1", "pve1").await;
    eventually("the change", || nodes(&store) == ["web-1 pve1"]).await;
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_goes_on_and_an_expired_one_lists_again() {
    for (flow, lists) in [(Flow::Cut, 1), (Flow::Expire, 2)] {
        let (server, script, store) = watched().await;
        set(&server, &script, flow);
        sleep(Duration::from_millis(1)).await;
        set(&server, &script, Flow::Open);
        write_node(&vms(&server, "test"), "web-1", "pve1").await;
        eventually("the change", || nodes(&store) == ["web-1 pve1"]).await;
        assert_eq!(count(&server, Verb::List), lists, "{flow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_forgotten_version_lists_again() {
    let (server, script, store) = watched().await;
    set(&server, &script, Flow::Silent);
    write_node(&vms(&server, "test"), "web-1", "pve1").await;
    vms(&server, "test").create(&PostParams::default(), &vm("web-2")).await.unwrap();
    server.compact();
    eventually("the next watch", || watches(&server) == 2).await;
    set(&server, &script, Flow::Open);
    eventually("the changes", || nodes(&store) == ["web-1 pve1", "web-2 "]).await;
    assert_eq!(count(&server, Verb::List), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_event_is_never_seen() {
    let (server, script, store) = watched().await;
    *script.event.lock().unwrap() = EventFault::Drop;
    write_node(&vms(&server, "test"), "web-1", "pve1").await;
    sleep(Duration::from_secs(200)).await;
    assert_eq!(nodes(&store), ["web-1 "]);
}

#[tokio::test(start_paused = true)]
async fn collapsed_events_show_the_last_state_only() {
    let (server, script) = scripted();
    let test = vms(&server, "test");
    for name in ["web-1", "web-2"] {
        test.create(&PostParams::default(), &vm(name)).await.unwrap();
    }
    *script.event.lock().unwrap() = EventFault::Collapse;
    let from = server.version();
    for node in ["pve1", "pve2", "pve3"] {
        write_node(&test, "web-1", node).await;
        write_node(&test, "web-2", node).await;
    }
    test.delete("web-2", &DeleteParams::default()).await.unwrap();
    let reflector = vms(&server, "reflector");
    let events = reflector
        .watch(&kube::api::WatchParams::default().timeout(1), &from.to_string())
        .await
        .unwrap();
    let seen: Vec<String> = futures::StreamExt::collect::<Vec<_>>(events)
        .await
        .into_iter()
        .filter_map(|event| match event.unwrap() {
            kube::api::WatchEvent::Modified(vm) => Some(format!("modified {}", vm.status.unwrap().node.unwrap())),
            kube::api::WatchEvent::Deleted(vm) => Some(format!("deleted {}", vm.metadata.name.unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(seen, ["modified pve3", "modified pve3", "deleted web-2"]);
}

/// Every watch is answered 410, or cut, whenever it begins.
struct NoWatch(Outcome, Flow);

impl Faults for NoWatch {
    fn request(&self, call: &Call) -> Fault {
        if call.verb == Verb::Watch {
            self.0.clone().into()
        } else {
            Fault::default()
        }
    }

    fn watch(&self, _: &Call) -> Flow {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_can_be_refused_with_410() {
    let server = server();
    server.set_faults(Arc::new(NoWatch(Outcome::Fail(410), Flow::Open)));
    let vms = vms(&server, "reflector");
    let refused = vms.watch(&kube::api::WatchParams::default(), "1").await.map(|_| ());
    assert_eq!(refusal(refused), (410, "Expired".into()));
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_always_cut_do_not_stop_the_clock() {
    let server = server();
    server.set_faults(Arc::new(NoWatch(Outcome::Proceed, Flow::Cut)));
    let _store = reflect(&server, watcher::Config::default());
    sleep(Duration::from_secs(1)).await;
    assert!(watches(&server) > 100);
}
