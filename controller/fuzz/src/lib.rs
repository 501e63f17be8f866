//! What must hold for any bytes that come from outside: one function a parser, which takes them and panics only where a property is broken.
//!
//! Tests replay `corpus/` through these functions and change its entries a little (`cargo test -p fuzz-targets`); `cargo xtask fuzz` lets libFuzzer
//! search for more.

mod agent_key;
mod objects;
mod proxmox_answer;
mod proxmox_text;
mod report;
mod schema;

/// A parser and what must hold for it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the folder in `corpus/`, and on the command line.
    pub name: &'static str,
    /// Panics when a property is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "report",
        run: report::check,
    },
    Target {
        name: "agent-key",
        run: agent_key::check,
    },
    Target {
        name: "objects",
        run: objects::check,
    },
    Target {
        name: "proxmox-answer",
        run: proxmox_answer::check,
    },
    Target {
        name: "proxmox-text",
        run: proxmox_text::check,
    },
];

/// Checks one input of a target; an unknown target is a broken property too.
pub fn run(target: &str, input: &[u8]) {
    let known = TARGETS.iter().find(|t| t.name == target);
    assert!(known.is_some(), "there is no target {target}");
    if let Some(target) = known {
        (target.run)(input);
    }
}

/// A text from outside that may be shown and stored: at most `max` characters, none of which steers a terminal.
fn assert_shown(what: &str, text: &str, max: usize) {
    assert!(text.chars().count() <= max, "{what} has more than {max} characters: {text:?}");
    assert!(!text.chars().any(char::is_control), "{what} has control characters: {text:?}");
}
