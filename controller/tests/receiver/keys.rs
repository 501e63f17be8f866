//! Whose key opens what, and that none is ever shown.

use crate::support::{World, good, master, with};
use defib::heartbeat::keys::KeyRing;
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

#[tokio::test]
async fn a_key_opens_its_own_vm_alone() {
    let w = World::new();
    w.report("web", &good(1.0)).await;
    assert!(w.seen("db").report.is_none());
    let forged = w.key("web").replace("_web_", "_db_");
    let answer = w.post(Some(&forged), good(1.0).to_string()).await;
    assert_eq!(answer.problem(), (401, "wrong-key", None));
    let seen = w.seen("db");
    assert!(seen.wrong_key.is_some(), "a wrong key that names the VM is contact");
    assert_eq!((seen.last_life, seen.report), (None, None), "and no more than that");
}

#[tokio::test]
async fn a_wrong_key_for_a_vm_that_is_not_there_leaves_no_trace() {
    let w = World::new();
    let forged = w.key("web").replace("_web_", "_nobody_");
    for key in [forged.as_str(), "", "x", "defib_default_db_1_00"] {
        let answer = w.post(Some(key), good(1.0).to_string()).await;
        assert_eq!(answer.status.as_u16(), 401, "{key}");
    }
    assert_eq!(w.ledger.vms().len(), 2);
    for name in ["db", "web"] {
        assert_eq!(w.seen(name), Default::default());
    }
}

#[tokio::test]
async fn a_retired_generation_is_a_wrong_key() {
    let w = World::new();
    let key = |generation| w.keys.borrow().derive("default", "db", generation);
    w.know("db", 3);
    for (generation, status) in [(2, 200), (3, 200), (1, 401), (4, 401)] {
        let answer = w.post(Some(&key(generation)), good(f64::from(generation)).to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "generation {generation}: {answer:?}");
    }
    assert!(w.seen("db").wrong_key.is_some());
    assert_eq!(w.rejections("wrong-key"), 2.0);
}

#[tokio::test]
async fn a_rotated_master_takes_effect_at_once_and_the_old_one_counts_until_it_is_dropped() {
    let w = World::new();
    let old = w.key("db");
    let send = |key: String, uptime: f64| {
        let w = &w;
        async move { w.post(Some(&key), good(uptime).to_string()).await.status.as_u16() }
    };
    w.keys.send_replace(Arc::new(KeyRing::new(master(2), Some(master(1)))));
    let new = w.key("db");
    assert_ne!(old, new);
    assert_eq!((send(old.clone(), 1.0).await, send(new.clone(), 2.0).await), (200, 200));
    w.keys.send_replace(Arc::new(KeyRing::new(master(2), None)));
    assert_eq!((send(old, 3.0).await, send(new, 4.0).await), (401, 200));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_key_is_logged_answered_or_kept() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .finish();
    // For all threads: what the tests beside this one log is looked at as well. They use the same key.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let w = World::new();
    let key = w.key("db");
    let mac = key.rsplit('_').next().unwrap();
    let forged = key.replace("_db_", "_web_");
    let mut answers = String::new();
    for (bearer, body) in [
        (Some(&key), good(1.0)),
        (Some(&key), with(good(2.0), "cpuPercent", json!(key))),
        (Some(&key), with(good(2.0), "bootID", json!(key))),
        (Some(&key), with(good(2.0), "state", json!(key))),
        (Some(&key), with(good(2.0), "machineUUID", json!(key))),
        (Some(&key), with(good(2.0), "disks", json!([{"mount": 1, &key: 1}]))),
        (Some(&key), json!(key)),
        (Some(&forged), good(1.0)),
        (Some(&format!("{key}x")), good(1.0)),
        (
            None,
            json!([
                with(good(1.0), "key", json!(forged)),
                with(good(1.0), "key", json!(format!("{key}x")))
            ]),
        ),
        (
            None,
            json!([with(json!({}), "key", json!(key)), with(good(3.0), "key", json!([key]))]),
        ),
    ] {
        answers += &w.post(bearer.map(String::as_str), body.to_string()).await.json.to_string();
    }
    let broken = format!("{{\"key\": \"{key}\", \"cpuPercent\": {key}}}");
    answers += &w.post(Some(&key), broken).await.json.to_string();
    let logged = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    let kept = format!("{:?}{:?}", w.seen("db"), w.ledger);
    assert!(logged.contains("a report was refused"), "nothing was captured");
    for (place, text) in [("log", logged), ("answers", answers), ("ledger", kept)] {
        assert!(!text.contains(mac), "a key stands in the {place}: {text}");
    }
}
