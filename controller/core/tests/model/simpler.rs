//! Each simpler protocol goes wrong, and the table in the README says how.

use crate::model::{Action, Model, Scenario, Search, scenarios};
use crate::protocol::{Counted, Protocol, REAL, SIMPLER};
use crate::world::Wrong;
use stateright::{Checker, Model as _};
use std::fmt::Write as _;

/// Where a protocol is not expected to go wrong, so many steps are tried.
const TRIED: usize = 500_000;

/// The columns of the table, and the scenario that is searched where nothing is expected.
const COLUMNS: [(Wrong, &str, Scenario); 3] = [
    (Wrong::Healthy, "healthy VM reset", scenarios::ONE_VM),
    (Wrong::Double, "VM reset twice", scenarios::ONE_VM),
    (Wrong::Budget, "budget exceeded", scenarios::TWO_VMS),
];

/// The shortest way to go wrong.
fn counterexample(protocol: Protocol, scenario: Scenario, wrong: Wrong, most: Option<usize>) -> Option<Vec<Action>> {
    let model = Model {
        protocol,
        scenario,
        search: Search::For(wrong),
    };
    let mut checker = model.checker();
    if let Some(most) = most {
        checker = checker.target_state_count(most);
    }
    let path = checker.spawn_bfs().join().discoveries().into_values().next()?;
    let path = path.into_actions();
    if std::env::var_os("SHOW").is_some() {
        let mut text = format!("\n{} ({}): {wrong:?}\n", protocol.name, scenario.name);
        for action in &path {
            let _ = writeln!(text, "    {action:?}");
        }
        print!("{text}");
    }
    Some(path)
}

fn row(protocol: Protocol, expected: &[(Wrong, Scenario)]) -> String {
    let cells = COLUMNS.map(|(wrong, _, scenario)| {
        let known = expected.iter().find(|(w, _)| *w == wrong);
        let (scenario, most) = known.map_or((scenario, Some(TRIED)), |(_, s)| (*s, None));
        let found = counterexample(protocol, scenario, wrong, most);
        assert_eq!(found.is_some(), known.is_some(), "{}: {wrong:?}", protocol.name);
        found.map_or("-".into(), |path| format!("after {} steps", path.len()))
    });
    format!("| {} | {} |\n", protocol.name, cells.join(" | "))
}

#[test]
fn each_simpler_protocol_goes_wrong_as_the_readme_says() {
    let mut table = format!(
        "| protocol | {} |\n| --- | --- | --- | --- |\n",
        COLUMNS.map(|(_, title, _)| title).join(" | ")
    );
    // That of Defib is searched to the end by other tests.
    let _ = writeln!(table, "| {} | never | never | never |", REAL.name);
    let rows = std::thread::scope(|scope| {
        let threads = SIMPLER.map(|(protocol, expected)| scope.spawn(move || row(protocol, expected)));
        threads.map(|thread| thread.join().unwrap())
    });
    table.extend(rows);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    assert!(readme.contains(&table), "README.md has another table than this one:\n\n{table}");
}

/// A request that was delivered, and whose task Proxmox could not be asked for, would not count.
#[test]
fn counted_when_its_task_is_known_the_cap_is_exceeded() {
    let protocol = Protocol {
        name: "count an attempt when its task is known",
        counted: Counted::TaskKnown,
        ..REAL
    };
    assert!(counterexample(protocol, scenarios::ONE_VM, Wrong::Cap, None).is_some());
}
