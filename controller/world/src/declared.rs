//! What people declare: the objects of a world, and how they change.

use crate::clock::Time;
use crate::plan::{Object, PolicyPlan, VmPlan};
use crate::world::{NAMESPACE, World};
use defib_api::{
    Budget, Corroborate, HealthPolicy, HealthPolicySpec, HeartbeatSettings, IntOrPercent, ManagedVM, ManagedVMSpec, Mode, NameRef, Pause,
    PowerState, ProxmoxCluster, ProxmoxClusterSpec, ResetAction, ResetPolicy, Step, StepAction, Tls, Trigger, VMReset, VMResetSpec, Verify,
};
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Name of the ProxmoxCluster.
pub const CLUSTER: &str = "pve";

/// People at their keyboards. Nothing goes wrong between them and the API server.
pub struct People<'a> {
    world: &'a World,
    client: Client,
}

impl<'a> People<'a> {
    /// Of a world.
    pub fn of(world: &'a World) -> Self {
        Self {
            client: world.api.client("people"),
            world,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create<K>(&self, object: &K)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), object).await.expect("created");
    }

    async fn change<K>(&self, name: &str, change: Value)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        // What was deleted meanwhile is not changed.
        let _ = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    }

    /// Declares all of a plan.
    pub async fn declare(&self) {
        let mut secret = Secret::default();
        secret.metadata.name = Some("pve-token".into());
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(BTreeMap::from([
            ("tokenID".to_owned(), text(crate::proxmox::TOKEN)),
            ("secret".to_owned(), text("00000000-0000-4000-8000-000000000000")),
        ]));
        self.create(&secret).await;
        self.create(&ProxmoxCluster::new(
            CLUSTER,
            ProxmoxClusterSpec {
                endpoints: vec!["https://pve1:8006".into()],
                token_secret_ref: NameRef { name: "pve-token".into() },
                tls: Tls {
                    verify: Some(Verify::System),
                    ..Tls::default()
                },
                max_requests_per_node: None,
                pauses: Vec::new(),
            },
        ))
        .await;
        for plan in &self.world.plan.policies {
            if plan.spec.is_null() {
                self.create(&policy(plan)).await;
            } else {
                let spec = serde_json::from_value(self.timed(&plan.spec)).expect("it was read when the plan was made");
                self.create(&HealthPolicy::new(&plan.name, spec)).await;
            }
        }
        for plan in &self.world.plan.vms {
            self.create(&self.vm(plan)).await;
        }
    }

    fn vm(&self, plan: &VmPlan) -> ManagedVM {
        if !plan.spec.is_null() {
            let spec = serde_json::from_value(self.timed(&plan.spec)).expect("it was read when the plan was made");
            return ManagedVM::new(&plan.name, spec);
        }
        let policy = &self.world.plan.policies[plan.policy].name;
        let spec = ManagedVMSpec {
            policy_ref: Some(NameRef { name: policy.clone() }),
            power_state: plan.is_to_run.then_some(PowerState::Running),
            ..ManagedVMSpec::new(CLUSTER, plan.vmid)
        };
        ManagedVM::new(&plan.name, spec)
    }

    /// Changes an object, or makes it.
    pub async fn declare_object(&self, object: &Object) {
        match object.resource {
            "managedvms" => self.merge::<ManagedVM>(object).await,
            "healthpolicies" => self.merge::<HealthPolicy>(object).await,
            _ => self.merge::<ProxmoxCluster>(object).await,
        }
    }

    async fn merge<K>(&self, object: &Object)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let fields = self.timed(&object.fields);
        let api = self.api::<K>();
        // People know no types: what the API server takes, they have declared.
        if api.get_metadata_opt(&object.name).await.expect("read").is_some() {
            let changed = api
                .patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&fields))
                .await;
            changed.expect("what a scenario declares is taken");
            return;
        }
        let mut whole = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": object.name},
        });
        // A ManagedVM that is made again is as it was.
        if let Some(plan) = self
            .world
            .plan
            .vms
            .iter()
            .find(|vm| object.resource == "managedvms" && vm.name == object.name)
        {
            whole["spec"] = json!(self.vm(plan).spec);
        }
        json_merge(&mut whole, &fields);
        let whole: K = serde_json::from_value(whole).expect("an object");
        self.create(&whole).await;
    }

    /// Makes a VMReset.
    pub async fn make(&self, object: &Object) {
        let mut whole = self.timed(&object.fields);
        whole["apiVersion"] = json!(VMReset::api_version(&()));
        whole["kind"] = json!(VMReset::kind(&()));
        let reset: VMReset = serde_json::from_value(whole).expect("a VMReset");
        self.create(&reset).await;
    }

    /// Deletes an object.
    pub async fn remove(&self, resource: &str, name: &str) {
        let params = DeleteParams::default();
        let gone = match resource {
            "managedvms" => self.api::<ManagedVM>().delete(name, &params).await.map(drop),
            "healthpolicies" => self.api::<HealthPolicy>().delete(name, &params).await.map(drop),
            "vmresets" => self.api::<VMReset>().delete(name, &params).await.map(drop),
            _ => self.api::<ProxmoxCluster>().delete(name, &params).await.map(drop),
        };
        gone.expect("deleted");
        self.world.api.collect_garbage();
    }

    /// Writes another holder into the Lease, or nobody.
    pub async fn take_lease(&self, on: bool) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), self.world.lease_namespace(0));
        let holder = if on { "somebody-else" } else { "" };
        let change = json!({"spec": {"holderIdentity": holder}});
        let _ = leases.patch("defib", &PatchParams::default(), &Patch::Merge(change)).await;
    }

    /// With texts such as `@90` made into times.
    fn timed(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => match text.strip_prefix('@').and_then(|s| s.parse::<i64>().ok()) {
                Some(seconds) => json!(self.world.clock.wall(Time::default()) + SignedDuration::from_secs(seconds)),
                None => value.clone(),
            },
            Value::Array(items) => items.iter().map(|item| self.timed(item)).collect(),
            Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), self.timed(field))).collect(),
            _ => value.clone(),
        }
    }

    /// Pauses a ManagedVM, or takes that back.
    pub async fn pause_vm(&self, vm: usize, on: bool) {
        let name = &self.world.plan.vms[vm].name;
        self.change::<ManagedVM>(name, json!({"spec": {"pauses": pauses(on)}})).await;
    }

    /// The same with a policy.
    pub async fn pause_policy(&self, policy: usize, on: bool) {
        let name = &self.world.plan.policies[policy].name;
        self.change::<HealthPolicy>(name, json!({"spec": {"pauses": pauses(on)}})).await;
    }

    /// The same with the ProxmoxCluster.
    pub async fn pause_cluster(&self, on: bool) {
        self.change::<ProxmoxCluster>(CLUSTER, json!({"spec": {"pauses": pauses(on)}}))
            .await;
    }

    /// Sets the mode of a policy.
    pub async fn observe(&self, policy: usize, on: bool) {
        let mode = if on { "Observe" } else { "Enforce" };
        let name = &self.world.plan.policies[policy].name;
        self.change::<HealthPolicy>(name, json!({"spec": {"resetPolicy": {"mode": mode}}}))
            .await;
    }

    /// Asks for a reset.
    pub async fn request(&self, vm: usize, action: ResetAction) {
        let now = self.world.clock.now();
        let name = &self.world.plan.vms[vm].name;
        let reset = VMReset::new(
            &format!("{name}-by-hand-{}", now.0),
            VMResetSpec {
                vm_ref: NameRef { name: name.clone() },
                action,
                reason: Some("it looks stuck".into()),
                requested_by: Some("someone".into()),
                trigger: Trigger::Manual,
                not_after: self.world.clock.wall(now) + SignedDuration::from_secs(90),
            },
        );
        let _ = self.api::<VMReset>().create(&PostParams::default(), &reset).await;
    }

    /// Deletes a ManagedVM, or makes it again.
    pub async fn delete(&self, vm: usize, gone: bool) {
        let plan = &self.world.plan.vms[vm];
        if gone {
            let _ = self.api::<ManagedVM>().delete(&plan.name, &DeleteParams::default()).await;
            self.world.api.collect_garbage();
        } else {
            let _ = self.api::<ManagedVM>().create(&PostParams::default(), &self.vm(plan)).await;
        }
    }
}

/// A merge patch (RFC 7396).
pub fn json_merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(object) = target.as_object_mut() else { return };
    for (name, field) in fields {
        if field.is_null() {
            object.remove(name);
        } else {
            json_merge(object.entry(name.clone()).or_insert(Value::Null), field);
        }
    }
}

fn pauses(on: bool) -> Vec<Pause> {
    let pause = Pause {
        owner: "someone".into(),
        reason: "maintenance".into(),
        expires_at: None,
    };
    on.then_some(pause).into_iter().collect()
}

fn steps(plan: &PolicyPlan) -> Vec<Step> {
    [
        (StepAction::GuestReboot, plan.guest_reboots),
        (StepAction::Reset, plan.attempts),
        (StepAction::PowerCycle, plan.power_cycles),
    ]
    .into_iter()
    .filter(|(_, attempts)| *attempts > 0)
    .map(|(action, max_attempts)| Step {
        action,
        max_attempts,
        recovery_deadline_seconds: plan.recovery,
    })
    .collect()
}

fn policy(plan: &PolicyPlan) -> HealthPolicy {
    HealthPolicy::new(
        &plan.name,
        HealthPolicySpec {
            heartbeat: Some(HeartbeatSettings {
                report_seconds: Some(plan.report),
                timeout_seconds: Some(plan.timeout),
                startup_grace_seconds: Some(plan.grace),
            }),
            reset_policy: Some(ResetPolicy {
                mode: Some(Mode::Enforce),
                steps: Some(steps(plan)),
                max_resets: Some(plan.max_resets),
                window_seconds: Some(plan.window),
                stabilization_seconds: Some(plan.stabilization),
                corroborate: Some(Corroborate {
                    max_veto_seconds: Some(plan.veto),
                    ..Corroborate::default()
                }),
                ..ResetPolicy::default()
            }),
            budget: Some(Budget {
                max_unhealthy: Some(IntOrPercent::Percent(format!("{}%", plan.max_unhealthy))),
                max_in_flight: Some(plan.max_in_flight),
                storm_cooldown_seconds: None,
            }),
            ..HealthPolicySpec::default()
        },
    )
}
