//! The ledger's entry under any sequence of reports.

use crate::common::*;
use crate::generate::received_report;
use defib_core::heartbeat::{Expectation, Heartbeat, Taken};
use proptest::option;
use proptest::prelude::*;
use std::sync::Arc;

proptest! {
    #[test]
    fn life_never_goes_back_and_memory_is_bounded(
        mut reports in prop::collection::vec(received_report(), 0..60),
        identity in option::of(Just(MACHINE)),
    ) {
        reports.sort_by_key(|(at, _)| *at);
        let expected = Expectation { identity, ..Expectation::default() };
        let mut h = Heartbeat::default();
        for (at, report) in reports {
            let before = h.clone();
            match h.take(Arc::new(report.clone()), &expected, at) {
                Taken::Accepted { .. } => {
                    prop_assert_eq!(h.last_life, Some(at));
                    prop_assert_eq!(h.report.as_ref().map(|(_, r)| r.boot_id.clone()), Some(report.boot_id));
                }
                Taken::Stale | Taken::WrongMachine => {
                    prop_assert_eq!(h.last_life, before.last_life);
                    prop_assert_eq!(&h.report, &before.report);
                }
            }
            prop_assert!(h.last_life >= before.last_life);
            prop_assert!(h.previous_boots.len() <= 8);
        }
    }
}
