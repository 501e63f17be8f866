//! The manifests that people start from say nothing that Defib itself would call invalid. (That the API server takes them is tested with the kinds.)

use defib_api::HealthPolicy;
use defib_core::policy::policy_problem;
use defib_core::window::{Windows, windows};
use jiff::Timestamp;
use std::path::Path;

#[test]
fn no_policy_of_the_examples_is_invalid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for file in ["quickstart/2-healthpolicy.yaml", "demo/healthpolicy.yaml"] {
        let text = std::fs::read_to_string(examples.join(file)).unwrap();
        for document in text.split("\n---\n") {
            let policy: HealthPolicy = serde_saphyr::from_str(document).unwrap();
            assert_eq!(policy_problem("default", &policy.spec), None, "{file}");
            let stand = windows(&policy.spec.maintenance_windows, Timestamp::now());
            assert!(!matches!(stand, Windows::Invalid { .. }), "{file}: {stand:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}
