//! Nothing that is sent makes an error of ours, and nothing bad in an array spoils what is good.

use crate::support::{World, good, request, vm, with};
use axum::body::Body;
use http::header;
use proptest::prelude::*;
use serde_json::{Value, json};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Any JSON, with the numbers and texts that break things more often than others.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just(-0.0), Just(1e308), Just(5e-324), Just(9_007_199_254_740_993.0)].prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
        "[\\x00-\\x1f\\u{7f}-\\u{9f}\\u{202e}\\u{2028}\\u{feff}]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn field() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "key",
        "hostname",
        "machineUUID",
        "cpuPercent",
        "memoryUsedBytes",
        "memoryTotalBytes",
        "disks",
        "uptimeSeconds",
        "bootID",
        "state",
        "supervised",
        "agentVersion",
        "sentAt",
        "else",
    ])
}

/// Whether an answer is one that a client can be given for its own doing.
fn is_fair(status: u16) -> bool {
    matches!(status, 200 | 400 | 401 | 403 | 404 | 405 | 413 | 415 | 422 | 429)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_have_an_answer(body in prop::collection::vec(any::<u8>(), 0..400), with_key in any::<bool>()) {
        let w = World::new();
        let key = w.key("db");
        let answer = block_on(w.post(with_key.then_some(key.as_str()), body));
        prop_assert!(is_fair(answer.status.as_u16()), "{:?}", answer);
    }

    #[test]
    fn a_good_report_with_some_bytes_changed_has_an_answer_and_is_life(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let w = World::new();
        let mut body = good(1.0).to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let answer = block_on(w.report_bytes(body));
        prop_assert!(is_fair(answer.status.as_u16()), "{:?}", answer);
        prop_assert_eq!(w.seen("db").last_life.is_some(), answer.status.as_u16() != 403);
    }

    #[test]
    fn any_value_in_any_field_has_an_answer_that_names_it(name in field(), value in any_json()) {
        let w = World::new();
        let answer = block_on(w.report("db", &with(good(1.0), name, value)));
        match answer.status.as_u16() {
            200 => {}
            401 => prop_assert_eq!(name, "key"),
            403 => prop_assert_eq!(name, "machineUUID"),
            422 => {
                let named = answer.json["field"].as_str().unwrap().to_owned();
                // Memory in use is judged by memory in all.
                let by_total = name == "memoryTotalBytes" && named == "memoryUsedBytes";
                prop_assert!(by_total || named.split(['[', '.']).next() == Some(name), "{} for {}", named, name);
            }
            other => prop_assert!(false, "{}: {:?}", other, answer),
        }
    }

    #[test]
    fn any_headers_have_an_answer(key in prop::collection::vec(any::<u8>(), 0..80), kind in ".{0,40}") {
        let w = World::new();
        let mut request = request(None).body(Body::from(good(1.0).to_string())).unwrap();
        if let Ok(value) = http::HeaderValue::from_bytes(&[b"Bearer ", &*key].concat()) {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        if let Ok(value) = http::HeaderValue::from_str(&kind) {
            request.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        let answer = block_on(w.send(request));
        prop_assert!(is_fair(answer.status.as_u16()), "{:?}", answer);
    }

    #[test]
    fn an_array_accepts_exactly_its_good_items(
        items in prop::collection::vec(prop_oneof![2 => Just(None), 1 => (field(), any_json()).prop_map(Some), 1 => any_json().prop_map(|v| Some(("", v)))], 0..40),
    ) {
        let w = World::new();
        let mut good_ones = Vec::new();
        let body: Vec<Value> = items
            .iter()
            .enumerate()
            .map(|(index, bad)| {
                let name = format!("vm-{index}");
                w.know(&name, 1);
                let report = with(good(1.0), "key", json!(w.key(&name)));
                match bad {
                    None => {
                        good_ones.push(index);
                        report
                    }
                    // A value that happens to be right makes the item good: it is then no error either.
                    Some(("", value)) => value.clone(),
                    Some((field, value)) => with(report, field, value.clone()),
                }
            })
            .collect();
        let answer = block_on(w.post(None, json!(body).to_string()));
        prop_assert_eq!(answer.status.as_u16(), 200);
        let errors: Vec<usize> = answer.json["errors"].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap() as usize).collect();
        prop_assert_eq!(answer.json["accepted"].as_u64().unwrap() as usize, items.len() - errors.len());
        for index in 0..items.len() {
            let taken = w.ledger.view(&vm(&format!("vm-{index}"))).report.is_some();
            prop_assert_eq!(taken, !errors.contains(&index));
            prop_assert!(taken || !good_ones.contains(&index), "the good item {} was lost", index);
        }
    }
}

impl World {
    async fn report_bytes(&self, body: Vec<u8>) -> crate::support::Answer {
        self.post(Some(&self.key("db")), body).await
    }
}
