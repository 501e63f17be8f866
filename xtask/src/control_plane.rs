//! `cargo xtask control-plane`: control planes for working by hand. Tests start their own.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use control_plane::tools::{self, Source, Tool};
use control_plane::{Health, Instances, Options};

#[derive(Subcommand)]
pub enum Command {
    /// Start one that goes on after this command, and print how to use it.
    ///
    /// On stdout there is only the line for the shell: eval "$(cargo xtask control-plane up)"
    Up {
        #[command(flatten)]
        name: Name,
        /// Append a line of JSON for each request to this file.
        #[arg(long, value_name = "FILE")]
        audit_log: Option<PathBuf>,
        /// More arguments for kube-apiserver, after `--`.
        #[arg(last = true, value_name = "ARG")]
        apiserver_args: Vec<OsString>,
    },
    /// Stop one and delete its data.
    Down {
        #[command(flatten)]
        name: Name,
        /// All of them.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// List them: name, state, version, address, kubeconfig.
    Status,
    /// Find the tools or build them (once, about 10 minutes), and print the folder they are in.
    Tools {
        /// Helm instead of the control plane's tools.
        #[arg(long)]
        helm: bool,
    },
}

#[derive(Args)]
pub struct Name {
    /// Which of several: 1 to 40 of a-z, 0-9 and '-'.
    #[arg(long, default_value = "default")]
    name: String,
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Up {
            name,
            audit_log,
            apiserver_args,
        } => up(&name.name, audit_log, apiserver_args),
        Command::Down { name, all } => down(&name.name, all),
        Command::Status => status(),
        Command::Tools { helm } => print_tools(helm),
    }
}

fn up(name: &str, audit_log: Option<PathBuf>, apiserver_args: Vec<OsString>) -> Result<()> {
    let tools = tools::ensure()?;
    let kubectl = tools.kubectl.clone();
    let options = Options {
        tools: Some(tools),
        audit_log,
        apiserver_args,
        ..Options::default()
    };
    let (instance, started) = Instances::of_user()?.up(name, options)?;
    let what = if started { "is ready" } else { "runs already" };
    eprintln!("{name} {what}: Kubernetes {} at {}", instance.version, instance.server_url);
    if kubectl.source != Source::Path {
        eprintln!("a kubectl of that version: {}", kubectl.path.display());
    }
    println!("export KUBECONFIG={}", quoted(&instance.kubeconfig.display().to_string()));
    Ok(())
}

fn down(name: &str, all: bool) -> Result<()> {
    let instances = Instances::of_user()?;
    let names = if all { instances.names()? } else { vec![name.to_owned()] };
    if names.is_empty() {
        eprintln!("there is no control plane");
    }
    for name in names {
        instances.down(&name)?;
        eprintln!("{name} is gone");
    }
    Ok(())
}

fn status() -> Result<()> {
    let instances = Instances::of_user()?;
    let mut rows = vec![["NAME", "STATE", "VERSION", "SERVER", "KUBECONFIG"].map(str::to_owned)];
    for name in instances.names()? {
        let row = match instances.get(&name)? {
            Some(instance) => {
                let kubeconfig = instance.kubeconfig.display().to_string();
                [name, state(&instance.health()), instance.version, instance.server_url, kubeconfig]
            }
            None => [name, "NotStarted".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()],
        };
        rows.push(row);
    }
    if rows.len() == 1 {
        eprintln!("there is no control plane");
        return Ok(());
    }
    print!("{}", table(&rows));
    Ok(())
}

fn state(health: &Health) -> String {
    match health {
        Health::Ready => "Ready".to_owned(),
        Health::Degraded(ended) => format!("Degraded (ended: {})", ended.join(", ")),
        Health::Stopped => "Stopped".to_owned(),
        _ => "NotReady".to_owned(),
    }
}

fn print_tools(helm: bool) -> Result<()> {
    if helm {
        let helm = tools::helm()?;
        describe("helm", &helm);
        if let Some(folder) = helm.path.parent() {
            println!("{}", folder.display());
        }
        return Ok(());
    }
    let tools = tools::ensure()?;
    for note in &tools.notes {
        eprintln!("note: {note}");
    }
    for (name, tool) in tools.all() {
        describe(name, tool);
    }
    for folder in tools.folders() {
        println!("{}", folder.display());
    }
    Ok(())
}

fn describe(name: &str, tool: &Tool) {
    let source = match tool.source {
        Source::Assets => "from KUBEBUILDER_ASSETS",
        Source::Path => "from PATH",
        _ => "built here",
    };
    eprintln!("{name:<24} {:<8} {source}", tool.version.to_string());
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Columns as wide as their widest cell, as kubectl prints them.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for path in ["/home/a/.cache/defib/kubeconfig", "/home/a b/k", "/it's/$HOME/`k`"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(path))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), path);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "STATE"], ["a-long-name", "Ready"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NAME          STATE\na-long-name   Ready\n");
    }
}
