//! The command line: `defib run`, `defib crds`, `defib key`.

use crate::{config::RunOptions, key, run};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Resets Proxmox VE virtual machines whose heartbeat stopped, and proves that they came back.
#[derive(Debug, Parser)]
#[command(name = "defib", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the controller.
    Run(Box<RunOptions>),
    /// Writes the custom resource definitions as YAML: to standard output, or one file a kind into a folder.
    Crds {
        /// Folder to write to.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Prints the key of a VM's agent.
    Key(key::KeyOptions),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(options) => return run::main(*options),
        Command::Crds { dir } => crds(dir),
        Command::Key(options) => key::main(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("defib: {error}");
            ExitCode::FAILURE
        }
    }
}

fn crds(dir: Option<PathBuf>) -> Result<(), String> {
    for crd in defib_api::crds() {
        let yaml = serde_saphyr::to_string(&crd).map_err(|e| format!("cannot write {} as YAML: {e}", crd.spec.names.kind))?;
        match &dir {
            None => println!("---\n{}", yaml.trim_end()),
            Some(dir) => {
                let path = dir.join(format!("{}.yaml", crd.spec.names.plural));
                std::fs::write(&path, yaml).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
            }
        }
    }
    Ok(())
}
