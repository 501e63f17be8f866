//! `cargo xtask demo`: the main job on this machine, told step by step.

mod detached;
mod story;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::sync::mpsc;
use std::time::Duration;
use xtask::lab::{Lab, NAMESPACE, Options, demo_fleet};
use xtask::paths::{build, root};

#[derive(Args)]
pub struct Demo {
    #[command(subcommand)]
    command: Option<Command>,
    /// Play the story, check each step, and end: exit code 0 when every step was as told.
    #[arg(long, conflicts_with = "detach")]
    once: bool,
    /// Play the story, then go on in the background until `cargo xtask demo down`.
    #[arg(long)]
    detach: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stop a demo that was started with --detach.
    Down,
}

pub fn run(demo: &Demo) -> Result<()> {
    match demo.command {
        Some(Command::Down) => return detached::down(),
        None if demo.detach => return detached::start(),
        None => {}
    }
    let interrupted = on_interrupt()?;
    build(&|text| say(text))?;
    let lab = Lab::start(
        Options {
            fleet: demo_fleet(),
            manifests: vec![root().join("examples/demo")],
            folder: detached::folder_from_env(),
            ..Options::default()
        },
        &|step| say(step),
    )?;
    let told = story::play(&lab, &|text| say(text), &interrupted);
    if let Err(error) = &told {
        eprintln!("\nthe last lines of Defib's log:\n{}\n", lab.controller_log(40));
        if demo.once {
            eprintln!("the story broke off: {error:#}");
        }
    }
    if demo.once || told.is_err() {
        lab.stop()?;
        if told.is_ok() {
            println!("\nEvery step was as told.");
        }
        return told;
    }
    show_around(&lab);
    detached::ready(&lab)?;
    // Until Ctrl-C or SIGTERM.
    let _ = interrupted.recv();
    say("stopping");
    lab.stop()
}

fn show_around(lab: &Lab) {
    let kubectl = lab.control_plane.tools().kubectl.path.display();
    let state = lab.simulator_state();
    let detached = detached::folder_from_env().is_some();
    println!(
        "
Everything runs. Look for yourself{}:

  export KUBECONFIG={}
  alias kubectl={kubectl}
  kubectl get vms.defib.dev -n {NAMESPACE} -w
  kubectl get vmresets,healthpolicies,proxmoxclusters -n {NAMESPACE}
  kubectl describe mvm web-1 -n {NAMESPACE}
  curl -s http://127.0.0.1:{}/metrics | grep ^defib_

  {} ctl --state-dir {} hang 105      # let db-2 hang, and watch
  {} ctl --state-dir {} list

Defib's log: {}
{}",
        if detached { "" } else { ", in another terminal" },
        lab.control_plane.kubeconfig().display(),
        lab.metrics_port,
        shown("pve-sim"),
        state.display(),
        shown("pve-sim"),
        state.display(),
        lab.folder().join("defib.log").display(),
        if detached { "" } else { "Ctrl-C ends it all." },
    );
}

fn shown(program: &str) -> String {
    xtask::paths::program(program).map_or_else(|_| program.to_owned(), |path| path.display().to_string())
}

fn say(text: &str) {
    println!("== {text}");
}

/// Ctrl-C and SIGTERM end the lab in order instead of this process at once. A second one is not waited for: all parts are on a leash.
fn on_interrupt() -> Result<mpsc::Receiver<()>> {
    let (tell, told) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = tell.send(());
    })?;
    Ok(told)
}

/// Whether an interrupt came.
fn was_interrupted(told: &mpsc::Receiver<()>) -> bool {
    told.recv_timeout(Duration::ZERO).is_ok()
}
