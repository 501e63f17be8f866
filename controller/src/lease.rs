//! The Lease that names the decider. Judged in `defib_core::lease`; here it is read and written, each write on the version that was read.

use crate::clock::Clock;
use crate::jitter;
use crate::observer::Witness;
use defib_core::lease::{DURATION, RENEW_EVERY, Record, Verdict, Watch};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
const NAME: &str = "defib";
/// Longest wait for one call: half of what the lease is held for, so that one slow call loses nothing.
const CALL: Duration = Duration::from_secs(5);

/// Keeps the lease, or waits for it, until `stop`; then gives it back.
pub async fn keep(client: Client, namespace: String, me: String, witness: Witness, clock: Clock, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut watch = Watch::default();
    let mut held: Option<Lease> = None;
    loop {
        match timeout(CALL, round(&leases, &mut watch, &me, &clock)).await {
            Ok(Ok(Some((lease, started)))) => {
                held = Some(lease);
                witness.wrote(true);
                witness.lease_renewed(started);
            }
            Ok(Ok(None)) => {
                witness.wrote(true);
                if held.take().is_some() {
                    tracing::warn!("the lease was taken by another process");
                }
                witness.lease_lost();
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot renew the lease");
                witness.wrote(false);
            }
            Err(_) => {
                tracing::warn!("cannot renew the lease: no answer in {} s", CALL.as_secs());
                witness.wrote(false);
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep(jitter::around(RENEW_EVERY)) => {}
        }
    }
    witness.lease_lost();
    if let Some(lease) = held {
        give_back(&leases, lease).await;
    }
}

/// One look and one write. `Some` when the lease is ours, with the moment at which the write was started.
async fn round(
    leases: &Api<Lease>,
    watch: &mut Watch,
    me: &str,
    clock: &Clock,
) -> Result<Option<(Lease, defib_core::time::Mono)>, kube::Error> {
    let found = leases.get_opt(NAME).await?;
    let record = found.as_ref().map(|l| Record {
        holder: l.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default(),
        version: l.resource_version().unwrap_or_default(),
    });
    let started = clock.now();
    let verdict = watch.evaluate(record, me, started.mono);
    let transitions = found
        .as_ref()
        .and_then(|l| l.spec.as_ref())
        .and_then(|s| s.lease_transitions)
        .unwrap_or(0);
    let acquired = found.as_ref().and_then(|l| l.spec.as_ref()).and_then(|s| s.acquire_time.clone());
    let spec = |acquire_time, lease_transitions| LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time,
        renew_time: Some(MicroTime(started.wall)),
        lease_transitions: Some(lease_transitions),
        ..LeaseSpec::default()
    };
    let now = Some(MicroTime(started.wall));
    let written = match (verdict, found) {
        (Verdict::Wait, _) => return Ok(None),
        (Verdict::Renew, Some(lease)) => {
            leases
                .replace(
                    NAME,
                    &PostParams::default(),
                    &Lease {
                        spec: Some(spec(acquired, transitions)),
                        ..lease
                    },
                )
                .await
        }
        (Verdict::Take, Some(lease)) => {
            leases
                .replace(
                    NAME,
                    &PostParams::default(),
                    &Lease {
                        spec: Some(spec(now, transitions.saturating_add(1))),
                        ..lease
                    },
                )
                .await
        }
        (Verdict::Create | Verdict::Renew | Verdict::Take, _) => {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                ..ObjectMeta::default()
            };
            leases
                .create(
                    &PostParams::default(),
                    &Lease {
                        metadata,
                        spec: Some(spec(now, 0)),
                    },
                )
                .await
        }
    };
    match written {
        Ok(lease) => Ok(Some((lease, started.mono))),
        // Somebody else wrote it between our look and our write: it is not ours now.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// An empty holder lets the next process take the lease at once. Failing that, it waits the lease out.
async fn give_back(leases: &Api<Lease>, lease: Lease) {
    let spec = lease.spec.clone().map(|s| LeaseSpec {
        holder_identity: Some(String::new()),
        ..s
    });
    let lease = Lease { spec, ..lease };
    match timeout(CALL, leases.replace(NAME, &PostParams::default(), &lease)).await {
        Ok(Ok(_)) => tracing::info!("lease given back"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot give the lease back"),
        Err(_) => tracing::warn!("cannot give the lease back: no answer"),
    }
}
