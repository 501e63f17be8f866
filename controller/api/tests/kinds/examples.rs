//! The manifests that people start from.

use crate::support::{checkout, kubectl, namespace};
use crate::with_crds;

#[test]
fn the_quickstart_is_accepted() {
    with_crds();
    let namespace = namespace("quickstart");
    let folder = checkout().join("examples/quickstart");
    let apply = [
        "apply",
        "--validate=strict",
        "--namespace",
        &namespace,
        "--filename",
        &folder.to_string_lossy(),
    ];
    let said = kubectl(&apply).cleanly();
    for created in [
        "secret/pve-token created",
        "proxmoxcluster.defib.dev/pve created",
        "healthpolicy.defib.dev/default created",
        "managedvm.defib.dev/web-1 created",
    ] {
        assert!(said.contains(created), "{said}");
    }
    let again = kubectl(&apply).cleanly();
    // The API server stores what was written, no more: nothing has a default.
    assert!(
        again
            .lines()
            .filter(|line| line.contains("defib.dev"))
            .all(|line| line.ends_with("unchanged")),
        "{again}"
    );
}
