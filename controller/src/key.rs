//! `defib key namespace/vm`: prints the key of a VM's agent, with the rights of whoever runs it.

use crate::heartbeat::keys;
use crate::reconcile::{Error, kube_api};
use clap::Args;
use defib_api::ManagedVM;
use defib_core::policy::built_in;
use kube::Api;

/// Options of `defib key`.
#[derive(Debug, Args)]
pub struct KeyOptions {
    /// The ManagedVM, as namespace/name.
    vm: String,
    /// Namespace of Defib itself, where its Secret `defib-keys` is.
    #[arg(long, env = "DEFIB_NAMESPACE", default_value = "defib-system")]
    namespace: String,
}

/// Prints the key to standard output, and nothing else there.
///
/// # Errors
/// What failed, and what to do about it.
pub fn main(options: &KeyOptions) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    println!("{}", runtime.block_on(key(options))?);
    Ok(())
}

async fn key(options: &KeyOptions) -> Result<String, String> {
    let (namespace, name) = options
        .vm
        .split_once('/')
        .ok_or_else(|| format!("{:?} is not namespace/name", options.vm))?;
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    if !is_name(namespace) || !is_name(name) {
        return Err(format!("{:?} is not namespace/name of a ManagedVM", options.vm));
    }
    let client = kube_api::client().await.map_err(|e| format!("cannot reach Kubernetes: {e}"))?;
    let vms: Api<ManagedVM> = Api::namespaced(client.clone(), namespace);
    let vm = kube_api::call("read the ManagedVM", vms.get(name)).await.map_err(|e| match e {
        Error::Gone { .. } => format!("there is no ManagedVM {namespace}/{name}"),
        other => other.to_string(),
    })?;
    let generation = vm.spec.agent.and_then(|a| a.key_generation).unwrap_or(built_in::KEY_GENERATION);
    let ring = keys::load(&client, &options.namespace).await.map_err(|e| e.to_string())?;
    Ok(ring.derive(namespace, name, generation))
}
