use super::*;
use crate::clock::Clock;
use defib_api::AgentState;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::{sleep, timeout};

fn vm(name: &str) -> VmKey {
    VmKey::new("default", name)
}

fn facts(uid: &str, key_generation: u32) -> Facts {
    Facts {
        uid: uid.into(),
        key_generation,
        published: None,
    }
}

fn report(boot: &str, uptime: f64) -> Report {
    Report {
        hostname: None,
        machine_uuid: Some(Uuid::from_u128(7)),
        cpu_percent: 5.0,
        memory_used_bytes: 1,
        memory_total_bytes: 4,
        disks: vec![],
        uptime_seconds: uptime,
        boot_id: boot.into(),
        state: AgentState::Running,
        supervised: true,
        agent_version: None,
        sent_at_ms: None,
    }
}

fn at(second: u64) -> Now {
    Now {
        mono: Mono(second * 1000),
        wall: Timestamp::from_second(1_800_000_000 + second as i64).unwrap(),
    }
}

fn expecting(identity: u128) -> Expectation {
    Expectation {
        identity: Some(Uuid::from_u128(identity)),
        timeout_seconds: 300,
        report_seconds: 30,
        ..Expectation::default()
    }
}

/// The VMs that are woken now, without waiting.
async fn woken(ledger: &Ledger) -> Vec<VmKey> {
    let mut all = Vec::new();
    while let Ok(vm) = timeout(Duration::ZERO, ledger.next_wake()).await {
        all.push(vm);
    }
    all
}

#[tokio::test]
async fn only_the_present_and_the_previous_generation_of_a_key_open_a_vm() {
    let ledger = Ledger::default();
    let db = vm("db");
    assert_eq!(ledger.admit(&db, 1, Mono(0)), Admission::Unknown);
    for (present, valid) in [
        (1, vec![1]),
        (2, vec![1, 2]),
        (7, vec![6, 7]),
        (u32::MAX, vec![u32::MAX - 1, u32::MAX]),
    ] {
        ledger.known(&db, facts("u", present));
        for generation in [0, 1, 2, 3, 5, 6, 7, 8, u32::MAX - 1, u32::MAX] {
            let admitted = ledger.admit(&db, generation, Mono(0)) == Admission::Admitted;
            assert_eq!(admitted, valid.contains(&generation), "{generation} of {present}");
        }
    }
    assert!(ledger.view(&db).wrong_key.is_some(), "a retired key that names the VM is contact");
    assert_eq!(ledger.view(&db).last_life, None);
    assert_eq!(woken(&ledger).await, [db]);
}

#[test]
fn a_vm_may_send_a_burst_and_then_its_rate() {
    let ledger = Ledger::default();
    let (slow, fast) = (vm("slow"), vm("fast"));
    for (vm, report_seconds) in [(&slow, 30), (&fast, 1)] {
        ledger.known(vm, facts("u", 1));
        ledger.expect(
            vm,
            Expectation {
                report_seconds,
                ..expecting(7)
            },
        );
    }
    let admitted = |vm: &VmKey, second: u64, tries: usize| {
        (0..tries)
            .filter(|_| ledger.admit(vm, 1, Mono(second * 1000)) == Admission::Admitted)
            .count()
    };
    assert_eq!((admitted(&slow, 0, 50), admitted(&fast, 0, 50)), (20, 20));
    assert_eq!((admitted(&slow, 3, 50), admitted(&fast, 3, 50)), (3, 12));
    assert!(matches!(ledger.admit(&slow, 1, Mono(3_000)), Admission::Limited(wait) if wait == Duration::from_secs(1)));
}

#[test]
fn a_report_over_the_rate_is_life_and_a_flood_wakes_the_decider_once() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    ledger.expect(
        &db,
        Expectation {
            awaited: true,
            ..expecting(7)
        },
    );
    let limited = |at| matches!(ledger.admit(&db, 1, Mono(at)), Admission::Limited(_));
    assert!((0..20).all(|at| !limited(at)));
    assert_eq!(
        ledger.view(&db).last_life,
        None,
        "to be admitted is not yet life: the body tells whose"
    );
    assert_eq!(ledger.pop_wake(), None);
    assert!(limited(20));
    assert_eq!(ledger.view(&db).last_life, Some(Mono(20)));
    assert_eq!(ledger.pop_wake(), Some(db.clone()));
    assert!((21..100).all(limited));
    assert_eq!(ledger.pop_wake(), None);
    assert_eq!(ledger.view(&db).last_life, Some(Mono(99)));
}

#[test]
fn a_vm_that_is_created_anew_starts_anew_and_an_edit_forgets_nothing() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("first", 1));
    ledger.on_report(&db, report("a", 1.0), at(1));
    ledger.known(&db, facts("first", 2));
    assert!(ledger.view(&db).report.is_some());
    assert_eq!(ledger.newest_received(&db), Some(at(1).wall));
    ledger.known(&db, facts("second", 1));
    assert_eq!((ledger.view(&db), ledger.newest_received(&db)), (Heartbeat::default(), None));
    ledger.forget(&db);
    assert_eq!(ledger.on_report(&db, report("a", 1.0), at(2)), None);
    assert_eq!(ledger.refuse(&db, "x".into(), None, Mono(2)), None);
    assert!(ledger.vms().is_empty());
}

#[test]
fn the_newest_receive_time_never_goes_back_with_the_wall_clock() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    let sub_millis = Timestamp::from_nanosecond(1_800_000_100_123_456_789).unwrap();
    ledger.on_report(
        &db,
        report("a", 1.0),
        Now {
            mono: Mono(1),
            wall: sub_millis,
        },
    );
    let stored = ledger.newest_received(&db).unwrap();
    assert_eq!(stored.as_nanosecond(), 1_800_000_100_123_000_000);
    ledger.on_report(&db, report("a", 2.0), Now { mono: Mono(1000), ..at(1) });
    assert_eq!(ledger.newest_received(&db), Some(stored));
}

#[tokio::test]
async fn a_bad_body_of_a_clone_is_no_life_of_the_original() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    let own = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);
    ledger.expect(&db, expecting(own.as_u128()));
    assert_eq!(
        ledger.refuse(&db, "cpuPercent".into(), Some(Uuid::from_u128(8)), Mono(5)),
        Some(true)
    );
    let seen = ledger.view(&db);
    assert_eq!((seen.last_life, seen.wrong_machine), (None, Some((Mono(5), Uuid::from_u128(8)))));
    assert_eq!(woken(&ledger).await.len(), 1);
    // Its own bad body, in the other byte order, and one that says nothing are life.
    let swapped = Uuid::from_bytes(own.to_bytes_le());
    for (machine, now) in [(Some(own), 10), (Some(swapped), 15), (None, 20)] {
        assert_eq!(ledger.refuse(&db, "cpuPercent".into(), machine, Mono(now)), Some(false));
        assert_eq!(ledger.view(&db).last_life, Some(Mono(now)));
    }
}

#[tokio::test]
async fn what_the_decider_expects_decides_what_wakes_it() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    assert!(woken(&ledger).await.is_empty());
    ledger.on_report(&db, report("a", 1.0), at(1));
    assert_eq!(woken(&ledger).await.len(), 1, "first report");
    ledger.on_report(&db, report("a", 31.0), at(31));
    assert!(woken(&ledger).await.is_empty(), "mere beat");
    ledger.expect(
        &db,
        Expectation {
            awaited: true,
            ..expecting(7)
        },
    );
    ledger.on_report(&db, report("a", 61.0), at(61));
    assert_eq!(woken(&ledger).await.len(), 1, "awaited");
    ledger.contact(&vm("unknown"), Mono(1));
    ledger.wake(&vm("unknown"));
    assert!(woken(&ledger).await.is_empty());
}

#[tokio::test]
async fn reports_of_a_clone_before_adoption_are_given_up_and_not_published() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    ledger.on_report(&db, report("a", 1.0), at(1));
    assert!(ledger.expect(&db, expecting(8)));
    assert!(!ledger.expect(&db, expecting(8)), "once");
    assert_eq!(ledger.view(&db).last_life, None);
    assert!(ledger.next_patch(Queue::Urgent).is_none());
    assert_eq!(ledger.publishing_lag(Mono(100_000)), Duration::ZERO);
}

#[test]
fn what_is_given_up_during_its_call_does_not_hide_what_comes_after() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    ledger.on_report(&db, report("clone", 1.0), at(1));
    let patch = ledger.next_patch(Queue::Urgent).unwrap();
    ledger.expect(&db, expecting(8));
    let own = Report {
        machine_uuid: Some(Uuid::from_u128(8)),
        ..report("own", 1.0)
    };
    ledger.on_report(&db, own, at(2));
    ledger.published(&patch, Outcome::Published, Mono(2_500));
    let next = ledger.next_patch(Queue::Urgent).unwrap();
    assert_eq!(next.heartbeat.boot_id.as_deref(), Some("own"));
}

#[test]
fn a_vm_is_in_one_call_at_a_time_and_a_forgotten_one_in_none() {
    let ledger = Ledger::default();
    let db = vm("db");
    ledger.known(&db, facts("u", 1));
    ledger.on_report(&db, report("a", 1.0), at(1));
    let patch = ledger.next_patch(Queue::Urgent).unwrap();
    ledger.on_report(&db, report("b", 1.0), at(2));
    assert!(
        ledger.next_patch(Queue::Urgent).is_none(),
        "an older call could land after a newer one"
    );
    ledger.known(&db, facts("another", 1));
    ledger.on_report(&db, report("c", 1.0), at(3));
    ledger.published(&patch, Outcome::Published, Mono(4_000));
    let backlog = ledger.backlog(Mono(4_000));
    assert_eq!(
        (backlog.urgent, backlog.in_call),
        (1, 0),
        "the end of a call for a deleted VM says nothing of its successor"
    );
    ledger.forget(&db);
    assert_eq!(ledger.backlog(Mono(4_000)), Default::default());
}

#[test]
fn the_pace_follows_the_armed_vms_and_their_shortest_timeout() {
    let ledger = Ledger::default();
    assert_eq!(ledger.refreshes_per_second(), 20.0);
    for i in 0..1500 {
        let vm = vm(&i.to_string());
        ledger.known(&vm, facts("u", 1));
        ledger.expect(
            &vm,
            Expectation {
                armed: i != 0,
                timeout_seconds: 60,
                ..expecting(7)
            },
        );
    }
    assert_eq!(ledger.refreshes_per_second(), 1499.0 / 30.0);
    ledger.expect(
        &vm("1"),
        Expectation {
            armed: true,
            timeout_seconds: 20,
            ..expecting(7)
        },
    );
    assert_eq!(ledger.refreshes_per_second(), 1499.0 / 10.0);
    ledger.forget(&vm("1"));
    assert_eq!(ledger.refreshes_per_second(), 1498.0 / 30.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_is_lost_while_many_report_and_two_listen() {
    const VMS: usize = 200;
    const BOOTS: usize = 50;
    let ledger = Arc::new(Ledger::default());
    let clock = Clock::new();
    for i in 0..VMS {
        ledger.known(&vm(&i.to_string()), facts("u", 1));
    }
    // Each listener writes down the newest boot that it saw when it was woken, as the decider would.
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = (0..2)
        .map(|_| {
            let (ledger, seen, stop) = (ledger.clone(), seen.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    // Given up again and again, as select! does.
                    let Ok(vm) = timeout(Duration::from_millis(2), ledger.next_wake()).await else {
                        continue;
                    };
                    let mut seen = seen.lock().unwrap();
                    let boot = ledger.view(&vm).report.map(|(_, r)| r.boot_id.clone());
                    seen.insert(vm, boot);
                }
            })
        })
        .collect();
    let senders: Vec<_> = (0..4)
        .map(|part| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for boot in 0..BOOTS {
                    for i in (part..VMS).step_by(4) {
                        ledger.on_report(&vm(&i.to_string()), report(&format!("boot-{boot}"), 1.0), clock.now());
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let last: HashSet<_> = [Some(Arc::<str>::from(format!("boot-{}", BOOTS - 1)))].into();
    let all_seen = async {
        loop {
            let done = {
                let seen = seen.lock().unwrap();
                seen.len() == VMS && seen.values().cloned().collect::<HashSet<_>>() == last
            };
            if done {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), all_seen)
        .await
        .expect("a VM reported a new boot and nobody was told");
    stop.store(true, Ordering::SeqCst);
    for listener in listeners {
        listener.await.unwrap();
    }
}

#[test]
fn a_boot_that_a_reset_caused_is_none_of_a_loop() {
    let ledger = Ledger::default();
    ledger.known(&vm("web"), facts("1", 1));
    for (second, boot) in (0..).step_by(60).zip(["a", "b", "c"]) {
        ledger.on_report(&vm("web"), report(boot, 10.0), at(second));
    }
    let boots = || ledger.view(&vm("web")).boots;
    let both = boots();
    ledger.caused(&vm("web"), "b");
    let one = boots();
    ledger.caused(&vm("web"), "b");
    ledger.caused(&vm("nobody"), "c");
    assert_eq!((boots() == one, one == both), (true, false));
    ledger.caused(&vm("web"), "c");
    assert_eq!(boots(), Default::default());
}
