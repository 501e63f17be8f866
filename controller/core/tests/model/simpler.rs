//! Each simpler protocol goes wrong, and the table in the README says how.

use crate::model::{Action, Model, Scenario, Search, scenarios};
use crate::protocol::{Counted, Protocol, REAL, SIMPLER, SIMPLER_DEBTS, Simpler};
use crate::world::Wrong;
use stateright::{Checker, Model as _};
use std::fmt::Write as _;

/// A column of the table.
struct Column {
    wrong: Wrong,
    title: &'static str,
    /// What is searched where a protocol is not expected to go wrong, and how many steps of it.
    tried: (Scenario, usize),
    /// The same of a protocol that differs in how a start is owed.
    tried_of_debts: (Scenario, usize),
}

const RESETS: usize = 500_000;
const POWER_CYCLES: usize = 100_000;

const fn column(wrong: Wrong, title: &'static str, tried: (Scenario, usize), of_debts: Scenario) -> Column {
    Column {
        wrong,
        title,
        tried,
        tried_of_debts: (of_debts, POWER_CYCLES),
    }
}

const COLUMNS: [Column; 5] = [
    column(
        Wrong::Healthy,
        "healthy VM reset",
        (scenarios::ONE_VM, RESETS),
        scenarios::POWER_CYCLE,
    ),
    column(Wrong::Double, "VM reset twice", (scenarios::ONE_VM, RESETS), scenarios::POWER_CYCLE),
    column(
        Wrong::Budget,
        "budget exceeded",
        (scenarios::TWO_VMS, RESETS),
        scenarios::POWER_CYCLE,
    ),
    column(
        Wrong::LeftOff,
        "VM left off",
        (scenarios::POWER_CYCLE, POWER_CYCLES),
        scenarios::POWER_CYCLE,
    ),
    column(
        Wrong::Unowed,
        "started though not owed",
        (scenarios::STOPPED_BY_PEOPLE, POWER_CYCLES),
        scenarios::STOPPED_BY_PEOPLE,
    ),
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

fn row((protocol, expected): Simpler, of_debts: bool) -> String {
    let cells = COLUMNS.map(|column| {
        let known = expected.iter().find(|(wrong, _)| *wrong == column.wrong);
        let (scenario, most) = if of_debts { column.tried_of_debts } else { column.tried };
        let (scenario, most) = known.map_or((scenario, Some(most)), |(_, s)| (*s, None));
        let found = counterexample(protocol, scenario, column.wrong, most);
        assert_eq!(found.is_some(), known.is_some(), "{}: {:?}", protocol.name, column.wrong);
        found.map_or("-".into(), |path| format!("after {} steps", path.len()))
    });
    format!("| {} | {} |\n", protocol.name, cells.join(" | "))
}

#[test]
fn each_simpler_protocol_goes_wrong_as_the_readme_says() {
    let mut table = format!("| protocol | {} |\n| --- |", COLUMNS.map(|column| column.title).join(" | "));
    let _ = writeln!(table, "{}", " --- |".repeat(COLUMNS.len()));
    // That of Defib is searched to the end by other tests.
    let _ = writeln!(table, "| {} |{}", REAL.name, " never |".repeat(COLUMNS.len()));
    let all = SIMPLER.map(|simpler| (simpler, false)).into_iter();
    let all = all.chain(SIMPLER_DEBTS.map(|simpler| (simpler, true)));
    let rows: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = all.map(|(simpler, of_debts)| scope.spawn(move || row(simpler, of_debts))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
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
