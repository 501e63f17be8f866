//! `/nodes/{node}/qemu/{vmid}/status/...`: power actions. What can be refused at once is refused here;
//! everything else, config locks included, is the worker's to find out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Call;
use super::method::{Handler, Method, Verb};
use super::schema::{Kind, NODE, Parameter, VMID};
use crate::http::{ApiError, Data};
use crate::task::{Worker, ha, not_on_node, qm, qm_shutdown};
use crate::vm::{Lock, QmpStatus};

const SKIPLOCK: Parameter = Parameter::optional("skiplock", Kind::Boolean);
const TIMEOUT: Parameter = Parameter::optional("timeout", Kind::Integer(0, i64::MAX));
const KEEP_ACTIVE: Parameter = Parameter::optional("keepActive", Kind::Boolean);

pub(super) const METHODS: &[Method] = &[
    action("/nodes/{node}/qemu/{vmid}/status/reset", |call| {
        Box::pin(async move { reset(&call) })
    })
    .takes(&[NODE, VMID, SKIPLOCK]),
    action("/nodes/{node}/qemu/{vmid}/status/start", |call| {
        Box::pin(async move { start(&call) })
    })
    .takes(&[NODE, VMID, SKIPLOCK, TIMEOUT]),
    action("/nodes/{node}/qemu/{vmid}/status/stop", |call| Box::pin(async move { stop(&call) })).takes(&[
        NODE,
        VMID,
        SKIPLOCK,
        TIMEOUT,
        KEEP_ACTIVE,
        Parameter::optional("overrule-shutdown", Kind::Boolean),
    ]),
    action("/nodes/{node}/qemu/{vmid}/status/shutdown", |call| {
        Box::pin(async move { shutdown(&call) })
    })
    .takes(&[
        NODE,
        VMID,
        SKIPLOCK,
        TIMEOUT,
        KEEP_ACTIVE,
        Parameter::optional("forceStop", Kind::Boolean),
    ]),
    action("/nodes/{node}/qemu/{vmid}/status/reboot", |call| {
        Box::pin(async move { reboot(&call) })
    })
    .takes(&[NODE, VMID, TIMEOUT]),
    action("/nodes/{node}/qemu/{vmid}/status/suspend", |call| {
        Box::pin(async move { suspend(&call) })
    })
    .takes(&[
        NODE,
        VMID,
        SKIPLOCK,
        Parameter::optional("todisk", Kind::Boolean),
        Parameter::optional("statestorage", Kind::Text),
    ]),
    action("/nodes/{node}/qemu/{vmid}/status/resume", |call| {
        Box::pin(async move { resume(&call) })
    })
    .takes(&[NODE, VMID, SKIPLOCK, Parameter::optional("nocheck", Kind::Boolean)]),
];

const fn action(path: &'static str, handler: Handler) -> Method {
    Method::new(Verb::Post, path, handler)
        .needs("/vms/{vmid}", &["VM.PowerMgmt"])
        .proxied()
}

/// The VM as the checks before a worker see it.
struct Before {
    running: bool,
    status: Option<QmpStatus>,
    lock: Option<Lock>,
    ha: bool,
}

fn reset(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock"])?;
    call.before()?.must_run(call)?;
    Ok(call.fork("qmreset", qm::reset))
}

fn start(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock"])?;
    if !call.cluster.state().is_quorate() {
        return Err(ApiError::died("cluster not ready - no quorum?"));
    }
    if call.is_ha_managed() {
        return Ok(call.fork("hastart", |worker| ha::request(worker, ha::Request::Start)));
    }
    // That the VM is on another node comes out in the task, for start, stop and shutdown.
    Ok(call.fork("qmstart", qm::start))
}

fn stop(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock", "keepActive"])?;
    let overrule = call.flag("overrule-shutdown");
    if call.is_ha_managed() {
        if overrule {
            return Err(ApiError::parameter("overrule-shutdown", "Not applicable for HA resources."));
        }
        return Ok(call.fork("hastop", |worker| ha::request(worker, ha::Request::Stop)));
    }
    Ok(call.fork("qmstop", move |worker| qm::stop(worker, overrule)))
}

fn shutdown(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock", "keepActive"])?;
    let paused = call.before().is_ok_and(|before| before.is_paused());
    let force = call.flag("forceStop");
    if paused && !force {
        return Err(ApiError::died("VM is paused - cannot shutdown"));
    }
    if call.is_ha_managed() {
        return Ok(call.fork("hastop", |worker| ha::request(worker, ha::Request::Stop)));
    }
    if paused {
        return Ok(call.fork("qmshutdown", |worker| qm::stop(worker, false)));
    }
    let timeout = call.timeout();
    Ok(call.fork("qmshutdown", move |worker| qm_shutdown::shutdown(worker, timeout, force)))
}

fn reboot(call: &Call) -> Result<Data, ApiError> {
    let before = call.before()?;
    if before.is_paused() {
        return Err(ApiError::died("VM is paused - cannot shutdown"));
    }
    before.must_run(call)?;
    let timeout = call.timeout();
    Ok(call.fork("qmreboot", move |worker| qm_shutdown::reboot(worker, timeout)))
}

fn suspend(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock"])?;
    let to_disk = call.flag("todisk");
    if call.text("statestorage").is_some() && !to_disk {
        return Err(ApiError::parameter(
            "statestorage",
            "missing property - 'todisk' requires this property",
        ));
    }
    let before = call.before()?;
    before.must_run(call)?;
    if !to_disk {
        return Ok(call.fork("qmpause", |worker| qm::suspend(worker, false)));
    }
    if before.ha {
        return Err(ApiError::died("Cannot suspend HA managed VM to disk"));
    }
    call.require(&format!("/vms/{}", call.vmid()), &["VM.Config.Disk"])?;
    Ok(call.fork("qmsuspend", |worker| qm::suspend(worker, true)))
}

fn resume(call: &Call) -> Result<Data, ApiError> {
    call.root_only(&["skiplock", "nocheck"])?;
    let before = call.before()?;
    if before.lock != Some(Lock::Suspended) {
        before.must_run(call)?;
    }
    Ok(call.fork("qmresume", qm::resume))
}

impl Before {
    fn must_run(&self, call: &Call) -> Result<(), ApiError> {
        if self.running {
            Ok(())
        } else {
            Err(ApiError::died(format!("VM {} not running", call.vmid())))
        }
    }

    fn is_paused(&self) -> bool {
        matches!(self.status, Some(QmpStatus::Paused | QmpStatus::Prelaunch | QmpStatus::Suspended))
    }
}

impl Call {
    /// Refuses options that only `root@pam` may use. A token never is, not even one of root's.
    fn root_only(&self, names: &[&str]) -> Result<(), ApiError> {
        match names.iter().find(|name| self.flag(name)) {
            Some(name) => Err(ApiError::parameter(name, "Only root may use this option.")),
            None => Ok(()),
        }
    }

    fn is_ha_managed(&self) -> bool {
        self.cluster
            .state()
            .vms
            .get(&self.vmid())
            .is_some_and(|vm| vm.ha_managed().is_some())
    }

    /// Looks at the VM, which must be on this node.
    fn before(&self) -> Result<Before, ApiError> {
        let (vmid, node) = (self.vmid(), &self.node);
        let state = self.cluster.state();
        let Some(vm) = state.vm_on(vmid, node) else {
            return Err(ApiError::died(not_on_node(node, vmid)));
        };
        // A monitor that hangs says nothing about pauses.
        let status = vm.qemu.as_ref().filter(|_| !vm.monitor_hung).map(|qemu| qemu.status);
        Ok(Before {
            running: vm.is_running(),
            status,
            lock: vm.lock,
            ha: vm.ha_managed().is_some(),
        })
    }

    fn timeout(&self) -> Duration {
        let given = self.number("timeout").and_then(|seconds| u64::try_from(seconds).ok());
        given.map_or(self.cluster.config.timing.shutdown, Duration::from_secs)
    }

    /// Forks a worker; the answer is its UPID.
    fn fork<F>(&self, kind: &str, work: impl FnOnce(Worker) -> F + Send + 'static) -> Data
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let upid = Worker::fork(&self.cluster, &self.node, kind, self.vmid(), self.identity.id(), work).to_string();
        if let Some(sequence) = self.audited {
            Arc::clone(&self.cluster)
                .audit()
                .note(sequence, |request| request.upid = Some(upid.clone()));
        }
        Value::String(upid).into()
    }
}
