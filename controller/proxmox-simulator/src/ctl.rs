//! The control socket: one JSON line asks, one JSON line answers.

mod render;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

pub use render::{Format, render};

use crate::cluster::Cluster;
use crate::control::{Control, ControlError, Reply};
use crate::simulator::StartError;

/// Name of the socket in the state directory.
const SOCKET: &str = "ctl.sock";

/// Longest line asked. Answers are as long as what they list.
const MAX_LINE: u64 = 64 * 1024;

/// Longest time a caller may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why `ctl` got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// There is no simulator.
    #[error("no simulator answers at {socket}: {source}; is it running, and is --state-dir the same?")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the simulator did not answer: {0}")]
    Broken(String),
    /// The simulator refused.
    #[error("{0}")]
    Refused(#[from] ControlError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ok(Reply),
    Error(String),
}

/// Sends one control to the simulator that uses this state directory.
pub async fn send(state_dir: &Path, control: &Control) -> Result<Reply, CtlError> {
    let socket = state_dir.join(SOCKET);
    let mut stream = UnixStream::connect(&socket)
        .await
        .map_err(|source| CtlError::Connect { socket, source })?;
    let broken = |error: &dyn std::fmt::Display| CtlError::Broken(error.to_string());
    let mut line = serde_json::to_vec(control).map_err(|error| broken(&error))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|error| broken(&error))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(|error| broken(&error))?;
    match serde_json::from_slice(&answer).map_err(|error| broken(&error))? {
        Outcome::Ok(reply) => Ok(reply),
        Outcome::Error(text) => Err(ControlError(text).into()),
    }
}

/// Opens the socket. A socket left behind by a killed simulator is replaced.
pub(crate) async fn bind(state_dir: &Path) -> Result<UnixListener, StartError> {
    let path = state_dir.join(SOCKET);
    if UnixStream::connect(&path).await.is_ok() {
        return Err(StartError::InUse(state_dir.to_owned()));
    }
    let removed = match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed
        .and_then(|()| UnixListener::bind(&path))
        .map_err(|source| StartError::StateDir { path, source })
}

/// Answers callers until shutdown.
pub(crate) async fn serve(cluster: Arc<Cluster>, listener: UnixListener) {
    while let Some(accepted) = cluster.shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let conversation = converse(Arc::clone(&cluster), stream);
                let cancelled = cluster.shutdown.clone();
                cluster.running.spawn(async move {
                    if let Some(Err(error)) = cancelled.run_until_cancelled(conversation).await {
                        tracing::debug!(%error, "a ctl conversation broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(cluster: Arc<Cluster>, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let outcome = match serde_json::from_str::<Control>(&line) {
        Ok(control) => match cluster.control(control).await {
            Ok(reply) => Outcome::Ok(reply),
            Err(error) => Outcome::Error(error.to_string()),
        },
        Err(error) => Outcome::Error(format!("not a control: {error}")),
    };
    writer.write_all(&serde_json::to_vec(&outcome)?).await?;
    writer.shutdown().await
}
