//! ProxmoxCluster: reads each cluster every few seconds, tells its VMs what changed, and says in its status what is wrong.

use super::cache::{Guarded, Key, key_of};
use super::context::{ClusterView, Context, VmRow};
use super::kube_api::{DECIDER, call, status_patch};
use super::proxmox::{Client, Proxmox};
use super::{Error, again, managed_vm};
use defib_api::{ProxmoxCluster, ProxmoxClusterStatus, ProxmoxNode, Verify};
use defib_core::conditions::{Draft, Is, kind, merge};
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::time::Mono;
use defib_proxmox::{ApiToken, Config, Endpoint, Fingerprint, Permissions, RunState, Trust, VmCounters, VmResource};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often version, quorum and privileges are asked for, and Secrets read again: they change by a person's hand.
const SLOW: Duration = Duration::from_secs(60);

/// The client of each cluster, with a hash of what it was made of, and when Secrets were last read.
#[derive(Default)]
pub struct Clients {
    inner: Mutex<HashMap<Key, Known>>,
}

#[derive(Clone)]
struct Known {
    made_of: [u8; 32],
    client: Client,
    slow: Slow,
    at: Mono,
}

/// What is asked for once a minute.
#[derive(Clone, Debug, Default)]
struct Slow {
    version: Option<String>,
    quorate: Option<bool>,
    missing_privileges: Vec<String>,
}

/// Reads one cluster.
///
/// # Errors
/// When its status could not be written. What is wrong with the cluster itself is said in its conditions.
pub async fn reconcile(object: Arc<Guarded<ProxmoxCluster>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let cluster = match &object.0 {
        Ok(cluster) => cluster,
        Err(invalid) => return Err(Error::Malformed(invalid.error.clone())),
    };
    if !ctx.witness.holds_lease() {
        return Ok(again(Duration::from_secs(2)));
    }
    let key = key_of(cluster);
    let old = ctx.cluster_view(&key).unwrap_or_default();
    let read = read(&ctx, cluster, &key, &old).await;
    let (view, nodes, slow) = match read {
        Ok((client, vms, nodes, slow)) => (
            ClusterView {
                client: Some(client),
                vms,
                read: true,
                error: None,
            },
            Some(nodes),
            slow,
        ),
        Err((error, client)) => {
            let failed = ClusterView {
                client: client.or_else(|| old.client.clone()),
                error: Some((error.reason(), error.to_string())),
                ..(*old).clone()
            };
            (failed, None, Slow::default())
        }
    };
    let changed = changed_vms(&old, &view);
    let first_error = old.error.is_none() != view.error.is_none() || !old.read;
    let error = view.error.clone();
    ctx.proxmox
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key.clone(), Arc::new(view));
    ctx.wake_vms(|vm| managed_vm::cluster_of(vm) == key && (first_error || changed.contains(&vm.spec.proxmox.vmid)));
    let reached = error.is_none();
    write_status(&ctx, cluster, &key, error, nodes, slow).await?;
    if reached {
        managed_vm::learn_guest_agents(&ctx, &key).await;
    }
    Ok(again(ctx.poll))
}

/// VMs whose row came, went, or is on another node or in another state. What a guest moves is no news.
fn changed_vms(old: &ClusterView, new: &ClusterView) -> HashSet<u32> {
    let differs = |a: &ClusterView, b: &ClusterView| -> Vec<u32> {
        a.vms
            .iter()
            .filter(|(id, row)| {
                b.vms
                    .get(id)
                    .is_none_or(|other| (&other.node, &other.status) != (&row.node, &row.status))
            })
            .map(|(id, _)| *id)
            .collect()
    };
    differs(new, old).into_iter().chain(differs(old, new)).collect()
}

type Rows = HashMap<u32, VmRow>;

/// A row of the list of all VMs. Of one whose node publishes nothing, the counters are not told.
fn row(vm: &VmResource, old: &ClusterView, texts: &mut HashSet<Arc<str>>, now: Mono) -> (u32, VmRow) {
    let known = old.vms.get(&vm.vmid).and_then(|row| row.io);
    let told = (vm.status != RunState::Unknown).then(|| counters(&vm.counters));
    let io = match (known, told) {
        (Some(known), Some(told)) => Some(known.read(told, now)),
        (known, told) => known.or_else(|| told.map(|told| GuestIo::new(told, now))),
    };
    let mut shared = |text: &str| {
        let known = texts.get(text).cloned();
        known.unwrap_or_else(|| {
            let new: Arc<str> = text.into();
            texts.insert(new.clone());
            new
        })
    };
    let row = VmRow {
        node: shared(&vm.node),
        status: shared(vm.status.as_str()),
        io,
    };
    (vm.vmid, row)
}

/// Of what Proxmox counts, that which the guest itself causes.
pub fn counters(all: &VmCounters) -> Counters {
    Counters {
        net_out: all.net_out,
        disk_read: all.disk_read,
        disk_write: all.disk_write,
    }
}

async fn read(
    ctx: &Context,
    cluster: &ProxmoxCluster,
    key: &Key,
    old: &ClusterView,
) -> Result<(Client, Rows, Vec<ProxmoxNode>, Slow), (Error, Option<Client>)> {
    let (client, slow) = client(ctx, cluster, key).await.map_err(|e| (e, None))?;
    let proxmox = |step| {
        let client = client.clone();
        move |source| {
            (
                Error::Proxmox {
                    step,
                    source: Box::new(source),
                },
                Some(client),
            )
        }
    };
    let vms = client.resources().await.map_err(proxmox("list the VMs"))?;
    let mut nodes = client.nodes().await.map_err(proxmox("list the nodes"))?;
    let now = ctx.clock.now().mono;
    let mut texts = HashSet::new();
    let rows = vms.iter().map(|vm| row(vm, old, &mut texts, now)).collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let nodes = nodes
        .into_iter()
        .take(64)
        .map(|n| ProxmoxNode {
            name: n.node,
            status: n.status.to_string(),
        })
        .collect();
    Ok((client, rows, nodes, slow))
}

/// The client of a cluster: made anew when its spec or its Secrets changed, so that a rotated token needs no restart.
async fn client(ctx: &Context, cluster: &ProxmoxCluster, key: &Key) -> Result<(Client, Slow), Error> {
    let now = ctx.clock.now().mono;
    let known = ctx
        .proxmox_clients
        .inner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(key)
        .cloned();
    let spec_hash = Sha256::digest(serde_json::to_vec(&cluster.spec).unwrap_or_default());
    let failing = ctx.cluster_view(key).is_none_or(|v| v.error.is_some());
    if let Some(known) = &known
        && now.since(known.at) < SLOW
        && !failing
        && known.made_of.starts_with(&spec_hash[..16])
    {
        return Ok((known.client.clone(), known.slow.clone()));
    }
    let (config, secrets) = config(ctx, cluster).await?;
    // The first half tells the spec, the second the Secrets.
    let mut made_of = [0u8; 32];
    let secrets = Sha256::digest(secrets);
    for (to, from) in made_of.iter_mut().zip(spec_hash.iter().take(16).chain(secrets.iter().take(16))) {
        *to = *from;
    }
    let client = match known {
        Some(known) if known.made_of == made_of => known.client,
        _ => (ctx.connect)(config).map_err(|e| Error::ClusterSpec(e.to_string()))?,
    };
    let slow = slow(&*client).await?;
    let known = Known {
        made_of,
        client: client.clone(),
        slow: slow.clone(),
        at: now,
    };
    ctx.proxmox_clients
        .inner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key.clone(), known);
    Ok((client, slow))
}

async fn slow(client: &dyn Proxmox) -> Result<Slow, Error> {
    let failed = |step| {
        move |source| Error::Proxmox {
            step,
            source: Box::new(source),
        }
    };
    let version = client.version().await.map_err(failed("read the version"))?;
    let permissions = client.permissions().await.map_err(failed("read the token's permissions"))?;
    let quorate = match client.cluster_status().await {
        Ok(status) => Some(status.quorate),
        // Without Sys.Audit on / nobody tells us; that privilege is optional.
        Err(defib_proxmox::Error::Forbidden { .. }) => None,
        Err(error) => return Err(failed("read the cluster's status")(error)),
    };
    Ok(Slow {
        version: Some(version.version),
        quorate,
        missing_privileges: missing(&permissions),
    })
}

/// Privileges that the token has nowhere. Which VMs it may act on is Proxmox's business, and shows when it does.
fn missing(permissions: &Permissions) -> Vec<String> {
    ["VM.Audit", "VM.PowerMgmt"]
        .into_iter()
        .filter(|privilege| !permissions.iter().any(|(_, mut held)| held.any(|p| p == *privilege)))
        .map(|privilege| format!("{privilege} on /vms or on the pool of the VMs"))
        .collect()
}

async fn config(ctx: &Context, cluster: &ProxmoxCluster) -> Result<(Config, Vec<u8>), Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let spec = &cluster.spec;
    let wrong = Error::ClusterSpec;
    let token = secret(ctx, &namespace, &spec.token_secret_ref.name).await?;
    let (id, value) = (field(&token, "tokenID")?, field(&token, "secret")?);
    let mut secrets = format!("{id}\0{value}\0").into_bytes();
    let token = ApiToken::new(&id, &value).map_err(|e| wrong(format!("Secret {:?}: {e}", spec.token_secret_ref.name)))?;
    let trust = if let Some(ca) = &spec.tls.ca_secret_ref {
        let ca = secret(ctx, &namespace, &ca.name).await?;
        let pem = field(&ca, "ca.crt")?.into_bytes();
        secrets.extend_from_slice(&pem);
        Trust::Ca(pem)
    } else if let Some(list) = &spec.tls.fingerprints {
        let parsed: Result<Vec<Fingerprint>, _> = list.iter().map(|f| f.parse()).collect();
        Trust::Fingerprints(parsed.map_err(|e| wrong(format!("spec.tls.fingerprints: {e}")))?)
    } else {
        match spec.tls.verify {
            Some(Verify::System) => Trust::System,
            Some(Verify::None) => Trust::None,
            None => return Err(wrong("spec.tls is empty; set one of caSecretRef, fingerprints and verify".into())),
        }
    };
    let endpoints: Result<Vec<Endpoint>, _> = spec.endpoints.iter().map(|e| e.parse()).collect();
    let endpoints = endpoints.map_err(|e| wrong(format!("spec.endpoints: {e}")))?;
    let mut config = Config::new(endpoints, token, trust);
    if let Some(most) = spec.max_requests_per_node {
        config.max_requests_per_node = usize::try_from(most).unwrap_or(config.max_requests_per_node);
    }
    Ok((config, secrets))
}

async fn secret(ctx: &Context, namespace: &str, name: &str) -> Result<Secret, Error> {
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    match call("read a Secret of the ProxmoxCluster", secrets.get(name)).await {
        Err(Error::Gone { .. }) => Err(Error::ClusterSpec(format!("Secret {name:?} does not exist in this namespace"))),
        Err(Error::Kubernetes { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 403) => {
            Err(Error::ClusterSpec(format!(
                "Defib may not read Secret {name:?}; name it in the chart's values, proxmoxClusters[].tokenSecretRef or .tls.caSecretRef"
            )))
        }
        done => done,
    }
}

fn field(secret: &Secret, field: &str) -> Result<String, Error> {
    let name = secret.name_any();
    let data = secret.data.as_ref().and_then(|d| d.get(field));
    let data = data.ok_or_else(|| Error::ClusterSpec(format!("Secret {name:?} has no key {field:?}")))?;
    let text = std::str::from_utf8(&data.0).map_err(|_| Error::ClusterSpec(format!("key {field:?} of Secret {name:?} is not text")))?;
    Ok(text.trim().to_owned())
}

async fn write_status(
    ctx: &Context,
    cluster: &ProxmoxCluster,
    key: &Key,
    error: Option<(&'static str, String)>,
    nodes: Option<Vec<ProxmoxNode>>,
    slow: Slow,
) -> Result<(), Error> {
    let old = cluster.status.clone().unwrap_or_default();
    let now = ctx.clock.now().wall;
    let ready = match &error {
        None if slow.missing_privileges.is_empty() => Draft::new(kind::READY, Is::True, "Connected", "the Proxmox API answers"),
        None => Draft::new(
            kind::READY,
            Is::False,
            "MissingPrivileges",
            format!("the token lacks {}", slow.missing_privileges.join(", ")),
        ),
        Some((reason, message)) => Draft::new(kind::READY, Is::False, reason, message.clone()),
    };
    let certificate = match cluster.spec.tls.verify {
        Some(Verify::None) => Draft::new(
            kind::CERTIFICATE_VERIFIED,
            Is::False,
            "NotVerified",
            "spec.tls.verify is None: whoever stands between can read the token and reset VMs",
        ),
        _ => Draft::new(kind::CERTIFICATE_VERIFIED, Is::True, "Verified", "certificates are checked"),
    };
    let became = ready.reason;
    let message = ready.message.clone();
    let status = ProxmoxClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: merge(&old.conditions, &[ready, certificate], cluster.metadata.generation, now),
        ..match nodes {
            Some(nodes) => ProxmoxClusterStatus {
                version: slow.version,
                quorate: slow.quorate,
                node_count: u32::try_from(nodes.len()).ok(),
                nodes,
                missing_privileges: slow.missing_privileges,
                ..ProxmoxClusterStatus::default()
            },
            None => old.clone(),
        }
    };
    if status == old {
        return Ok(());
    }
    let clusters: Api<ProxmoxCluster> = Api::namespaced(ctx.client.clone(), &key.0);
    let body = status_patch(&old, &status);
    call(
        "write the ProxmoxCluster's status",
        clusters.patch_status(&key.1, &PatchParams::apply(DECIDER), &Patch::Merge(body)),
    )
    .await?;
    let before = defib_core::conditions::find(&old.conditions, kind::READY).map(|c| c.reason.clone());
    if before.as_deref() != Some(became) {
        let kind = if error.is_some() {
            kube::runtime::events::EventType::Warning
        } else {
            kube::runtime::events::EventType::Normal
        };
        ctx.events.publish(cluster, kind, became, &message).await;
    }
    Ok(())
}

/// A cluster was deleted: its token and its connections are not kept.
pub fn forget(ctx: &Context, key: &Key) {
    ctx.proxmox.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    ctx.proxmox_clients.inner.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    ctx.metrics.forget_cluster(&key.0, &key.1);
}

/// What follows a failure.
pub fn error_policy(object: Arc<Guarded<ProxmoxCluster>>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconcile_failed("ProxmoxCluster", error.reason());
    tracing::warn!(cluster = object.name_any(), %error, "reconcile failed");
    match error {
        Error::Malformed(_) | Error::Gone { .. } => Action::await_change(),
        _ => again(ctx.poll),
    }
}
