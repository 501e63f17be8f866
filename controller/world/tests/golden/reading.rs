//! What cannot be understood in a scenario is said, with its place.

use defib_world::golden::Scenario;

fn error(text: &str) -> String {
    match Scenario::read(text).and_then(|scenario| scenario.plan()) {
        Ok(_) => String::new(),
        Err(error) => error,
    }
}

#[test]
fn a_mistake_is_named() {
    let rows = [
        ("about: a\ntimeline: []\n", ""),
        ("about: a\ntimeline: []\nsetups: {}\n", "unknown field `setups`"),
        ("about: a\nsetup: {vm: {}}\ntimeline: []\n", "unknown field `vm`"),
        ("about: a\nsetup: {vms: {web: {spek: {}}}}\ntimeline: []\n", "unknown field `spek`"),
        (
            "about: a\nsetup: {vms: {web: {spec: {powerstate: Running}}}}\ntimeline: []\n",
            "VM web: unknown field `powerstate`",
        ),
        (
            "about: a\nsetup: {policies: {default: {resetPolicy: {maxReset: 1}}}}\ntimeline: []\n",
            "policy default: unknown field `resetPolicy.maxReset`",
        ),
        (
            "about: a\ntimeline: [{at: 1, hangs: web}]\n",
            "timeline, entry 1: unknown variant `hangs`",
        ),
        (
            "about: a\ntimeline: [{at: 1, hang: db}]\n",
            "timeline, entry 1: there is no VM \"db\"; there are web",
        ),
        ("about: a\ntimeline: [{hang: web}]\n", "timeline, entry 1: `at` is missing"),
        ("about: a\ntimeline: [{at: soon, hang: web}]\n", "`at` is \"soon\", not seconds"),
        (
            "about: a\ntimeline: [{at: 1, hang: web, mute: web}]\n",
            "one thing happens in an entry",
        ),
        ("about: a\ntimeline: [{on: swap, hang: web}]\n", "not look, intent, open or post"),
        (
            "about: a\ntimeline: [{at: 1, lock: {vm: web, kind: backups}}]\n",
            "unknown variant `backups`",
        ),
        (
            "about: a\ntimeline: [{at: 1, declare: {kind: ManagedVM, name: web, told: t, spec: {pause: []}}}]\n",
            "unknown field `pause`",
        ),
        (
            "about: a\nsetup: {end: 5}\ntimeline: [{at: 10, hang: web}]\n",
            "something happens at 00:10",
        ),
    ];
    for (text, said) in rows {
        let error = error(text);
        assert!(
            if said.is_empty() { error.is_empty() } else { error.contains(said) },
            "{text}\n{error}"
        );
    }
}
