//! `pve-sim`: runs a simulated Proxmox VE cluster, and controls a running one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pve_sim::{Config, Control, Format, Simulator};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A Proxmox VE API over HTTPS that behaves like the real one; its guests are real processes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster until SIGTERM or Ctrl-C.
    Serve {
        /// Configuration in YAML. Without one: three nodes, no tokens, no VMs.
        #[arg(long)]
        config: Option<PathBuf>,
        /// Where certificates, endpoints, audit and guests are kept.
        #[arg(long, env = "PVE_SIM_STATE_DIR", default_value = "pve-sim-state")]
        state_dir: PathBuf,
    },
    /// Control a running cluster.
    Ctl {
        /// State directory of the running cluster.
        #[arg(long, env = "PVE_SIM_STATE_DIR", default_value = "pve-sim-state", global = true)]
        state_dir: PathBuf,
        /// Form of the answer: text or json (one object a line).
        #[arg(short, long, default_value_t = Format::Text, global = true)]
        output: Format,
        #[command(subcommand)]
        control: Control,
    },
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let result = match Arguments::parse().command {
        Command::Serve { config, state_dir } => serve(config.as_deref(), &state_dir).await,
        Command::Ctl {
            state_dir,
            output,
            control,
        } => ctl(&state_dir, output, &control).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Option<&Path>, state_dir: &Path) -> Result<(), Failure> {
    // Signals are caught before the first guest starts, so that none is left by an early Ctrl-C.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = config.map_or_else(|| Ok(Config::default()), Config::load)?;
    let simulator = Simulator::start(config, state_dir).await?;
    for endpoint in simulator.endpoints() {
        println!("{} {} {}", endpoint.node, endpoint.url, endpoint.fingerprint);
    }
    println!("CA {}", simulator.state_dir().join("pve-root-ca.pem").display());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.shutdown().await;
    Ok(())
}

async fn ctl(state_dir: &Path, output: Format, control: &Control) -> Result<(), Failure> {
    let reply = pve_sim::send(state_dir, control).await?;
    print!("{}", pve_sim::render(&reply, output));
    Ok(())
}
