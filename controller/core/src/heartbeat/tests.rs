use super::*;

fn report(boot: &str, uptime: f64) -> Arc<Report> {
    Arc::new(Report {
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
    })
}

fn expecting(identity: u128) -> Expectation {
    Expectation {
        identity: Some(Uuid::from_u128(identity)),
        ..Expectation::default()
    }
}

#[test]
fn only_news_wakes_the_decider() {
    let mut h = Heartbeat::default();
    let e = expecting(7);
    assert_eq!(
        h.take(report("a", 10.0), &e, Mono(1_000)),
        Taken::Accepted { wake: true },
        "first report"
    );
    assert_eq!(
        h.take(report("a", 40.0), &e, Mono(31_000)),
        Taken::Accepted { wake: false },
        "mere beat"
    );
    assert_eq!(
        h.take(report("b", 5.0), &e, Mono(61_000)),
        Taken::Accepted { wake: true },
        "new boot"
    );
    assert_eq!(h.boot_first_received, Some(Mono(61_000)));
    let awaited = Expectation { awaited: true, ..e };
    assert_eq!(
        h.take(report("b", 35.0), &awaited, Mono(91_000)),
        Taken::Accepted { wake: true },
        "awaited"
    );
}

#[test]
fn a_late_report_moves_nothing() {
    let mut h = Heartbeat::default();
    let e = expecting(7);
    h.take(report("a", 40.0), &e, Mono(1_000));
    assert_eq!(h.take(report("a", 10.0), &e, Mono(2_000)), Taken::Stale);
    h.take(report("b", 3.0), &e, Mono(3_000));
    assert_eq!(h.take(report("a", 70.0), &e, Mono(4_000)), Taken::Stale, "of an earlier boot");
    assert_eq!(h.last_life, Some(Mono(3_000)));
}

#[test]
fn a_rolled_back_snapshot_is_alive_again_with_its_second_report() {
    let mut h = Heartbeat::default();
    let e = expecting(7);
    h.take(report("a", 4000.0), &e, Mono(1_000));
    assert_eq!(h.take(report("a", 100.0), &e, Mono(31_000)), Taken::Stale);
    assert_eq!(h.take(report("a", 130.0), &e, Mono(61_000)), Taken::Accepted { wake: false });
    assert_eq!(h.last_life, Some(Mono(61_000)));
    assert_eq!(h.take(report("a", 160.0), &e, Mono(91_000)), Taken::Accepted { wake: false });
}

#[test]
fn another_machine_with_the_same_key_is_never_life() {
    let mut h = Heartbeat::default();
    assert_eq!(h.take(report("a", 1.0), &expecting(8), Mono(1_000)), Taken::WrongMachine);
    assert_eq!((h.last_life, h.report.is_some()), (None, false));
    assert_eq!(h.wrong_machine, Some((Mono(1_000), Uuid::from_u128(7))));
}

#[test]
fn what_came_before_adoption_is_judged_at_adoption() {
    let mut h = Heartbeat::default();
    h.take(report("a", 1.0), &Expectation::default(), Mono(1_000));
    assert!(!h.clone().identify(Uuid::from_u128(7)));
    assert!(h.identify(Uuid::from_u128(8)));
    assert_eq!((h.last_life, h.wrong_machine.is_some()), (None, true));
}

#[test]
fn a_refused_body_is_life_and_a_wrong_key_is_not() {
    let mut h = Heartbeat::default();
    let e = expecting(7);
    assert!(h.contact(Mono(500)));
    assert!(!h.contact(Mono(700)), "only the first is news");
    assert_eq!((h.last_life, h.wrong_key), (None, Some((Mono(500), Mono(700)))));
    assert!(h.refuse("cpuPercent: 120".into(), &e, Mono(900)));
    assert_eq!((h.last_life, h.wrong_key), (Some(Mono(900)), None));
    assert_eq!(h.take(report("a", 1.0), &e, Mono(1_000)), Taken::Accepted { wake: true });
    assert_eq!(h.rejected, None);
}

#[test]
fn a_report_too_many_is_life_and_is_said_for_a_period() {
    let mut h = Heartbeat::default();
    let e = Expectation {
        report_seconds: 30,
        awaited: true,
        ..expecting(7)
    };
    h.contact(Mono(500));
    assert!(h.limit(&e, Mono(1_000)));
    assert!(!h.limit(&e, Mono(1_001)), "a flood is one piece of news, also while one is awaited");
    assert_eq!((h.last_life, h.wrong_key), (Some(Mono(1_001)), None));
    assert!(h.report.is_none(), "it was not read, so it arms nobody");
    // Of a flood some are accepted: each of them would otherwise change what is said of the VM.
    h.take(report("a", 1.0), &e, Mono(2_000));
    assert!(h.rejected.is_some());
    assert!(!h.limit(&e, Mono(3_000)));
    h.take(report("a", 30.0), &e, Mono(32_999));
    assert!(h.rejected.is_some());
    h.take(report("a", 31.0), &e, Mono(33_000));
    assert_eq!(h.rejected, None);
}

#[test]
fn thresholds_count_from_the_first_excess_without_a_break() {
    let cpu = Threshold {
        metric: Metric::CPU,
        action: defib_api::ThresholdAction::Alert,
        percent: 80,
        duration_seconds: 60,
    };
    let e = Expectation {
        thresholds: vec![cpu.clone()],
        ..expecting(7)
    };
    let mut h = Heartbeat::default();
    h.take(busy(1.0, 90.0), &e, Mono(1_000));
    assert_eq!(h.take(busy(2.0, 95.0), &e, Mono(2_000)), Taken::Accepted { wake: false });
    assert_eq!(h.over_since, [(cpu, Mono(1_000))]);
    assert_eq!(h.take(busy(3.0, 80.0), &e, Mono(3_000)), Taken::Accepted { wake: true });
    assert!(h.over_since.is_empty());
}

#[test]
fn an_alarm_ends_below_its_threshold_and_not_at_it() {
    let ended_at = |percent: u32, after: u64, values: &[f64]| {
        let cpu = Threshold {
            metric: Metric::CPU,
            action: defib_api::ThresholdAction::Alert,
            percent,
            duration_seconds: 60,
        };
        let e = Expectation {
            thresholds: vec![cpu],
            ..expecting(7)
        };
        let mut h = Heartbeat::default();
        h.take(busy(0.0, 99.0), &e, Mono(0));
        values.iter().enumerate().position(|(i, value)| {
            let i = i as u64 + 1;
            h.take(busy(i as f64, *value), &e, Mono(after * 1_000 + i));
            h.over_since.is_empty()
        })
    };
    assert_eq!(ended_at(80, 60, &[81.0, 80.0, 75.1, 75.0]), Some(3), "after the alarm");
    assert_eq!(
        ended_at(80, 59, &[81.0, 80.0, 75.1, 75.0]),
        Some(1),
        "before it, any report within the limit begins the count anew"
    );
    assert_eq!(ended_at(2, 60, &[2.0, 1.1, 1.0]), Some(2), "a low threshold can be met again");
    assert_eq!(ended_at(1, 60, &[0.6, 0.5]), Some(1));
}

fn busy(up: f64, p: f64) -> Arc<Report> {
    Arc::new(Report {
        cpu_percent: p,
        ..(*report("a", up)).clone()
    })
}

#[test]
fn either_byte_order_is_the_same_machine() {
    let a: Uuid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
    let b: Uuid = "33221100-5544-7766-8899-aabbccddeeff".parse().unwrap();
    assert!(same_machine(a, b) && same_machine(b, a) && same_machine(a, a));
    assert!(!same_machine(a, Uuid::nil()));
}

#[test]
fn a_boot_counts_from_the_one_that_follows_what_was_there() {
    let boots = |order: &str| {
        let mut h = Heartbeat::default();
        for (n, boot) in (0u32..).zip(order.split(' ')) {
            h.take(report(boot, 10.0 + f64::from(n)), &expecting(7), Mono(u64::from(n) * 10_000));
        }
        let mut seen: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let before = h.boots.clone();
        seen.retain(|id| {
            let mut without = before.clone();
            without.caused(id);
            without != before
        });
        seen.join(" ")
    };
    assert_eq!(boots("a a a"), "", "it may be up for weeks");
    assert_eq!(boots("a b b c"), "b c");
    assert_eq!(boots("a b a a b b"), "b", "a snapshot was rolled back, and forth");
}
