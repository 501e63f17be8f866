//! Control planes that go on after the command that started them: named, and written down in the cache folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::cache::lock;
use crate::control_plane::{ControlPlane, Options};
use crate::error::Tried;
use crate::files::write_private;
use crate::identity::ProcessId;
use crate::pki::Pki;
use crate::probe::Probe;
use crate::{Error, cache_folder};

/// Starting takes seconds; whoever holds the lock for longer than every deadline of a start together hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(10 * 60);
const TERM_PATIENCE: Duration = Duration::from_secs(5);
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const STATE_FILE: &str = "state.json";

/// A named control plane, as it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// `https://127.0.0.1:<port>`.
    pub server_url: String,
    /// The kubeconfig file of an administrator. The folder it lies in holds data, certificates and logs.
    pub kubeconfig: PathBuf,
    /// The version of kube-apiserver.
    pub version: String,
    /// The processes by name.
    pub processes: Vec<(String, ProcessId)>,
}

/// What of an instance runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Every process runs and the API server is ready.
    Ready,
    /// Every process runs, but the API server does not say that it is ready: its answer.
    NotReady(String),
    /// Some processes have ended: their names.
    Degraded(Vec<String>),
    /// No process runs, as after a restart of the machine. Its data is still there.
    Stopped,
}

/// The named control planes of one folder.
#[derive(Clone, Debug)]
pub struct Instances {
    folder: PathBuf,
}

impl Instances {
    /// Those of this user: in [`cache_folder`]`/control-planes`.
    ///
    /// # Errors
    /// [`Error::NoCacheFolder`].
    pub fn of_user() -> Result<Self, Error> {
        Ok(Self {
            folder: cache_folder()?.join("control-planes"),
        })
    }

    /// Those in some other folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Starts one that outlives this process, or finds that it runs already (`false`). One that was stopped without
    /// [`down`](Self::down) goes on with its data, at a new address. `options.folder` is not used.
    ///
    /// # Errors
    /// As [`ControlPlane::start`], and when the name is not usable or the state cannot be read or written.
    pub fn up(&self, name: &str, options: Options) -> Result<(Instance, bool), Error> {
        let _lock = self.lock(name)?;
        let folder = self.folder.join(name);
        if let Some(instance) = self.read(name)? {
            match instance.health() {
                Health::Ready => return Ok((instance, false)),
                Health::Stopped => {}
                Health::NotReady(_) | Health::Degraded(_) => instance.end_processes()?,
            }
        }
        let plane = ControlPlane::start(Options {
            folder: Some(folder.clone()),
            ..options
        })?;
        let mut instance = Instance {
            name: name.to_owned(),
            server_url: plane.server_url(),
            kubeconfig: plane.kubeconfig().to_path_buf(),
            version: plane.tools().kube_apiserver.version.to_string(),
            processes: Vec::new(),
        };
        plane.release(|processes| {
            instance.processes = processes;
            write_state(&folder.join(STATE_FILE), &instance)
        })?;
        Ok((instance, true))
    }

    /// Ends one and deletes its data.
    ///
    /// # Errors
    /// [`Error::NoSuchInstance`], or when a process does not end or a file cannot be deleted.
    pub fn down(&self, name: &str) -> Result<(), Error> {
        let _lock = self.lock(name)?;
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            return Err(Error::NoSuchInstance(name.to_owned()));
        }
        // Without a state file it is what an interrupted start left behind: its processes ended with it.
        if let Some(instance) = self.read(name)? {
            instance.end_processes()?;
        }
        fs::remove_dir_all(&folder).tried("delete", &folder)
    }

    /// The names of all instances, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.tried("read", &self.folder)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.tried("read", &self.folder)?;
            if let Some(name) = entry
                .file_name()
                .to_str()
                .filter(|name| check_name(name).is_ok() && entry.path().is_dir())
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The instance of that name, if it was ever started.
    ///
    /// # Errors
    /// When the name is not usable or its state cannot be understood.
    pub fn get(&self, name: &str) -> Result<Option<Instance>, Error> {
        check_name(name)?;
        self.read(name)
    }

    fn read(&self, name: &str) -> Result<Option<Instance>, Error> {
        let path = self.folder.join(name).join(STATE_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.tried("read", &path)?,
        };
        serde_json::from_str(&text).map(Some).map_err(|error| Error::State {
            path,
            reason: error.to_string(),
        })
    }

    fn lock(&self, name: &str) -> Result<fs::File, Error> {
        check_name(name)?;
        lock(&self.folder.join(format!("{name}.lock")), LOCK_PATIENCE, || {})
    }
}

impl Instance {
    /// What of it runs now. Takes up to some seconds when the API server does not answer.
    pub fn health(&self) -> Health {
        let ended: Vec<String> = self
            .processes
            .iter()
            .filter(|(_, id)| !id.is_running())
            .map(|(name, _)| name.clone())
            .collect();
        if ended.len() == self.processes.len() {
            return Health::Stopped;
        }
        if !ended.is_empty() {
            return Health::Degraded(ended);
        }
        match self
            .probe()
            .map_err(|error| error.to_string())
            .and_then(|probe| probe.get("/readyz"))
        {
            Ok(()) => Health::Ready,
            Err(answer) => Health::NotReady(answer),
        }
    }

    fn folder(&self) -> &Path {
        self.kubeconfig.parent().unwrap_or(&self.kubeconfig)
    }

    fn probe(&self) -> Result<Probe, Error> {
        let not_understood = || Error::State {
            path: self.folder().join(STATE_FILE),
            reason: format!("no port in {:?}", self.server_url),
        };
        let port = self
            .server_url
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .ok_or_else(not_understood)?;
        let pki = Pki::read(self.folder())?;
        Probe::new(port, &pki.ca_pem, &pki.admin)
    }

    /// SIGTERM to those that are still the processes that were started, and SIGKILL to what is left. etcd last: the others write to it.
    fn end_processes(&self) -> Result<(), Error> {
        let (etcd, clients): (Vec<_>, Vec<_>) = self.processes.iter().partition(|(name, _)| name == "etcd");
        for stage in [clients, etcd] {
            for (signal, patience) in [(Signal::TERM, TERM_PATIENCE), (Signal::KILL, KILL_PATIENCE)] {
                for (_, id) in stage.iter().filter(|(_, id)| id.is_running()) {
                    if let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) {
                        // Failing means that it ended just now, which the loop below sees.
                        let _ = rustix::process::kill_process(pid, signal);
                    }
                }
                let deadline = Instant::now() + patience;
                while stage.iter().any(|(_, id)| id.is_running()) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            if let Some((process, id)) = stage.iter().find(|(_, id)| id.is_running()) {
                return Err(Error::StillRunning {
                    process: process.clone(),
                    pid: id.pid,
                    waited: KILL_PATIENCE,
                });
            }
        }
        Ok(())
    }
}

fn write_state(path: &Path, instance: &Instance) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(instance)
        .map_err(std::io::Error::from)
        .tried("write", path)?;
    write_private(path, &text)
}

fn check_name(name: &str) -> Result<(), Error> {
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(usable) {
        Ok(())
    } else {
        Err(Error::InstanceName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn instance(folder: &Path, processes: Vec<(String, ProcessId)>) -> Instance {
        Instance {
            name: "x".to_owned(),
            server_url: "https://127.0.0.1:1".to_owned(),
            kubeconfig: folder.join("x/kubeconfig"),
            version: "v1.37.2".to_owned(),
            processes,
        }
    }

    #[test]
    fn names_are_folder_names() {
        for good in ["default", "a", "e2e-2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "..", "a/b", "A", "-a", "1a", "a b", "a.lock", &"a".repeat(41)] {
            assert!(matches!(check_name(bad), Err(Error::InstanceName(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let instances = Instances::in_folder(folder.path());
        // Ends with its stdin, also when this test fails.
        let mut stranger = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let now = ProcessId::of(stranger.id()).unwrap();
        let before = ProcessId {
            started: "before the restart".to_owned(),
            ..now.clone()
        };
        fs::create_dir_all(folder.path().join("x")).unwrap();
        write_state(
            &folder.path().join("x").join(STATE_FILE),
            &instance(folder.path(), vec![("etcd".to_owned(), before)]),
        )
        .unwrap();

        let read = instances.get("x").unwrap().unwrap();
        assert_eq!(read.health(), Health::Stopped);
        instances.down("x").unwrap();
        assert!(now.is_running(), "a process that is not ours was killed");
        assert_eq!(instances.names().unwrap(), Vec::<String>::new());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn down_kills_what_ignores_sigterm() {
        let folder = tempfile::tempdir().unwrap();
        let mut deaf = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has said that it is deaf before it is spoken to.
        std::io::Read::read_exact(deaf.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let id = ProcessId::of(deaf.id()).unwrap();
        instance(folder.path(), vec![("kube-apiserver".to_owned(), id.clone())])
            .end_processes()
            .unwrap();
        assert!(!id.is_running());
        deaf.wait().unwrap();
    }

    #[test]
    fn a_broken_state_file_is_an_error_and_nothing_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x").join(STATE_FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "{").unwrap();
        let instances = Instances::in_folder(folder.path());
        assert!(matches!(instances.down("x"), Err(Error::State { .. })));
        assert!(file.exists());
        assert!(matches!(instances.down("y"), Err(Error::NoSuchInstance(_))));
    }
}
