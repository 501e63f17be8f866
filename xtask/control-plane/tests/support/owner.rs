//! Owns a control plane until its stdin ends, or it is killed. Prints a line of JSON: the folder and the process ids.

use std::error::Error;
use std::io::{self, Write};

use control_plane::{ControlPlane, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let plane = ControlPlane::start(Options::default())?;
    let pids: Vec<u32> = plane.processes().into_iter().map(|(_, pid)| pid).collect();
    writeln!(io::stdout(), "{}", serde_json::json!({ "folder": plane.folder(), "pids": pids }))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
