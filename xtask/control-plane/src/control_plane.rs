use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::Tried;
use crate::files::{remove_file, write_private};
use crate::folder::Folder;
use crate::identity::ProcessId;
use crate::pki::Pki;
use crate::port::ReservedPort;
use crate::probe::Probe;
use crate::process::Process;
use crate::tools::{self, Tools};
use crate::{Error, components, kubeconfig};

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// How long a process may take to end after SIGTERM; they take half a second each.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How a control plane is started. `Options::default()` fits tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// The programs to run; by default what [`tools::find`] finds.
    pub tools: Option<Tools>,
    /// The folder for data, certificates and logs. It is kept, and data in it is used again. By default a temporary folder
    /// that goes with the control plane.
    pub folder: Option<PathBuf>,
    /// A file to which the API server appends a line of JSON for each request: who, what, the status code; no bodies.
    pub audit_log: Option<PathBuf>,
    /// What it appends instead: a `Policy` of `audit.k8s.io/v1`, in JSON or YAML.
    pub audit_policy: Option<String>,
    /// More arguments for kube-apiserver, such as `--max-mutating-requests-inflight=1000`.
    pub apiserver_args: Vec<OsString>,
    /// How long each process may take to be ready. The default, 2 minutes, is some 20 times what a free machine needs.
    pub ready_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tools: None,
            folder: None,
            audit_log: None,
            audit_policy: None,
            apiserver_args: Vec::new(),
            ready_timeout: Duration::from_secs(120),
        }
    }
}

/// A running control plane: etcd, kube-apiserver and kube-controller-manager on 127.0.0.1. Dropping it ends it.
///
/// All methods block. With a temporary folder the processes are killed at the end, as nothing of them is left to be kept in order;
/// with a kept one they get SIGTERM first, and SIGKILL after a few seconds.
pub struct ControlPlane {
    // In the order of dropping: the clients of a process end before it, the folder is deleted last.
    controller_manager: Option<Process>,
    apiserver: Option<Process>,
    etcd: Option<Process>,
    folder: Folder,
    port: ReservedPort,
    probe: Probe,
    tools: Tools,
    options: Options,
    ca_pem: String,
    kubeconfig: PathBuf,
    kubeconfig_yaml: String,
}

impl ControlPlane {
    /// Starts one and waits until it is ready: the API server's `/readyz` says so, and the controllers run (the ServiceAccount
    /// `default` of the namespace `default` has been made).
    ///
    /// # Errors
    /// When a tool is missing, or a process ends or is not ready in time; the error holds the end of its log.
    pub fn start(options: Options) -> Result<Self, Error> {
        let tools = options.tools.clone().map_or_else(tools::find, Ok)?;
        let folder = options.folder.as_deref().map_or_else(Folder::temporary, Folder::kept)?;
        let pki = Pki::in_folder(folder.path())?;
        let port = ReservedPort::new()?;
        let server = format!("https://127.0.0.1:{}", port.number());
        let kubeconfig = folder.path().join("kubeconfig");
        let kubeconfig_yaml = kubeconfig::yaml("control-plane", &server, &pki.ca_pem, &pki.admin);
        write_private(&kubeconfig, &kubeconfig_yaml)?;
        let manager_yaml = kubeconfig::yaml(CONTROLLER_MANAGER, &server, &pki.ca_pem, &pki.controller_manager);
        write_private(&folder.path().join(components::CONTROLLER_MANAGER_KUBECONFIG), &manager_yaml)?;

        let mut plane = Self {
            controller_manager: None,
            apiserver: None,
            etcd: None,
            probe: Probe::new(port.number(), &pki.ca_pem, &pki.admin)?,
            folder,
            port,
            tools,
            options,
            ca_pem: pki.ca_pem,
            kubeconfig,
            kubeconfig_yaml,
        };
        plane.start_etcd()?;
        plane.start_apiserver()?;
        plane.start_controller_manager()?;
        Ok(plane)
    }

    fn start_etcd(&mut self) -> Result<(), Error> {
        // Left by a process that was killed, it would look like a started etcd.
        let socket = self.folder.path().join(components::ETCD_SOCKET);
        remove_file(&socket)?;
        let command = components::etcd(&self.tools.etcd.path, self.folder.path());
        let etcd = self
            .etcd
            .insert(Process::start(ETCD, command, &components::log_of(self.folder.path(), ETCD))?);
        etcd.wait_ready(self.options.ready_timeout, || {
            if socket.exists() {
                Ok(())
            } else {
                Err(format!("{} is not there", socket.display()))
            }
        })
    }

    /// Starts the API server again after [`stop_apiserver`](Self::stop_apiserver) or [`kill_apiserver`](Self::kill_apiserver),
    /// with the same address, certificates and data, and waits until it is ready. Nothing is done if it runs.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub fn start_apiserver(&mut self) -> Result<(), Error> {
        let folder = self.folder.path();
        if self.apiserver.is_none() {
            let audit_log = self
                .options
                .audit_log
                .as_deref()
                .map(|path| std::path::absolute(path).tried("resolve", path))
                .transpose()?;
            let command = components::kube_apiserver(
                &self.tools.kube_apiserver.path,
                folder,
                self.port.number(),
                audit_log.as_deref().map(|log| (log, self.options.audit_policy.as_deref())),
                &self.options.apiserver_args,
            )?;
            self.apiserver = Some(Process::start(API_SERVER, command, &components::log_of(folder, API_SERVER))?);
        }
        let Some(apiserver) = &mut self.apiserver else { return Ok(()) };
        apiserver.wait_ready(self.options.ready_timeout, || self.probe.get("/readyz?verbose"))
    }

    fn start_controller_manager(&mut self) -> Result<(), Error> {
        let folder = self.folder.path();
        let command = components::kube_controller_manager(&self.tools.kube_controller_manager.path, folder);
        let process = Process::start(CONTROLLER_MANAGER, command, &components::log_of(folder, CONTROLLER_MANAGER))?;
        let process = self.controller_manager.insert(process);
        let first_work = "/api/v1/namespaces/default/serviceaccounts/default";
        process.wait_ready(self.options.ready_timeout, || self.probe.get(first_work))
    }

    /// Stops the API server as an upgrade does: it ends watches and running requests in good order (SIGTERM; SIGKILL after 5 s).
    /// Its port stays taken, so that clients are refused until [`start_apiserver`](Self::start_apiserver).
    ///
    /// # Errors
    /// When it survives even SIGKILL.
    pub fn stop_apiserver(&mut self) -> Result<(), Error> {
        match self.apiserver.take() {
            Some(mut apiserver) => apiserver.stop(Instant::now() + STOP_PATIENCE),
            None => Ok(()),
        }
    }

    /// Ends the API server as a crash does (SIGKILL): connections are reset in the middle of an answer.
    ///
    /// # Errors
    /// When it survives.
    pub fn kill_apiserver(&mut self) -> Result<(), Error> {
        match self.apiserver.take() {
            Some(mut apiserver) => apiserver.kill(),
            None => Ok(()),
        }
    }

    /// Ends everything, and deletes the data if the folder is temporary. Dropping does the same, without telling of failures.
    ///
    /// # Errors
    /// When a process survives even SIGKILL.
    pub fn stop(mut self) -> Result<(), Error> {
        self.stop_all()
    }

    fn stop_all(&mut self) -> Result<(), Error> {
        if !self.folder.is_temporary() {
            let deadline = Instant::now() + STOP_PATIENCE;
            // The two clients of etcd end side by side.
            for process in [&self.controller_manager, &self.apiserver].into_iter().flatten() {
                process.terminate();
            }
            for process in [&mut self.controller_manager, &mut self.apiserver, &mut self.etcd]
                .into_iter()
                .flatten()
            {
                process.stop(deadline)?;
            }
        }
        for process in [&mut self.controller_manager, &mut self.apiserver, &mut self.etcd] {
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// The processes that run, with their ids.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let all = [
            (ETCD, &self.etcd),
            (API_SERVER, &self.apiserver),
            (CONTROLLER_MANAGER, &self.controller_manager),
        ];
        all.into_iter()
            .filter_map(|(name, process)| Some((name, process.as_ref()?.pid())))
            .collect()
    }

    /// Lets the processes outlive this one. `record` gets to know them first: what it fails to write down is ended instead.
    pub(crate) fn release(mut self, record: impl FnOnce(Vec<(String, ProcessId)>) -> Result<(), Error>) -> Result<(), Error> {
        let identify = |(name, pid): (&str, u32)| Some((name.to_owned(), ProcessId::of(pid)?));
        record(self.processes().into_iter().filter_map(identify).collect())?;
        for process in [&mut self.etcd, &mut self.apiserver, &mut self.controller_manager] {
            if let Some(process) = process.take() {
                process.release()?;
            }
        }
        Ok(())
    }

    /// The kubeconfig file of an administrator (a member of `system:masters`, by client certificate).
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The text of [`kubeconfig`](Self::kubeconfig). It contains a private key.
    pub fn kubeconfig_yaml(&self) -> &str {
        &self.kubeconfig_yaml
    }

    /// `https://127.0.0.1:<port>`; the certificate is also valid for `localhost`.
    pub fn server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number())
    }

    /// The certificate of the authority that signed the server's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The programs that run.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The folder with data, certificates and logs (`<process>.log`).
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// kubectl for this control plane, as its administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(&self.tools.kubectl.path);
        kubectl.env("KUBECONFIG", &self.kubeconfig);
        // Its cache of the API is keyed by address, and a later control plane may get the same port.
        kubectl.env("KUBECACHEDIR", self.folder.path().join("kubectl-cache"));
        // The caller's own preferences (aliases, defaults) are not to change what a test sees.
        kubectl.env("KUBERC", "off");
        kubectl
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // What could not be ended here is tried again by each process's own drop.
        let _ = self.stop_all();
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the kubeconfig's text, which contains a key.
        f.debug_struct("ControlPlane")
            .field("server_url", &self.server_url())
            .field("folder", &self.folder.path())
            .field("processes", &self.processes())
            .finish_non_exhaustive()
    }
}
