//! The kubeconfig files that clients use: self-contained, so that a copy works anywhere on this machine.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::ClientCertificate;

/// The YAML text. `name` names the cluster, the user and the context; it must need no quotes.
pub(crate) fn yaml(name: &str, server: &str, ca_pem: &str, client: &ClientCertificate) -> String {
    let [ca, certificate, key] = [ca_pem, &client.certificate, &client.key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
users:
- name: {name}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}
