//! Deleting a ManagedVM, or uninstalling Defib, leaves the VM alone.

use crate::common::*;
use defib_api::TaskResult;
use defib_core::conditions::kind;
use defib_core::decide::Next;

#[test]
fn a_vm_whose_object_goes_is_left_alone() {
    check(vec![
        ("silent", silent().deleting(), "Deleting"),
        ("silent and looked at", due().deleting(), "Deleting"),
        ("a person asks", healthy().requested().looked().deleting(), "Deleting"),
        ("a person asks for a silent one", due().requested().deleting(), "Deleting"),
    ]);
    let decision = silent().deleting().decide();
    assert_eq!(condition(&decision, kind::READY).reason, "Deleting");
}

#[test]
fn a_reset_that_is_under_way_is_still_brought_to_its_end() {
    for journal in [intent(), task(), ended(TaskResult::OK)] {
        assert!(matches!(silent().under_way(journal).deleting().decide().next, Next::Continue(_)));
    }
}
