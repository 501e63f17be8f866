use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// What can go wrong with the tools or with a control plane, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a folder or a program could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create`, `run`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Neither `DEFIB_CACHE` nor `XDG_CACHE_HOME` nor `HOME` names a folder.
    #[error("no cache folder: set DEFIB_CACHE (or XDG_CACHE_HOME, or HOME) to a folder that may be written")]
    NoCacheFolder,
    /// Tools are not on this machine, and [`find`](crate::tools::find) does not build.
    #[error(
        "not on this machine: {}. Run `{command}` once: it builds what is missing with Go.{}{}",
        missing.join(", "),
        crate::tools::ENVTEST_HINT,
        listed(notes)
    )]
    ToolsMissing {
        /// The names of the tools.
        missing: Vec<String>,
        /// The command that builds them.
        command: &'static str,
        /// Why what was found is not used.
        notes: Vec<String>,
    },
    /// Go is needed to build the tools, and there is none.
    #[error(
        "Go {wanted} or newer is needed to build {tool}, and `go` is not on PATH. Install it from https://go.dev/dl/ \
         (or from your distribution's backports: Debian 12's own golang-go is too old).{}",
        crate::tools::ENVTEST_HINT
    )]
    GoMissing {
        /// The tool to be built.
        tool: String,
        /// The version that its go.mod asks for.
        wanted: String,
    },
    /// The Go on PATH cannot build the tools.
    #[error(
        "Go {wanted} or newer is needed to build {tool}, but `go version` answers: {found}. Install a newer one from \
         https://go.dev/dl/ (or from your distribution's backports), or unset GOTOOLCHAIN so that Go fetches it.{}",
        crate::tools::ENVTEST_HINT
    )]
    GoTooOld {
        /// The tool to be built.
        tool: String,
        /// The version that its go.mod asks for.
        wanted: String,
        /// What `go version` said.
        found: String,
    },
    /// `go build` failed.
    #[error("`go build` of {tool} failed ({outcome}); the end of its output:\n{tail}")]
    Build {
        /// The tool.
        tool: String,
        /// Its exit status, or that it took too long.
        outcome: String,
        /// The last lines of its output.
        tail: String,
    },
    /// Another process holds the lock for too long.
    #[error("{} is locked by another process for {} s: is a build of the tools, or an `up`, hanging?", path.display(), waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// For how long it was waited.
        waited: Duration,
    },
    /// A certificate or a key could not be made or read.
    #[error("cannot make the certificates of the control plane: {0}")]
    Certificate(String),
    /// A process of the control plane ended by itself.
    #[error("{process} ended ({status}) before it was ready; the end of its log:\n{tail}")]
    Exited {
        /// Its name.
        process: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        tail: String,
    },
    /// A process of the control plane did not get ready in time.
    #[error("{process} is not ready after {} s: {answer}\nThe end of its log:\n{tail}", waited.as_secs())]
    NotReady {
        /// Its name.
        process: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// Its last answer.
        answer: String,
        /// The last lines of its log.
        tail: String,
    },
    /// A process survived SIGKILL for several seconds.
    #[error("{process} (pid {pid}) is still running {} s after SIGKILL", waited.as_secs())]
    StillRunning {
        /// Its name.
        process: String,
        /// Its process id.
        pid: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The name of an instance is not usable as the name of a folder.
    #[error("{0:?} cannot name a control plane: use 1 to 40 of a-z, 0-9 and '-', beginning with a letter")]
    InstanceName(String),
    /// There is no such instance.
    #[error("there is no control plane {0:?}: `cargo xtask control-plane status` lists them")]
    NoSuchInstance(String),
    /// The state file of an instance cannot be understood.
    #[error("{} is not a state file of a control plane ({reason}): end its processes by hand and delete its folder", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn listed(notes: &[String]) -> String {
    notes.iter().map(|note| format!("\n  note: {note}")).collect()
}

/// Adds to an I/O error what was tried, and on what.
pub(crate) trait Tried<T> {
    fn tried(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source: source.into(),
        })
    }
}
