//! Observe: gathers what a decision rests on, from the caches, or live when a reset is due.

use super::super::cache::{Key, get};
use super::super::context::{ClusterView, Context, is_newer, vm_key};
use super::super::kube_api::call;
use super::super::proxmox::Proxmox;
use super::super::proxmox_cluster::counters;
use super::super::{Error, vm_reset};
use super::{fleet, record};
use crate::heartbeat::VmKey;
use defib_api::{HealthPolicy, ManagedVM, ProxmoxCluster, VMReset};
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::decide::{Inventory, Observed};
use defib_core::fleet::{Fleet, budget};
use defib_core::gate::{Closer, Look, LookFailed, holds};
use defib_core::heartbeat::Heartbeat;
use defib_core::life::Vital;
use defib_core::policy::{Effective, Found, effective};
use defib_core::storm::Weather;
use defib_core::time::{Mono, Now};
use defib_core::window::Windows;
use defib_proxmox::{ClusterHaStatus, Node, VmConfig, VmStatus};
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The policy of a VM when its spec names none.
pub const DEFAULT_POLICY: &str = "default";

/// Everything that a decision on one VM rests on.
pub struct Facts {
    pub key: VmKey,
    pub vm: ManagedVM,
    policy: Option<HealthPolicy>,
    windows: Windows,
    cluster: Option<ProxmoxCluster>,
    pub effective: Effective,
    heartbeat: Heartbeat,
    newest_received: Option<Timestamp>,
    inventory: Inventory,
    pub view: Option<Arc<ClusterView>>,
    uuid: Option<Uuid>,
    closer: Option<Closer>,
    pub manual: Option<VMReset>,
    duplicate_of: Option<String>,
    alive_as: Option<String>,
    hold_lifted: Mono,
    pub journal_unchanged: Duration,
    would_reset_recorded: bool,
    weather: Weather,
    guest_agent_answered: bool,
    off_since: Option<Mono>,
}

impl Facts {
    /// From the caches.
    pub fn cached(ctx: &Context, watched: &ManagedVM) -> Self {
        let key = vm_key(watched);
        let vm = ctx.newest(&key, watched);
        let (namespace, policy_name) = policy_of(&vm);
        let policy = get(&ctx.policies, &namespace, &policy_name);
        let cluster = get(&ctx.clusters, &namespace, &vm.spec.proxmox.cluster_ref.name);
        let manual = vm_reset::next_request(ctx, &vm);
        Self::gather(ctx, key, vm, policy, cluster, manual)
    }

    /// Live: ManagedVM, policy and cluster are read from the API server, the VM and its fleet looked at.
    pub async fn live(ctx: &Context, cached: &Self) -> Result<Self, Error> {
        let namespace = cached.key.namespace();
        let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), namespace);
        let policies: Api<HealthPolicy> = Api::namespaced(ctx.client.clone(), namespace);
        let clusters: Api<ProxmoxCluster> = Api::namespaced(ctx.client.clone(), namespace);
        let requests: Api<VMReset> = Api::namespaced(ctx.client.clone(), namespace);
        let vm = call("read the ManagedVM", vms.get(cached.key.name())).await?;
        let (_, policy_name) = policy_of(&vm);
        let request_name = cached.manual.as_ref().map(ResourceExt::name_any);
        let (policy, cluster, manual) = tokio::try_join!(
            call("read the HealthPolicy", policies.get_opt(&policy_name)),
            call("read the ProxmoxCluster", clusters.get_opt(&vm.spec.proxmox.cluster_ref.name)),
            async {
                match &request_name {
                    Some(name) => call("read the VMReset", requests.get_opt(name)).await,
                    None => Ok(None),
                }
            },
        )?;
        let manual = manual.filter(|r| vm_reset::may_run(r, ctx.clock.now().wall));
        let mut facts = Self::gather(ctx, cached.key.clone(), vm, policy, cluster, manual);
        let looked = facts.look().await;
        if let Ok((Look { uuid: Some(uuid), .. }, _)) = &looked {
            facts.saw(ctx, *uuid);
        }
        let now = ctx.clock.now().mono;
        let (look, counters) = match looked {
            Ok((look, counters)) => (Ok(look), counters),
            Err(failed) => (Err(failed), None),
        };
        facts.closer = Some(Closer {
            look,
            fleet: facts.fleet(ctx),
            io: facts.io(ctx, counters, now),
            guest_agent: facts.guest_agent(ctx, now),
        });
        Ok(facts)
    }

    /// How the fleet around this VM stands.
    pub fn fleet(&self, ctx: &Context) -> Fleet {
        fleet::counts(ctx).of(&self.policy_key(), &self.cluster_key())
    }

    /// Whether the budgets leave room for a reset of this VM. Where they do not, as when a whole fleet is silent, nobody's guest agent is asked: it would take
    /// Proxmox minutes.
    pub fn has_budget(&self, ctx: &Context) -> bool {
        budget(&self.fleet(ctx), &self.effective.limits(), &ctx.limits).is_none()
    }

    /// What the guest moves: by the list of all VMs, and by the looks at this one. Where the list is read seldom, only looks tell in time that nothing moves any more.
    fn io(&self, ctx: &Context, looked: Option<Counters>, now: Mono) -> Option<GuestIo> {
        let vmid = self.vm.spec.proxmox.vmid;
        let listed = self.view.as_ref().and_then(|v| v.vms.get(&vmid)).and_then(|row| row.io);
        let Some(looked) = looked else { return listed };
        ctx.remember(&self.key, |memory| {
            let known = listed.into_iter().chain(memory.io);
            let quietest = known.map(|io| io.read(looked, now)).max_by_key(|io| io.quiet(now));
            memory.io = quietest.or_else(|| Some(GuestIo::new(looked, now)));
            memory.io
        })
    }

    fn gather(
        ctx: &Context,
        key: VmKey,
        vm: ManagedVM,
        policy: Option<HealthPolicy>,
        cluster: Option<ProxmoxCluster>,
        manual: Option<VMReset>,
    ) -> Self {
        let now = ctx.clock.now();
        let effective = effective(&vm.spec, found(&vm, policy.as_ref()));
        let view = ctx.cluster_view(&cluster_of(&vm));
        let inventory = inventory(&vm, cluster.as_ref(), view.as_deref());
        let journal = vm.status.as_ref().and_then(|s| s.current_reset.clone());
        let would_reset_recorded = record::would_reset_is_recorded(ctx, &vm);
        let is_off = matches!(&inventory, Inventory::Row { status, .. } if status == "stopped");
        let (uuid, journal_unchanged, hold_lifted, guest_agent_answered, off_since) = ctx.remember(&key, |memory| {
            memory.off_since = is_off.then(|| memory.off_since.unwrap_or(now.mono));
            match (&memory.journal, journal) {
                (Some((known, _)), Some(current)) if **known == current => {}
                (_, Some(current)) => memory.journal = Some((Box::new(current), now.mono)),
                (_, None) => memory.journal = None,
            }
            (
                memory.uuid,
                memory.journal.as_ref().map_or(Duration::ZERO, |(_, since)| now.mono.since(*since)),
                memory.hold_lifted,
                memory.guest_agent_answered,
                memory.off_since,
            )
        });
        let mut facts = Self {
            heartbeat: ctx.ledger.view(&key),
            newest_received: ctx.ledger.newest_received(&key),
            duplicate_of: ctx.machines.older(&vm),
            alive_as: alive_as(ctx, &vm, &effective, now),
            windows: ctx.windows(policy.as_ref(), now.wall),
            key,
            vm,
            policy,
            cluster,
            effective,
            inventory,
            view,
            uuid,
            closer: None,
            manual,
            hold_lifted,
            journal_unchanged,
            would_reset_recorded,
            weather: Weather::Calm { since: Mono(0) },
            guest_agent_answered,
            off_since,
        };
        facts.weather = facts.look_at_the_weather(ctx, now);
        let held = holds(&facts.observed(ctx, now), now);
        facts.hold_lifted = ctx.remember(&facts.key, |memory| {
            if memory.held && !held {
                // A lifted hold starts the clock of silence anew: nobody wants the reset that the pause held back.
                memory.hold_lifted = now.mono;
            }
            memory.held = held;
            memory.hold_lifted
        });
        facts
    }

    /// Whether many fell silent together with this VM or around it. That concerns nobody whose reports come, and the fleet is not counted for him.
    fn look_at_the_weather(&self, ctx: &Context, now: Now) -> Weather {
        let vital = self.vital(ctx);
        let late = vital.late(now);
        if !late && self.heartbeat.over_since.is_empty() {
            return Weather::Calm { since: Mono(0) };
        }
        fleet::weather_of(ctx, &self.vm, &self.effective, vital.heard(now).filter(|_| late), now)
    }

    /// Whether its reports come.
    pub fn is_heard_of(&self, ctx: &Context) -> bool {
        !self.vital(ctx).late(ctx.clock.now())
    }

    fn vital(&self, ctx: &Context) -> Vital<'_> {
        let listening = ctx.witness.view().since;
        Vital {
            effective: &self.effective,
            status: self.vm.status.as_ref(),
            heartbeat: &self.heartbeat,
            since: listening.max(self.hold_lifted),
            listening,
        }
    }

    /// As the decision core takes it.
    pub fn observed<'a>(&'a self, ctx: &'a Context, now: Now) -> Observed<'a> {
        let observer = ctx.witness.view();
        let published = self
            .vm
            .status
            .as_ref()
            .and_then(|s| s.heartbeat.as_ref())
            .and_then(|h| h.last_received_time);
        // Another Defib's publisher would leave times that are newer than our listening and that our ledger does not know.
        let foreign_heartbeat =
            published.is_some_and(|t| t > now.wall_of(observer.since) && self.newest_received.is_none_or(|ours| t > ours));
        Observed {
            vm: &self.vm,
            policy: found(&self.vm, self.policy.as_ref()),
            windows: &self.windows,
            cluster: self.cluster.as_ref().map(|c| &c.spec),
            effective: &self.effective,
            heartbeat: &self.heartbeat,
            observer,
            hold_lifted: self.hold_lifted,
            foreign_heartbeat,
            inventory: &self.inventory,
            uuid_in_proxmox: self.uuid,
            closer: self.closer.as_ref(),
            manual: self.manual.as_ref(),
            me: &ctx.me,
            journal_unchanged: self.journal_unchanged,
            own_node: ctx.own_node.get().copied(),
            duplicate_of: self.duplicate_of.as_deref(),
            alive_as: self.alive_as.as_deref(),
            limits: &ctx.limits,
            weather: self.weather,
            guest_agent_answered: self.guest_agent_answered,
            off_since: self.off_since,
            observe_only: ctx.observe_only,
            would_reset_recorded: self.would_reset_recorded,
        }
    }

    /// Asks Proxmox for the SMBIOS UUID of a VM that has none recorded yet.
    pub async fn adopt(&mut self, ctx: &Context) {
        if self.uuid.is_some() || defib_core::life::identity(self.vm.status.as_ref()).is_some() {
            return;
        }
        let Inventory::Row { node, .. } = &self.inventory else { return };
        let Some(client) = self.client() else { return };
        match client.vm_config(node, self.vm.spec.proxmox.vmid).await {
            Ok(config) => {
                if let Some(uuid) = config.smbios_uuid {
                    self.saw(ctx, uuid);
                }
            }
            Err(error) => tracing::debug!(vm = %self.key, %error, "cannot read the VM's configuration yet"),
        }
    }

    /// Remembers which machine Proxmox has under the VMID, here and for the ledger.
    fn saw(&mut self, ctx: &Context, uuid: Uuid) {
        self.uuid = Some(uuid);
        ctx.remember(&self.key, |m| m.uuid = Some(uuid));
    }

    /// Looks at the VM in Proxmox now, on the node where it was seen last. Only where it is not there any more - VMs migrate - is it searched in the list of all
    /// VMs: Proxmox takes long to write that of thousands, and many VMs are looked at together.
    async fn look(&self) -> Result<(Look, Option<Counters>), LookFailed> {
        let vmid = self.vm.spec.proxmox.vmid;
        let failed = |reason, message: String| LookFailed { reason, message };
        let unreachable = |e: defib_proxmox::Error| failed("ProxmoxUnreachable", format!("cannot look at the VM in Proxmox: {e}"));
        let Some(client) = self.client() else {
            let why = self
                .view
                .as_ref()
                .and_then(|v| v.error.as_ref())
                .map_or("it was not read yet", |(_, m)| m);
            let name = &self.vm.spec.proxmox.cluster_ref.name;
            return Err(match self.cluster {
                Some(_) => failed("ProxmoxUnreachable", format!("ProxmoxCluster {name:?} cannot be used: {why}")),
                None => failed(
                    "ClusterNotFound",
                    format!("ProxmoxCluster {name:?} does not exist in this namespace"),
                ),
            });
        };
        let seen = match self.row() {
            Some((node, _)) => on_node(client, node, vmid).await,
            None => Ok(None),
        };
        let found = match seen.map_err(unreachable)? {
            Some(found) => found,
            None => {
                let resources = client.resources().await.map_err(unreachable)?;
                let Some(row) = resources.into_iter().find(|r| r.vmid == vmid) else {
                    return Err(failed(
                        "VMNotFound",
                        format!("Proxmox shows no VM {vmid}: it does not exist, or the token lacks VM.Audit on /vms/{vmid}"),
                    ));
                };
                read_vm(client, &row.node, vmid).await.map_err(unreachable)?
            }
        };
        let Seen {
            node,
            status,
            config,
            nodes,
            ha,
        } = found;
        let node_status = nodes
            .iter()
            .find(|n| n.node == node)
            .map_or_else(|| "unknown".into(), |n| n.status.to_string());
        // A monitor that hangs tells nothing of the disks.
        let moved = status.monitor_answers.then(|| counters(&status.counters));
        let look = Look {
            node_in_maintenance: ha.in_maintenance.contains(&node),
            no_quorum: ha.quorate == Some(false),
            node,
            node_status,
            qmp_status: status.qmp_status.to_string(),
            lock: status.lock.or(config.lock),
            ha_state: status.ha.managed.then(|| status.ha.state.unwrap_or_else(|| "unknown".into())),
            uuid: config.smbios_uuid,
            uptime: Duration::from_secs(status.uptime),
            no_reboot: !config.reboot,
        };
        Ok((look, moved))
    }

    /// The client of the VM's cluster. Without the ProxmoxCluster there is none, whatever was made of it before it was deleted.
    pub fn client(&self) -> Option<&dyn Proxmox> {
        self.cluster.as_ref()?;
        self.view.as_ref().and_then(|v| v.client.as_deref())
    }

    /// Node on which the VM was seen last.
    pub fn node(&self) -> Option<&str> {
        let looked = self.closer.as_ref().and_then(|c| c.look.as_ref().ok());
        looked.map(|look| look.node.as_str()).or(self.row().map(|(node, _)| node))
    }

    /// Node and state by the last reading of Proxmox.
    pub fn row(&self) -> Option<(&str, &str)> {
        match &self.inventory {
            Inventory::Row { node, status } => Some((node, status)),
            _ => None,
        }
    }

    /// Which VMs share this one's policy.
    pub fn policy_key(&self) -> (String, Option<String>) {
        (self.key.namespace().to_owned(), self.effective.policy.clone())
    }

    /// Which VMs share this one's cluster.
    pub fn cluster_key(&self) -> Key {
        cluster_of(&self.vm)
    }

    /// The newest sign of life.
    pub fn last_life(&self) -> Option<Mono> {
        self.heartbeat.last_life
    }
}

/// What Proxmox says of a VM.
struct Seen {
    node: String,
    status: VmStatus,
    config: VmConfig,
    nodes: Vec<Node>,
    ha: ClusterHaStatus,
}

/// What Proxmox says of a VM on the node where it was seen last; none when it is not there any more, or when that node does not answer: it may have been moved
/// away from a node that failed.
async fn on_node(client: &dyn Proxmox, node: &str, vmid: u32) -> Result<Option<Seen>, defib_proxmox::Error> {
    match read_vm(client, node, vmid).await {
        Err(defib_proxmox::Error::NotOnNode { .. } | defib_proxmox::Error::NodeUnreachable { .. }) => Ok(None),
        done => done.map(Some),
    }
}

async fn read_vm(client: &dyn Proxmox, node: &str, vmid: u32) -> Result<Seen, defib_proxmox::Error> {
    let ha = async {
        match client.ha_status().await {
            // Sys.Audit on / is optional: without it nobody tells us.
            Err(defib_proxmox::Error::Forbidden { .. }) => Ok(ClusterHaStatus::default()),
            told => told,
        }
    };
    // All are waited for: which of several that fail does so first is chance, and each other message would be a write.
    let (status, config, nodes, ha) = tokio::join!(client.vm_status(node, vmid), client.vm_config(node, vmid), client.nodes(), ha);
    Ok(Seen {
        node: node.to_owned(),
        status: status?,
        config: config?,
        nodes: nodes?,
        ha: ha?,
    })
}

/// Another ManagedVM of the same machine that was heard of within the time-out: after a move to another name or namespace the agent may have the new key
/// already, and the machine is alive.
pub fn alive_as(ctx: &Context, vm: &ManagedVM, effective: &Effective, now: Now) -> Option<String> {
    let heard = |(namespace, name): &Key| {
        let last = ctx.ledger.view(&VmKey::new(namespace.clone(), name.clone())).last_life;
        last.is_some_and(|at| now.mono.since(at) < effective.timeout)
    };
    ctx.machines
        .others(vm)
        .into_iter()
        .find(heard)
        .map(|(namespace, name)| format!("{namespace}/{name}"))
}

/// Namespace and name of the policy that would apply.
pub fn policy_of(vm: &ManagedVM) -> (String, String) {
    let name = vm.spec.policy_ref.as_ref().map_or(DEFAULT_POLICY, |r| r.name.as_str());
    (vm.namespace().unwrap_or_default(), name.to_owned())
}

/// Namespace and name of the ProxmoxCluster that the VM is in.
pub fn cluster_of(vm: &ManagedVM) -> Key {
    (vm.namespace().unwrap_or_default(), vm.spec.proxmox.cluster_ref.name.clone())
}

/// The policy as the decision core takes it.
pub fn found<'a>(vm: &'a ManagedVM, policy: Option<&'a HealthPolicy>) -> Found<'a> {
    match (policy, &vm.spec.policy_ref) {
        (Some(p), _) => Found::Policy {
            name: p.metadata.name.as_deref().unwrap_or(DEFAULT_POLICY),
            spec: &p.spec,
        },
        (None, Some(named)) => Found::Missing(&named.name),
        (None, None) => Found::None,
    }
}

fn inventory(vm: &ManagedVM, cluster: Option<&ProxmoxCluster>, view: Option<&ClusterView>) -> Inventory {
    if cluster.is_none() {
        return Inventory::NoCluster;
    }
    let unread = |message: &str| Inventory::Unread {
        message: message.to_owned(),
    };
    match view {
        None => unread("Proxmox was not read yet"),
        Some(view) => match (view.vms.get(&vm.spec.proxmox.vmid), &view.error) {
            (Some(row), _) => Inventory::Row {
                node: row.node.to_string(),
                status: row.status.to_string(),
            },
            (None, Some((_, message))) => unread(message),
            (None, None) if !view.read => unread("Proxmox was not read yet"),
            (None, None) => Inventory::Absent,
        },
    }
}

impl Context {
    /// The watched object, or what our own last write made of it, or met, where the watch has not caught up.
    fn newest(&self, key: &VmKey, watched: &ManagedVM) -> ManagedVM {
        self.remember(key, |memory| match &memory.latest {
            Some(ours) if is_newer(ours, watched) => ours.as_ref().clone(),
            _ => {
                memory.latest = None;
                watched.clone()
            }
        })
    }

    /// Whether the last attempts on this VM were taken back so often that the next one waits.
    pub fn backing_off(&self, key: &VmKey, now: Mono) -> bool {
        self.remember(key, |m| now < m.withdrawals.1)
    }
}
