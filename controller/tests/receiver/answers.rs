//! Each answer, with its metric and its trace in the ledger.

use crate::support::{Answer, MACHINE, World, good, request, vm, with};
use axum::body::Body;
use defib::heartbeat::receiver::{Limits, MAX_BODY, PATH, Rejection};
use defib_core::heartbeat::Expectation;
use http::{Method, Request, header};
use serde_json::{Value, json};

const OTHER_MACHINE: &str = "99999999-4455-6677-8899-aabbccddeeff";

#[tokio::test]
async fn a_good_report_is_accepted_and_told_when_to_come_back() {
    let w = World::new();
    let answer = w.report("db", &good(10.0)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json),
        (200, json!({"accepted": 1, "nextReportSeconds": 15}))
    );
    let seen = w.seen("db");
    assert_eq!(seen.report.map(|(_, r)| r.uptime_seconds), Some(10.0));
    assert!(w.ledger.newest_received(&vm("db")).is_some());
    w.know("new", 1);
    let soon = w.report("new", &good(10.0)).await;
    assert_eq!(soon.json["nextReportSeconds"], 1, "of whom the decider has said nothing yet");
    assert_eq!(w.metric("defib_reports_total", Some("accepted")), 2.0);
    assert_eq!(w.metric("defib_report_requests_in_flight", None), 0.0);
}

/// The silence of a VM is measured by what its agent was told: an answer and the ledger that disagree would take a patient agent for a silent one.
#[tokio::test]
async fn what_the_agent_is_told_is_what_is_kept() {
    let w = World::new();
    let expect = |report_seconds| {
        let expectation = Expectation {
            report_seconds,
            ..Expectation::default()
        };
        w.ledger.expect(&vm("web"), expectation);
    };
    assert_eq!(w.report("web", &good(10.0)).await.json["nextReportSeconds"], 30);
    expect(600);
    assert_eq!(w.seen("web").promised_seconds, Some(30));
    assert_eq!(
        w.report("web", &good(5.0)).await.json["nextReportSeconds"],
        30,
        "a stale report changes nothing"
    );
    assert_eq!(w.report("web", &good(40.0)).await.json["nextReportSeconds"], 600);
    assert_eq!(w.seen("web").promised_seconds, Some(600));
}

#[tokio::test]
async fn a_stale_report_is_no_error_and_moves_nothing() {
    let w = World::new();
    w.report("db", &good(10.0)).await;
    let life = w.seen("db").last_life;
    let answer = w.report("db", &good(5.0)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json),
        (200, json!({"accepted": 0, "nextReportSeconds": 15}))
    );
    assert_eq!(w.seen("db").last_life, life);
    assert_eq!(w.metric("defib_reports_total", Some("stale")), 1.0);
}

/// A request, and the answer it must have.
struct Case {
    name: &'static str,
    request: Request<Body>,
    problem: (u16, Rejection, Option<&'static str>),
    /// Whether it must count as life of `db`.
    life: bool,
}

fn cases(w: &World) -> Vec<Case> {
    let own = w.key("db");
    let key = Some(own.as_str());
    let case = |name, request, status, rejection, field, life| Case {
        name,
        request,
        problem: (status, rejection, field),
        life,
    };
    let json = |value: Value| request(key).body(Body::from(value.to_string())).unwrap();
    let raw = |bytes: &[u8]| request(key).body(Body::from(bytes.to_vec())).unwrap();
    let field = |name, field: &'static str, value| {
        let top = field.split(['[', '.']).next().unwrap();
        case(name, json(with(good(1.0), top, value)), 422, Rejection::Invalid, Some(field), true)
    };
    let typed = |content_type: &str| {
        let request = Request::post(PATH).header(header::AUTHORIZATION, format!("Bearer {own}"));
        request
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(good(1.0).to_string()))
            .unwrap()
    };
    let mut zipped = json(good(1.0));
    zipped.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
    let mut untyped = json(good(1.0));
    untyped.headers_mut().remove(header::CONTENT_TYPE);
    let mut announced = json(good(1.0));
    announced.headers_mut().insert(header::CONTENT_LENGTH, (MAX_BODY + 1).into());
    let mut basic = json(good(1.0));
    basic.headers_mut().insert(header::AUTHORIZATION, "Basic ZGI6ZGI=".parse().unwrap());
    let method = |method: Method| Request::builder().method(method).uri(PATH).body(Body::empty()).unwrap();
    let keyless = request(None).body(Body::from(good(1.0).to_string())).unwrap();
    let anonymous = |bytes: &'static [u8]| request(None).body(Body::from(bytes)).unwrap();
    let gone = w.keys.borrow().derive("default", "deleted", 1);
    vec![
        case("no body", raw(b""), 400, Rejection::NotJson, None, true),
        case("half a body", raw(b"{\"cpuPercent\":"), 400, Rejection::NotJson, None, true),
        case("two bodies", raw(b"{}{}"), 400, Rejection::NotJson, None, true),
        case("UTF-16", raw(b"\xff\xfe{\0}\0"), 400, Rejection::NotJson, None, true),
        case(
            "Latin-1",
            raw(b"{\"hostname\": \"m\xfcller\"}"),
            400,
            Rejection::NotJson,
            None,
            true,
        ),
        case("NaN", raw(b"{\"cpuPercent\": NaN}"), 400, Rejection::NotJson, None, true),
        case(
            "a number beyond all bounds",
            raw(b"{\"cpuPercent\": 1e999}"),
            400,
            Rejection::NotJson,
            None,
            true,
        ),
        case("bad JSON of a stranger", anonymous(b"{"), 400, Rejection::NotJson, None, false),
        case("no key", keyless, 401, Rejection::NoKey, None, false),
        case("another scheme", basic, 401, Rejection::NoKey, None, false),
        case("no object of a stranger", anonymous(b"7"), 401, Rejection::NoKey, None, false),
        case(
            "another machine",
            json(with(good(1.0), "machineUUID", json!(OTHER_MACHINE))),
            403,
            Rejection::WrongMachine,
            Some("machineUUID"),
            false,
        ),
        case(
            "another machine that reports nonsense",
            json(with(with(good(1.0), "machineUUID", json!(OTHER_MACHINE)), "cpuPercent", json!(-1))),
            403,
            Rejection::WrongMachine,
            Some("machineUUID"),
            false,
        ),
        case(
            "a deleted VM",
            request(Some(&gone)).body(Body::from("{}")).unwrap(),
            404,
            Rejection::UnknownVm,
            None,
            false,
        ),
        case("GET", method(Method::GET), 405, Rejection::Method, None, false),
        case("PUT", method(Method::PUT), 405, Rejection::Method, None, false),
        case(
            "a body over 1 MiB",
            raw(&vec![b' '; MAX_BODY + 1]),
            413,
            Rejection::LargeBody,
            None,
            true,
        ),
        case(
            "a body that says it is over 1 MiB",
            announced,
            413,
            Rejection::LargeBody,
            None,
            true,
        ),
        case(
            "1,001 items",
            json(json!(vec![json!({}); 1001])),
            413,
            Rejection::TooManyReports,
            None,
            true,
        ),
        case("no media type", untyped, 415, Rejection::MediaType, None, true),
        case(
            "a form",
            typed("application/x-www-form-urlencoded"),
            415,
            Rejection::MediaType,
            None,
            true,
        ),
        case(
            "another charset",
            typed("application/json; charset=iso-8859-1"),
            415,
            Rejection::MediaType,
            None,
            true,
        ),
        case("compressed", zipped, 415, Rejection::MediaType, None, true),
        case("no object", json(json!(7)), 422, Rejection::Invalid, None, true),
        case(
            "nothing in it",
            json(json!({})),
            422,
            Rejection::Invalid,
            Some("memoryTotalBytes"),
            true,
        ),
        field("cpu", "cpuPercent", json!(101)),
        field("memory", "memoryUsedBytes", json!(8_001)),
        field("no memory", "memoryTotalBytes", json!(0)),
        field("disks", "disks", json!("/")),
        field("a disk", "disks[0]", json!([1])),
        field(
            "the size of a disk",
            "disks[1].usedBytes",
            json!([good(1.0)["disks"][0], {"mount": "/x", "usedBytes": -5, "totalBytes": 1}]),
        ),
        field("uptime", "uptimeSeconds", json!(-1)),
        field("boot id", "bootID", json!("a b")),
        field("state", "state", json!("Paused")),
        field("supervised", "supervised", json!(1)),
        field("agent version", "agentVersion", json!(["1"])),
        field("machine uuid", "machineUUID", json!("none")),
    ]
}

#[tokio::test]
async fn every_bad_request_has_its_answer_its_metric_and_its_trace() {
    let count = cases(&World::new()).len();
    for index in 0..count {
        let w = World::new();
        let Case {
            name,
            request,
            problem: (status, rejection, field),
            life,
        } = cases(&w).remove(index);
        let answer = w.send(request).await;
        assert_eq!(answer.problem(), (status, rejection.reason(), field), "{name}: {answer:?}");
        assert_eq!(w.rejections(rejection.reason()), 1.0, "{name}");
        assert_eq!(w.metric("defib_reports_total", Some("rejected")), 1.0, "{name}");
        let seen = w.seen("db");
        assert_eq!(seen.last_life.is_some(), life, "{name}");
        let refusal = seen.rejected.map(|r| r.detail.to_string());
        assert_eq!(
            refusal.as_deref(),
            life.then_some(answer.json["detail"].as_str().unwrap()),
            "{name}"
        );
        assert_eq!(seen.wrong_machine.is_some(), rejection == Rejection::WrongMachine, "{name}");
        assert!(seen.report.is_none() && w.shed.take().is_empty(), "{name}");
        match status {
            401 => assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"defib\""),
            405 => assert_eq!(answer.headers[header::ALLOW], "POST"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn json_by_any_of_its_names_is_taken() {
    let w = World::new();
    let types = [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
        "application/vnd.defib+json",
    ];
    for (n, content_type) in types.into_iter().enumerate() {
        let request = Request::post(PATH)
            .header(header::AUTHORIZATION, format!("bearer {}", w.key("db")))
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(good(n as f64).to_string()))
            .unwrap();
        assert_eq!(w.send(request).await.json["accepted"], 1, "{content_type}");
    }
}

#[tokio::test]
async fn whoever_does_not_decide_takes_nothing() {
    let w = World::new();
    w.serving.set(false);
    let answer = w.report("db", &good(1.0)).await;
    assert_eq!(answer.problem(), (503, "not-serving", None));
    assert_eq!(answer.headers[header::RETRY_AFTER], "5");
    assert_eq!(w.seen("db").last_life, None);
    assert_eq!(w.shed.take(), ["not-serving"]);
    w.serving.set(true);
    assert_eq!(w.report("db", &good(1.0)).await.json["accepted"], 1);
}

#[tokio::test]
async fn a_report_that_was_read_while_serving_ended_is_not_taken() {
    let w = World::new();
    let serving = w.serving.clone();
    let text = good(1.0).to_string();
    // The body ends only when the process has stopped to serve.
    let body = Body::from_stream(futures::stream::once(async move {
        serving.set(false);
        Ok::<_, std::io::Error>(text)
    }));
    let answer = w.post(Some(&w.key("db")), body).await;
    assert_eq!(answer.problem(), (503, "not-serving", None));
    assert_eq!(w.seen("db").report, None);
}

#[tokio::test]
async fn a_vm_over_its_rate_is_told_to_wait_and_others_are_not() {
    let w = World::new();
    let answers: Vec<u16> = futures::future::join_all((0..25).map(|n| {
        let w = &w;
        async move { w.report("db", &good(f64::from(n))).await.status.as_u16() }
    }))
    .await;
    assert_eq!(answers.iter().filter(|s| **s == 200).count(), 20);
    let answer = w.report("db", &good(99.0)).await;
    assert_eq!(answer.problem(), (429, "too-often", None));
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert_eq!(w.rejections("too-often"), 6.0);
    assert!(w.seen("db").rejected.is_some(), "it is said of the VM");
    assert!(w.shed.take().is_empty(), "it was heard, so all others are as silent as before");
    assert_eq!(w.report("web", &good(1.0)).await.status.as_u16(), 200);
}

/// Whoever holds one key can make one VM look alive, as any report does. What is said of all others must not depend on him.
#[tokio::test]
async fn the_holder_of_one_key_cannot_touch_the_silence_of_others() {
    let w = World::new();
    let key = json!(w.key("db"));
    let array = vec![with(good(1.0), "key", key); 1_000];
    for bearer in [None, Some(w.key("db"))] {
        let answer = w.post(bearer.as_deref(), json!(array).to_string()).await;
        let status = answer.status.as_u16();
        assert!(status == 200 || status == 429, "{answer:?}");
    }
    assert!(w.rejections("too-often") > 900.0);
    assert!(w.seen("db").last_life.is_some());
    assert!(w.shed.take().is_empty());
    assert_eq!(w.seen("web"), Default::default());
}

#[tokio::test]
async fn over_the_limit_of_requests_the_next_ones_are_shed_and_strangers_take_no_agents_place() {
    let limits = Limits {
        authenticated: 1,
        anonymous: 1,
        ..Limits::default()
    };
    let w = World::with_limits(limits);
    let pending = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let key = w.key("db");
    let mut stranger = std::pin::pin!(w.post(None, pending()));
    let mut agent = std::pin::pin!(w.post(Some(&key), pending()));
    assert!(futures::poll!(stranger.as_mut()).is_pending());
    assert_eq!(w.post(None, "[]").await.problem(), (503, "overloaded", None));
    assert_eq!(
        w.report("web", &good(1.0)).await.status.as_u16(),
        200,
        "a place was left for agents"
    );
    assert!(futures::poll!(agent.as_mut()).is_pending());
    let answer = w.report("web", &good(2.0)).await;
    assert_eq!(answer.problem(), (503, "overloaded", None));
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(w.shed.take(), ["overloaded", "overloaded"]);
    assert_eq!(w.metric("defib_report_requests_in_flight", None), 2.0);
}

fn errors(answer: &Answer) -> Vec<(u64, u64, Option<&str>)> {
    let errors = answer.json["errors"].as_array().unwrap();
    let part = |e: &'static str| move |v: &Value| v[e].as_u64().unwrap();
    errors
        .iter()
        .map(|e| (part("index")(e), part("status")(e), e["field"].as_str()))
        .collect()
}

#[tokio::test]
async fn an_array_loses_none_of_its_good_items() {
    let w = World::new();
    w.know("third", 1);
    w.ledger.expect(
        &vm("third"),
        Expectation {
            report_seconds: 7,
            ..Expectation::default()
        },
    );
    let item = |name: &str, report: Value| with(report, "key", json!(w.key(name)));
    let deleted = w.keys.borrow().derive("default", "deleted", 1);
    let items = json!([
        item("db", good(1.0)),
        with(good(1.0), "key", json!("nonsense")),
        item("db", with(good(2.0), "cpuPercent", json!("x"))),
        7,
        good(3.0),
        with(good(1.0), "key", json!({"a": 1})),
        with(good(1.0), "key", json!(deleted)),
        item("db", with(good(4.0), "machineUUID", json!(OTHER_MACHINE))),
        item("db", good(0.5)),
        item("web", good(1.0)),
        item("third", good(1.0)),
    ]);
    let answer = w.post(None, items.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(
        (&answer.json["accepted"], &answer.json["nextReportSeconds"]),
        (&json!(3), &json!(7))
    );
    let expected = [
        (1, 401, None),
        (2, 422, Some("cpuPercent")),
        (3, 401, None),
        (4, 401, None),
        (5, 401, Some("key")),
        (6, 404, None),
        (7, 403, Some("machineUUID")),
    ];
    assert_eq!(errors(&answer), expected);
    assert_eq!(w.metric("defib_reports_total", Some("accepted")), 3.0);
    assert_eq!(w.metric("defib_reports_total", Some("stale")), 1.0);
    assert_eq!(w.metric("defib_reports_total", Some("rejected")), 7.0);
    assert_eq!(w.rejections("no-key"), 2.0);
    for name in ["db", "web", "third"] {
        assert!(w.seen(name).report.is_some(), "{name}");
    }
}

#[tokio::test]
async fn in_an_array_the_bearer_key_is_for_the_items_without_one() {
    let w = World::new();
    let items = json!([good(1.0), with(good(1.0), "key", json!(w.key("web")))]);
    let answer = w.report("db", &items).await;
    assert_eq!(answer.json, json!({"accepted": 2, "nextReportSeconds": 15, "errors": []}));
    assert!(w.seen("db").report.is_some() && w.seen("web").report.is_some());
}

#[tokio::test]
async fn an_array_of_nothing_good_is_read_and_says_so() {
    let w = World::new();
    for (items, count) in [(json!([]), 0), (json!([1, {}]), 2)] {
        let answer = w.post(None, items.to_string()).await;
        assert_eq!((answer.status.as_u16(), &answer.json["accepted"]), (200, &json!(0)));
        assert_eq!(errors(&answer).len(), count);
        assert_eq!(answer.json["nextReportSeconds"], 30);
    }
}

#[tokio::test]
async fn the_canary_goes_all_the_way_and_touches_no_vm() {
    let w = World::new();
    let key = w.keys.borrow().canary();
    let answer = w.post(Some(&key), good(1.0).to_string()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json),
        (200, json!({"accepted": 0, "nextReportSeconds": 30}))
    );
    assert_eq!(w.metric("defib_reports_total", Some("canary")), 1.0);
    let bad = w.post(Some(&key), with(good(1.0), "cpuPercent", json!(-1)).to_string()).await;
    assert_eq!(bad.problem(), (422, "invalid", Some("cpuPercent")), "it must be a real report");
    w.serving.set(false);
    assert_eq!(
        w.post(Some(&key), good(1.0).to_string()).await.problem(),
        (503, "not-serving", None)
    );
    for name in ["db", "web"] {
        assert_eq!(w.seen(name), Default::default());
    }
}

#[tokio::test]
async fn a_machine_that_firmware_spells_in_the_other_byte_order_is_the_same() {
    let w = World::new();
    let uuid: uuid::Uuid = MACHINE.parse().unwrap();
    let swapped = uuid::Uuid::from_bytes(uuid.to_bytes_le()).to_string();
    assert_ne!(swapped, MACHINE);
    assert_eq!(
        w.report("db", &with(good(1.0), "machineUUID", json!(swapped))).await.json["accepted"],
        1
    );
}
