use super::*;
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "hostname": "db-1",
        "machineUUID": "00112233-4455-6677-8899-AABBCCDDEEFF",
        "cpuPercent": 12.5,
        "memoryUsedBytes": 3_000_000_000_u64,
        "memoryTotalBytes": 8_000_000_000_u64,
        "disks": [{"mount": "/", "usedBytes": 5, "totalBytes": 10}, {"mount": "C:", "usedBytes": 0, "totalBytes": 0}],
        "uptimeSeconds": 3600.25,
        "bootID": "9f3c1f0e-5a0f-4d44-9d0e-0c8c2cf1a111",
        "state": "Running",
        "supervised": true,
        "agentVersion": "1.2.3",
        "sentAt": "2026-01-02T03:04:05.678Z",
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut report = good();
    report[field] = value;
    report
}

fn without(field: &str) -> Value {
    let mut report = good();
    report.as_object_mut().unwrap().remove(field);
    report
}

fn check_text(text: &str) -> Result<Report, Problem> {
    match read(text.as_bytes()).unwrap() {
        Body::One(item) => item.check(),
        Body::Many(_) | Body::TooMany => panic!("{text} is an array"),
    }
}

fn check(report: &Value) -> Result<Report, Problem> {
    check_text(&report.to_string())
}

fn problem_of(report: &Value) -> String {
    check(report).unwrap_err().to_string()
}

#[test]
fn every_field_arrives() {
    let expected = Report {
        hostname: Some("db-1".into()),
        machine_uuid: Some(Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff)),
        cpu_percent: 12.5,
        memory_used_bytes: 3_000_000_000,
        memory_total_bytes: 8_000_000_000,
        disks: vec![
            Disk {
                mount: "/".into(),
                used_bytes: 5,
                total_bytes: 10,
            },
            Disk {
                mount: "C:".into(),
                used_bytes: 0,
                total_bytes: 0,
            },
        ],
        uptime_seconds: 3600.25,
        boot_id: "9f3c1f0e-5a0f-4d44-9d0e-0c8c2cf1a111".into(),
        state: AgentState::Running,
        supervised: true,
        agent_version: Some("1.2.3".into()),
        sent_at_ms: Some(1_767_323_045_678),
    };
    assert_eq!(check(&good()).unwrap(), expected);
    let marked = format!("\u{feff}{}", good());
    assert_eq!(check_text(&marked).unwrap(), expected, "with a byte order mark");
    assert_eq!(
        check(&with("newField", json!({"deep": [1, {"er": null}]}))).unwrap(),
        expected,
        "of a newer agent"
    );
    let escaped = good().to_string().replace("cpuPercent", "cpu\\u0050ercent");
    assert_eq!(check_text(&escaped).unwrap(), expected, "with an escape in a name");
}

#[test]
fn each_wrong_field_is_named_with_what_it_should_be() {
    let disk = |field: &str, value: Value| {
        let mut report = with("disks", json!(vec![good()["disks"][0].clone(); 3]));
        report["disks"][2][field] = value;
        report
    };
    let cases = [
        (
            with("cpuPercent", json!(-0.1)),
            "cpuPercent: must be a number from 0 to 100, not -0.1",
        ),
        (
            with("cpuPercent", json!(100.5)),
            "cpuPercent: must be a number from 0 to 100, not 100.5",
        ),
        (
            with("cpuPercent", json!("12")),
            "cpuPercent: must be a number from 0 to 100, not a text",
        ),
        (
            with("memoryUsedBytes", json!(5e-324)),
            "memoryUsedBytes: must be an integer >= 0, not 5e-324",
        ),
        (
            with("cpuPercent", json!(1e300)),
            "cpuPercent: must be a number from 0 to 100, not 1e300",
        ),
        (
            with("cpuPercent", json!(true)),
            "cpuPercent: must be a number from 0 to 100, not true",
        ),
        (
            with("memoryUsedBytes", json!(-5)),
            "memoryUsedBytes: must be an integer >= 0, not -5",
        ),
        (
            with("memoryUsedBytes", json!(5.5)),
            "memoryUsedBytes: must be an integer >= 0, not 5.5",
        ),
        (
            with("memoryUsedBytes", json!(8_000_000_001_u64)),
            "memoryUsedBytes: must be at most memoryTotalBytes (8000000000), not 8000000001",
        ),
        (with("memoryTotalBytes", json!(0)), "memoryTotalBytes: must be over 0"),
        (
            with("memoryTotalBytes", json!([1])),
            "memoryTotalBytes: must be an integer >= 0, not a list",
        ),
        (
            with("memoryTotalBytes", json!(u64::MAX)),
            "memoryTotalBytes: must be at most 1152921504606846976, not 18446744073709551615",
        ),
        (
            with("memoryTotalBytes", json!(1e19)),
            "memoryTotalBytes: must be an integer >= 0, not 10000000000000000000",
        ),
        (with("disks", json!({"mount": "/"})), "disks: must be a list, not an object"),
        (
            with("disks", json!(vec![good()["disks"][0].clone(); 65])),
            "disks: must have at most 64 items, not 65",
        ),
        (with("disks", json!([7])), "disks[0]: must be an object, not 7"),
        (with("disks", json!([[]])), "disks[0]: must be an object, not a list"),
        (disk("usedBytes", json!(-5)), "disks[2].usedBytes: must be an integer >= 0, not -5"),
        (
            disk("usedBytes", json!(11)),
            "disks[2].usedBytes: must be at most totalBytes (10), not 11",
        ),
        (disk("totalBytes", Value::Null), "disks[2].totalBytes: is missing"),
        (disk("mount", json!("")), "disks[2].mount: must have 1 to 255 characters, not 0"),
        (
            disk("mount", json!("ü".repeat(256))),
            "disks[2].mount: must have 1 to 255 characters, not 256",
        ),
        (disk("mount", json!(1)), "disks[2].mount: must be a text, not 1"),
        (
            with("uptimeSeconds", json!(-1)),
            "uptimeSeconds: must be a number from 0 to 3153600000, not -1",
        ),
        (
            with("uptimeSeconds", json!(3_153_600_001_u64)),
            "uptimeSeconds: must be a number from 0 to 3153600000, not 3153600001",
        ),
        (
            with("bootID", json!("")),
            "bootID: must have 1 to 64 of the characters 0-9, A-Z, a-z and -",
        ),
        (
            with("bootID", json!("a".repeat(65))),
            "bootID: must have 1 to 64 of the characters 0-9, A-Z, a-z and -",
        ),
        (
            with("bootID", json!("a\nb")),
            "bootID: must have 1 to 64 of the characters 0-9, A-Z, a-z and -",
        ),
        (with("bootID", json!(7)), "bootID: must be a text, not 7"),
        (with("state", json!("running")), "state: must be Running or Stopping"),
        (with("state", json!(1)), "state: must be Running or Stopping, not 1"),
        (with("supervised", json!("true")), "supervised: must be true or false, not a text"),
        (
            with("machineUUID", json!("db-1")),
            "machineUUID: must be a UUID such as 0d0d0d0d-1111-2222-3333-444455556666",
        ),
        (
            with("machineUUID", json!("")),
            "machineUUID: must be a UUID such as 0d0d0d0d-1111-2222-3333-444455556666",
        ),
        (with("machineUUID", json!({})), "machineUUID: must be a text, not an object"),
        (
            with("agentVersion", json!("v".repeat(65))),
            "agentVersion: must have at most 64 characters, not 65",
        ),
        (with("agentVersion", json!(1.5)), "agentVersion: must be a text, not 1.5"),
        (json!(null), "a report must be a JSON object, not null"),
        (json!("Running"), "a report must be a JSON object, not a text"),
        (json!(5), "a report must be a JSON object, not 5"),
    ];
    for (report, problem) in cases {
        assert_eq!(problem_of(&report), problem, "{report}");
    }
}

#[test]
fn a_field_that_is_there_twice_is_ambiguous() {
    let twice = good().to_string().replacen('{', r#"{"state": "Stopping", "#, 1);
    assert_eq!(check_text(&twice).unwrap_err().to_string(), "state: is there twice");
    let disks = good().to_string().replacen('{', r#"{"disks": [], "#, 1);
    assert_eq!(check_text(&disks).unwrap_err().to_string(), "disks: is there twice");
    let mount = good().to_string().replacen(r#""mount""#, r#""mount":"/a","mount""#, 1);
    assert_eq!(check_text(&mount).unwrap_err().to_string(), "disks[0].mount: is there twice");
}

#[test]
fn information_is_never_a_reason_to_refuse() {
    let hostname = |value: Value| check(&with("hostname", value)).unwrap().hostname.map(|h| h.to_string());
    assert_eq!(hostname(json!("h".repeat(300))), Some("h".repeat(253)));
    assert_eq!(hostname(json!("a\u{1b}[2Jb\n")), Some("a\u{fffd}[2Jb\u{fffd}".into()));
    assert_eq!(hostname(json!(["x"])), None);
    assert_eq!(hostname(json!("ü".repeat(253))), Some("ü".repeat(253)));
    for sent in [json!("yesterday"), json!(1_767_323_045), json!(""), json!({"a": 1})] {
        assert_eq!(check(&with("sentAt", sent)).unwrap().sent_at_ms, None);
    }
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let report = with("disks", json!([{"mount": "/a\u{7}\u{9b}b", "usedBytes": 0, "totalBytes": 1}]));
    assert_eq!(&*check(&report).unwrap().disks[0].mount, "/a\u{fffd}\u{fffd}b");
    let version = check(&with("agentVersion", json!("1\u{0}"))).unwrap().agent_version;
    assert_eq!(version.as_deref(), Some("1\u{fffd}"));
}

#[test]
fn numbers_mean_the_same_however_they_are_written() {
    let text = good().to_string().replace("8000000000", "8.0e9");
    assert_eq!(check_text(&text).unwrap().memory_total_bytes, 8_000_000_000);
    let zero = check(&with("cpuPercent", json!(-0.0))).unwrap().cpu_percent;
    assert!(zero.is_sign_positive());
    assert_eq!(check(&with("cpuPercent", json!(100))).unwrap().cpu_percent, 100.0);
}

#[test]
fn a_uuid_that_is_not_set_names_no_machine() {
    for unset in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
        assert_eq!(check(&with("machineUUID", json!(unset))).unwrap().machine_uuid, None);
    }
}

#[test]
fn the_machine_of_a_bad_report_is_known_where_it_can_be() {
    let machine = |report: Value| match read(report.to_string().as_bytes()).unwrap() {
        Body::One(item) => item.machine_uuid(),
        Body::Many(_) | Body::TooMany => None,
    };
    let uuid = check(&good()).unwrap().machine_uuid;
    assert!(uuid.is_some());
    assert_eq!(machine(with("cpuPercent", json!(-1))), uuid);
    assert_eq!(machine(with("machineUUID", json!(7))), None);
    assert_eq!(machine(json!(7)), None);
}

#[test]
fn arrays_are_bounded_and_their_items_are_judged_one_by_one() {
    let items = |n: usize| Value::Array(vec![json!({}); n]).to_string();
    assert!(matches!(read(items(1000).as_bytes()), Ok(Body::Many(list)) if list.len() == 1000));
    assert!(matches!(read(items(1001).as_bytes()), Ok(Body::TooMany)));
    let mixed = json!([good(), {"key": "k"}, 7, {"key": 7}, {"key": null}]).to_string();
    let Ok(Body::Many(list)) = read(mixed.as_bytes()) else {
        panic!("no array")
    };
    let keys: Vec<_> = list.iter().map(|item| item.key().map_err(|p| p.to_string())).collect();
    assert_eq!(
        keys,
        [
            Ok(None),
            Ok(Some("k")),
            Ok(None),
            Err("key: must be a text, not 7".into()),
            Ok(None)
        ]
    );
    assert!(list[0].check().is_ok());
}

#[test]
fn what_is_no_json_says_where() {
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "{",
        "{\"a\": nan}",
        "{} {}",
        "{\"cpuPercent\": 1e999}",
        "\u{feff}\u{feff}{}",
        deep.as_str(),
    ] {
        let error = read(text.as_bytes()).err().unwrap_or_else(|| panic!("{text} was read")).to_string();
        assert!(
            error.starts_with("the body is not JSON in UTF-8: ") && error.contains("line 1"),
            "{error}"
        );
    }
    for bytes in [&b"\xff\xfe{}"[..], b"{\"hostname\": \"\xff\"}"] {
        assert!(read(bytes).is_err());
    }
}

/// The schema is what writers of agents go by. Everything that it demands must be demanded here, with the same limits.
#[test]
fn the_schema_of_reports_says_the_same() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../agents/report.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let required: Vec<&str> = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();

    let report = good();
    let mut known: Vec<&String> = report.as_object().unwrap().keys().collect();
    let mut described: Vec<&String> = properties.keys().collect();
    known.sort();
    described.sort();
    assert_eq!(known, described);
    for field in properties.keys() {
        let refused = check(&without(field)).is_err();
        assert_eq!(refused, required.contains(&field.as_str()), "{field}");
        assert_eq!(
            check(&with(field, Value::Null)).is_err(),
            refused,
            "null is the same as absent: {field}"
        );
    }
    let number = |pointer: &str| schema.pointer(pointer).and_then(Value::as_f64);
    assert_eq!(number("/properties/disks/maxItems"), Some(MAX_DISKS as f64));
    assert_eq!(number("/properties/disks/items/properties/mount/maxLength"), Some(MAX_MOUNT as f64));
    assert_eq!(number("/properties/hostname/maxLength"), Some(MAX_HOSTNAME as f64));
    assert_eq!(number("/properties/agentVersion/maxLength"), Some(MAX_SHORT_TEXT as f64));
    assert_eq!(number("/properties/cpuPercent/maximum"), Some(100.0));
    assert_eq!(number("/$defs/bytes/maximum"), Some(MAX_BYTES as f64));
    assert_eq!(schema["properties"]["state"]["enum"], json!(["Running", "Stopping"]));
    for disk in schema
        .pointer("/properties/disks/items/required")
        .and_then(Value::as_array)
        .unwrap()
    {
        let mut report = good();
        report["disks"][0].as_object_mut().unwrap().remove(disk.as_str().unwrap());
        assert!(check(&report).is_err(), "{disk}");
    }
}
