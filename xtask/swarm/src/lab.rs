//! A fleet of any size in a lab: its VMs, its ManagedVMs, its agents' keys.

use crate::{AgentSpec, Connections};
use anyhow::{Context, Result};
use defib::heartbeat::keys;
use defib_api::ManagedVM;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use uuid::Uuid;
use xtask::lab::{FleetVm, Lab, NAMESPACE, SYSTEM, manifest};

/// The first VMID of a fleet.
const FIRST: u32 = 1_000;

/// Requests to the API server at the same time. It answers some thousand a second; more than this only wait in its queues.
const PARALLEL: usize = 16;

/// So many VMs without a process of their own: `vm-00000` and so on, spread over three nodes. Each has an SMBIOS UUID that [`machine`] tells.
pub fn fleet(count: u32) -> Vec<FleetVm> {
    (0..count)
        .map(|index| {
            let vmid = FIRST + index;
            let node = format!("pve{}", index % 3 + 1);
            FleetVm {
                agent: false,
                // The agents of the swarm run beside these guests: one that falls silent stands for a hang, so its guest moves nothing.
                guest: json!({ "smbiosUuid": machine(vmid), "io": { "netOut": 0.0, "diskRead": 0.0, "diskWrite": 0.0 } }),
                ..FleetVm::new(vmid, &format!("vm-{index:05}"), &node)
            }
        })
        .collect()
}

/// The SMBIOS UUID of a VM of [`fleet`].
pub fn machine(vmid: u32) -> Uuid {
    // Version 4 in form, so that nobody takes it for one that means "not set".
    Uuid::from_u128(0xdef1_b000_0000_4000_8000_0000_0000_0000 | u128::from(vmid))
}

/// A client of the lab's API server, as its administrator.
///
/// # Errors
/// When its kubeconfig cannot be used.
pub async fn client(lab: &Lab) -> Result<Client> {
    // The same provider as in the controller. An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(lab.control_plane.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Creates the ManagedVMs of a fleet, many at a time: kubectl would take minutes for thousands.
///
/// # Errors
/// When one is refused.
pub async fn create(lab: &Lab, fleet: &[FleetVm]) -> Result<()> {
    let api: Api<ManagedVM> = Api::namespaced(client(lab).await?, NAMESPACE);
    stream::iter(fleet)
        .map(|vm| {
            let api = api.clone();
            async move {
                let object: ManagedVM = serde_json::from_value(manifest(vm))?;
                api.create(&PostParams::default(), &object)
                    .await
                    .with_context(|| format!("cannot create ManagedVM {}", vm.name))?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// The agents of a fleet, with the keys that `defib key` would print. It is run once for each VM there; here the keys are derived from the one master, which
/// is made if there is none.
///
/// # Errors
/// When the Secret cannot be read.
pub async fn agents(lab: &Lab, fleet: &[FleetVm], connections: Connections) -> Result<Vec<AgentSpec>> {
    let ring = keys::load(&client(lab).await?, SYSTEM).await?;
    let agents = fleet.iter().map(|vm| AgentSpec {
        vmid: vm.vmid,
        hostname: vm.name.as_str().into(),
        key: ring.derive(NAMESPACE, vm.key_of.as_deref().unwrap_or(&vm.name), 1).into(),
        machine: Some(machine(vm.vmid)),
        supervised: vm.supervised,
        connections,
    });
    Ok(agents.collect())
}
