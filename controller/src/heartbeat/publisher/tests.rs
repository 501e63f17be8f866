mod world;

use super::*;
use crate::heartbeat::{Facts, VmKey};
use defib_api::{AgentState, HeartbeatStatus};
use defib_core::heartbeat::{Disk, Expectation, Report};
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::HashMap;
use tokio::time::{Instant, sleep};
use world::{Call, Weather, World, report};

#[tokio::test(start_paused = true)]
async fn the_first_report_a_new_boot_and_a_goodbye_land_at_once_although_many_wait() {
    let w = World::new();
    let vms = w.settled(1000).await;
    vms.iter().for_each(|vm| w.report(vm, "boot-1"));
    let vm = VmKey::new("default", "db");
    w.known(&vm, None);
    let goodbye = |uptime| Report {
        state: AgentState::Stopping,
        uptime_seconds: uptime,
        ..report("b")
    };
    let back = Report {
        uptime_seconds: 3.0,
        ..report("b")
    };
    for (n, step) in [report("a"), report("b"), goodbye(2.0), back].into_iter().enumerate() {
        w.send(&vm, step);
        sleep(Duration::from_millis(20)).await;
        let landed = w.calls().iter().filter(|c| c.vm == vm).count();
        assert_eq!(landed, n + 1, "it did not land within 20 ms");
    }
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_new_is_never_written() {
    let w = World::new();
    let vm = VmKey::new("default", "db");
    w.known(&vm, None);
    w.send(
        &vm,
        Report {
            uptime_seconds: 5.0,
            ..report("a")
        },
    );
    sleep(Duration::from_secs(1)).await;
    // A late one, and then none for a while.
    w.send(
        &vm,
        Report {
            uptime_seconds: 1.0,
            ..report("a")
        },
    );
    sleep(Duration::from_secs(600)).await;
    assert_eq!(w.calls().len(), 1);
    assert_eq!(w.metrics.patches.with_label_values(&["ok"]).get(), 1);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_600_vms_and_the_built_in_period_every_heartbeat_lands() {
    let w = World::new();
    let vms = w.settled(600).await;
    let start = w.clock.now().wall;
    for round in 0..4 {
        for (i, vm) in vms.iter().enumerate() {
            if i % 20 == 0 {
                sleep(Duration::from_secs(1)).await;
            }
            w.report(vm, "boot-1");
        }
        assert!(w.backlog() < 100, "round {round} left {} behind", w.backlog());
    }
    w.quiet().await;
    let calls = w.calls();
    assert_eq!(calls.len(), 4 * 600);
    assert!(calls.iter().all(|c| c.received >= start));
    w.end().await;
}

/// Most calls that began within any window of this length.
fn densest(calls: &[Call], window: Duration) -> usize {
    let mut times: Vec<Instant> = calls.iter().map(|c| c.at).collect();
    times.sort();
    let begun = |start: &Instant| times.iter().filter(|t| **t >= *start && t.duration_since(*start) < window).count();
    times.iter().map(begun).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn refreshes_stay_within_their_budget_and_everybody_has_a_turn() {
    let w = World::new();
    let vms = w.settled(2000).await;
    for _ in 0..10 {
        for vm in &vms {
            w.report(vm, "boot-1");
        }
        sleep(Duration::from_secs(30)).await;
    }
    let calls = w.calls();
    assert!(
        densest(&calls, Duration::from_secs(10)) <= 205,
        "over 20 a second and the burst of 5"
    );
    assert!(calls.len() >= 5_900, "the budget was not used: {}", calls.len());
    // 300 s at 20/s are three turns of 2,000: nobody may have had two fewer than another.
    let mut turns: HashMap<VmKey, usize> = vms.iter().map(|vm| (vm.clone(), 0)).collect();
    calls.iter().for_each(|c| *turns.get_mut(&c.vm).unwrap() += 1);
    let (least, most) = (turns.values().min().unwrap(), turns.values().max().unwrap());
    assert!(most - least <= 1, "from {least} to {most} turns");
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn more_armed_vms_with_short_timeouts_have_a_larger_budget() {
    let w = World::new();
    let vms = w.settled(1000).await;
    for vm in &vms {
        let expectation = Expectation {
            armed: true,
            timeout_seconds: 40,
            report_seconds: 10,
            ..Expectation::default()
        };
        w.ledger.expect(vm, expectation);
        w.report(vm, "boot-1");
    }
    let start = Instant::now();
    w.quiet().await;
    // 1,000 / (40 s / 2) = 50 a second.
    assert!((19..=21).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rack_that_boots_waits_for_the_urgent_budget_and_overtakes_all_beats() {
    let w = World::new();
    let vms = w.settled(1500).await;
    vms.iter().for_each(|vm| w.report(vm, "boot-1"));
    sleep(Duration::from_secs(1)).await;
    vms[500..1000].iter().for_each(|vm| w.report(vm, "boot-2"));
    sleep(Duration::from_millis(5500)).await;
    let calls = w.calls();
    let urgent: Vec<Call> = calls.into_iter().filter(|c| c.boot_id == "boot-2").collect();
    assert!(urgent.len() >= 480, "only {} new boots were shown after 5.5 s", urgent.len());
    assert!(
        densest(&urgent, Duration::from_secs(1)) <= 126,
        "over 100 a second and the burst of 25"
    );
    let (_, most) = *w.api.under_way.lock().unwrap();
    assert!(most <= 16);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_silence_is_urgent() {
    let w = World::new();
    let vms = w.settled(1000).await;
    for vm in &vms {
        let expectation = Expectation {
            timeout_seconds: 60,
            ..Expectation::default()
        };
        w.ledger.expect(vm, expectation);
    }
    sleep(Duration::from_secs(50)).await;
    vms[200..].iter().for_each(|vm| w.report(vm, "boot-1"));
    sleep(Duration::from_secs(11)).await;
    // A switch is back: 200 VMs at once, which 20 refreshes a second would take 10 s to show.
    vms[..200].iter().for_each(|vm| w.report(vm, "boot-1"));
    sleep(Duration::from_millis(2500)).await;
    let shown = w.calls().iter().filter(|c| vms[..200].contains(&c.vm)).count();
    assert_eq!(shown, 200);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_that_fails_all_calls_under_way_is_one_failure() {
    let w = World::with_latency(Duration::from_millis(200));
    let vms = w.settled(100).await;
    w.weather(Weather::Overloaded);
    vms.iter().for_each(|vm| w.report(vm, "boot-2"));
    sleep(Duration::from_millis(300)).await;
    assert!(w.calls().len() >= 16, "not enough failed at once for the test to mean anything");
    w.weather(Weather::Fine);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(w.calls().iter().filter(|c| c.landed).count(), 100);
    w.end().await;
}

async fn outage(weather: Weather) {
    let w = World::new();
    let vms = w.settled(300).await;
    w.weather(weather);
    for round in 0..40 {
        // Some of them reboot meanwhile.
        for (i, vm) in vms.iter().enumerate() {
            w.report(vm, if i < 50 && round >= 20 { "boot-2" } else { "boot-1" });
        }
        sleep(Duration::from_secs(15)).await;
    }
    let tries = w.calls().len();
    assert!(tries < 200, "{tries} calls in ten minutes of outage");
    assert_eq!(w.metrics.dirty.get(), 300);
    assert!(w.metrics.lag.get() > 580.0, "lag {}", w.metrics.lag.get());
    let newest: HashMap<VmKey, Option<Timestamp>> = vms.iter().map(|vm| (vm.clone(), w.ledger.newest_received(vm))).collect();
    w.weather(Weather::Fine);
    let back = Instant::now();
    w.quiet().await;
    assert!(back.elapsed() < Duration::from_secs(60), "it took {:?}", back.elapsed());
    for vm in &vms {
        let landed: Vec<Call> = w.calls().into_iter().filter(|c| c.vm == *vm && c.landed).collect();
        assert_eq!(landed.len(), 1, "the newest value, once");
        assert_eq!(Some(landed[0].received), newest[vm]);
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!((w.metrics.dirty.get(), w.metrics.lag.get()), (0, 0.0));
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_an_overload_the_newest_value_of_each_vm_lands() {
    outage(Weather::Overloaded).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_server_that_hung_the_newest_value_of_each_vm_lands() {
    outage(Weather::Hanging).await;
}

#[tokio::test(start_paused = true)]
async fn one_vm_that_always_fails_holds_up_nobody() {
    for weather in [Weather::Refusing, Weather::Overloaded, Weather::Hanging] {
        let w = World::new();
        let vms = w.settled(50).await;
        w.api.own.lock().unwrap().insert(vms[0].clone(), weather);
        for _ in 0..20 {
            vms.iter().for_each(|vm| w.report(vm, "boot-1"));
            sleep(Duration::from_secs(30)).await;
        }
        let calls = w.calls();
        let landed = calls.iter().filter(|c| c.landed).count();
        assert!(landed >= 49 * 19, "{weather:?}: only {landed} landed");
        let tries = calls.len() - landed;
        assert!((15..=60).contains(&tries), "{weather:?}: {tries} tries for the one that fails");
        w.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_gone_is_not_tried_again() {
    let w = World::new();
    let vm = VmKey::new("default", "db");
    w.known(&vm, None);
    w.weather(Weather::Gone);
    w.report(&vm, "boot-1");
    sleep(Duration::from_secs(600)).await;
    assert_eq!((w.calls().len(), w.backlog()), (1, 0));
    assert_eq!(w.metrics.patches.with_label_values(&["gone"]).get(), 1);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_mere_beat_is_a_mere_beat() {
    let w = World::new();
    let boot_time = w.clock.now().wall - jiff::SignedDuration::from_secs(3_600);
    let published = HeartbeatStatus {
        boot_id: Some("boot-1".into()),
        boot_time: Some(boot_time),
        state: Some(AgentState::Running),
        ..HeartbeatStatus::default()
    };
    for i in 0..1000 {
        let vm = VmKey::new("default", i.to_string());
        w.known(&vm, Some(published.clone()));
        w.send(
            &vm,
            Report {
                uptime_seconds: 3_601.5,
                ..report("boot-1")
            },
        );
    }
    let backlog = w.ledger.backlog(w.clock.now().mono);
    assert_eq!((backlog.urgent, backlog.refresh), (0, 1000));
    let patch = w.ledger.next_patch(Queue::Refresh).unwrap();
    assert_eq!(patch.heartbeat.boot_time, Some(boot_time), "the stored boot time flickers");
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_period_that_is_published_is_the_one_that_the_agent_was_told() {
    let w = World::with_latency(Duration::from_secs(1));
    let vm = VmKey::new("default", "db");
    let expect = |report_seconds| {
        let expectation = Expectation {
            report_seconds,
            ..Expectation::default()
        };
        w.ledger.expect(&vm, expectation);
    };
    w.stop.cancel();
    w.known(&vm, None);
    expect(30);
    w.report(&vm, "boot-1");
    expect(600);
    let patch = w.ledger.next_patch(Queue::Urgent).unwrap();
    assert_eq!(patch.heartbeat.report_seconds, Some(30));
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_shutdown_waits_for_calls_under_way_and_starts_none() {
    let w = World::with_latency(Duration::from_secs(2));
    let vm = VmKey::new("default", "db");
    w.known(&vm, None);
    w.report(&vm, "boot-1");
    sleep(Duration::from_secs(1)).await;
    w.report(&vm, "boot-2");
    w.stop.cancel();
    w.task.await.unwrap();
    let calls = w.api.calls.lock().unwrap();
    assert_eq!(calls.iter().map(|c| &*c.boot_id).collect::<Vec<_>>(), ["boot-1"]);
}

#[test]
fn the_boot_time_does_not_flicker() {
    let ledger = Ledger::default();
    let vm = VmKey::new("default", "db");
    ledger.known(
        &vm,
        Facts {
            uid: "u".into(),
            key_generation: 1,
            published: None,
        },
    );
    let mut seen = Vec::new();
    for (second, uptime) in [(100, 50.0), (130, 79.1), (160, 110.9), (190, 140.0), (500, 447.0), (530, 1.0)] {
        let boot = if second == 530 { "boot-2" } else { "boot-1" };
        let now = defib_core::time::Now {
            mono: Mono(second * 1000),
            wall: Timestamp::from_second(second as i64).unwrap(),
        };
        ledger.on_report(
            &vm,
            Report {
                uptime_seconds: uptime,
                ..report(boot)
            },
            now,
        );
        let patch = ledger
            .next_patch(Queue::Urgent)
            .or_else(|| ledger.next_patch(Queue::Refresh))
            .unwrap();
        seen.push(patch.heartbeat.boot_time.unwrap().as_second());
        ledger.published(&patch, Outcome::Published, now.mono);
    }
    assert_eq!(seen, [50, 50, 50, 50, 53, 529]);
}

#[test]
fn usage_is_in_whole_percent_with_the_fullest_disks_first() {
    let disk = |n: u64| Disk {
        mount: format!("/{n:02}").into(),
        used_bytes: n % 20,
        total_bytes: if n == 0 { 0 } else { 20 },
    };
    let full = Report {
        cpu_percent: 99.5,
        memory_used_bytes: 2,
        memory_total_bytes: 3,
        disks: (0..20).map(disk).collect(),
        ..report("a")
    };
    let usage = status::usage(&full);
    assert_eq!(
        (usage.cpu_percent, usage.memory_percent, usage.disk_percent),
        (Some(100), Some(67), Some(95))
    );
    let mounts: Vec<String> = usage.disks.iter().map(|d| d.mount.clone()).collect();
    assert_eq!(mounts.len(), 16);
    assert_eq!((&*mounts[0], &*mounts[15]), ("/19", "/04"));
    let none = status::usage(&report("a"));
    assert_eq!((none.cpu_percent, none.disk_percent, none.disks.len()), (Some(5), None, 0));
}

proptest! {
    /// Whatever is reported and whatever fails in between: in the end the newest value of each VM is what landed last, and values land in their order.
    #[test]
    fn values_land_in_order_and_the_newest_last(steps in prop::collection::vec((0..4_usize, 0..5_usize, 0..40_u64, 0..6_u8), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (landed, newest) = runtime.block_on(async {
            let w = World::with_latency(Duration::from_millis(700));
            let vms: Vec<VmKey> = (0..4).map(|i| VmKey::new("default", i.to_string())).collect();
            vms.iter().for_each(|vm| w.known(vm, None));
            for (vm, weather, pause, boot) in steps {
                w.weather([Weather::Fine, Weather::Fine, Weather::Overloaded, Weather::Hanging, Weather::Refusing][weather]);
                // A boot id that comes back with a later number is another boot.
                let boot = format!("boot-{boot}-{}", w.clock.now().mono.0 / 20_000);
                w.report(&vms[vm], &boot);
                sleep(Duration::from_millis(pause * 250)).await;
            }
            w.weather(Weather::Fine);
            w.quiet().await;
            let newest: HashMap<VmKey, Timestamp> = vms
                .iter()
                .filter_map(|vm| Some((vm.clone(), w.ledger.newest_received(vm)?)))
                .collect();
            let mut landed: HashMap<VmKey, Vec<Timestamp>> = HashMap::new();
            for call in w.calls().into_iter().filter(|c| c.landed) {
                landed.entry(call.vm).or_default().push(call.received);
            }
            w.end().await;
            (landed, newest)
        });
        for (vm, newest) in newest {
            let landed = &landed[&vm];
            prop_assert_eq!(landed.last(), Some(&newest));
            prop_assert!(landed.is_sorted_by(|a, b| a < b), "{:?}", landed);
        }
    }
}
