//! A local Kubernetes control plane for development and tests: etcd, kube-apiserver, kube-controller-manager, kubectl.
//!
//! It is the real thing without nodes: CRDs with their CEL rules, RBAC, admission policies, server-side apply, watches,
//! owner-reference garbage collection, `kubectl create token`. Pods are stored but never run.
//!
//! ```no_run
//! use control_plane::{ControlPlane, Options};
//!
//! let mut plane = ControlPlane::start(Options::default())?;
//! plane.kubectl().args(["get", "namespaces"]).status()?;
//! plane.stop_apiserver()?; // an outage
//! plane.start_apiserver()?; // same port, same data
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything here blocks, on purpose: the users are a command line and tests, and a test on tokio may call it as it is (or in
//! `spawn_blocking`, if other tasks of the test have to go on meanwhile).
//!
//! # Where the tools come from
//!
//! [`tools::find`] looks in the folder `KUBEBUILDER_ASSETS`, then on `PATH`, then in the cache outside the checkout;
//! [`tools::ensure`] also builds with Go what is missing, from the `go.mod` files beside this crate. Which of several is taken is
//! decided per tool and by version: see [`tools`]. [`ControlPlane::start`] never builds: a test that silently compiles Kubernetes
//! for ten minutes looks like one that hangs. It fails with the command to run instead.
//!
//! # Nothing is left running
//!
//! Each process is the leader of a process group of its own. The first member of that group besides it is a shell that does
//! nothing but read from a pipe whose other end the owner holds. However the owner ends (return, panic, Ctrl-C, SIGKILL, the OOM
//! killer), the kernel closes that end, the shell reads the end of the file, and kills the group. The same way a second such
//! shell deletes the data folder, if it is a temporary one.
//!
//! Linux has a signal for this (`PR_SET_PDEATHSIG`, `setpriv --pdeathsig`), but it comes when the *thread* ends that started the
//! process, not when the owner does: a control plane that is shared by several tests, each run by a thread of its own, would be
//! killed after the first. It also cannot be taken back, as [`Instances::up`] needs to, and exists on Linux only.
//!
//! # What may be surprising
//!
//! - The garbage collector looks for new CRDs every 30 s. Until it has seen a CRD, deleting an owner of that kind does not delete
//!   what it owns.
//! - There is no scheduler and no kubelet: a Deployment gets no pods, `helm install --wait` of one never returns.
//! - etcd does not call fsync: a crash of the machine (not of a process) may lose the data.

mod cache;
mod command;
mod components;
mod control_plane;
mod error;
mod files;
mod folder;
mod identity;
mod instances;
mod kubeconfig;
mod pki;
mod port;
mod probe;
mod process;
pub mod tools;

pub use cache::cache_folder;
pub use control_plane::{ControlPlane, Options};
pub use error::Error;
pub use identity::ProcessId;
pub use instances::{Health, Instance, Instances};
pub use process::{Process, leashed};
