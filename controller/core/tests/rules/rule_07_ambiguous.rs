//! **An ambiguous answer is looked up, never repeated**: 596, time-outs and lost connections search the node's tasks for 90 s; found = adopt; not found = outcome
//! `Unknown`, one attempt spent, go to verification. Only what is provably not delivered may be sent again. After a crash following the swap, the create or the POST
//! the state is the same and so is the answer: search the tasks; after the UPID: poll it; after the task: verify.

use crate::common::*;
use defib_api::{CurrentReset, Outcome, TaskResult, Trigger};
use defib_core::decide::Next;
use defib_core::journal::{Books, Change, Sent, Step, TaskEnd, polled, searched, sent as after_sending};

#[test]
fn after_a_crash_the_same_record_leads_to_the_same_step() {
    let search = Step::Search { since: wall(NOW as i64) };
    let poll = Step::Poll {
        upid: "UPID:pve1:1".into(),
    };
    let verify = |s: u64| Step::Verify {
        stabilizing: false,
        recheck: secs(DEADLINE + 1 - s),
    };
    let cases = [
        ("the intent is in the journal", intent(), search.clone()),
        ("the request was sent, its answer lost", sent(), search),
        ("a task is known", task(), poll),
        ("the task ended well", ended(TaskResult::OK), verify(5)),
        ("nobody knows whether it ran", ended(TaskResult::Unknown), verify(5)),
    ];
    for (case, journal, expected) in cases {
        let alive = silent().under_way(journal.clone()).now(NOW + 5);
        assert_eq!(alive.step(), expected, "{case}");
        let restarted = healthy()
            .under_way(journal)
            .empty_ledger()
            .published(NOW as i64 - 200, |_| {})
            .observing_since(NOW + 4)
            .now(NOW + 5);
        assert_eq!(restarted.step(), expected, "{case}, with nothing in memory");
    }
}

#[test]
fn whatever_is_in_the_journal_nothing_is_begun_beside_it() {
    for journal in [intent(), sent(), task(), ended(TaskResult::OK), ended(TaskResult::Failed)] {
        let scene = due().requested().under_way(journal.clone());
        assert!(matches!(scene.decide().next, Next::Continue(_)), "{journal:?}");
    }
}

#[test]
fn an_answer_that_was_lost_is_searched_and_not_repeated() {
    let Change::Write(journal) = after_sending(&intent(), Sent::Ambiguous { text: "596".into() }, at(NOW)) else {
        panic!("it is written down")
    };
    assert_eq!(
        *journal,
        CurrentReset {
            answer: Some("596".into()),
            ..sent()
        }
    );
    assert!(matches!(silent().under_way(*journal).step(), Step::Search { .. }));
}

#[test]
fn the_search_takes_90_s_from_the_request() {
    let wait = Change::Wait(secs(2));
    let given_up = |change| matches!(change, Change::Write(j) if j.task_result == Some(TaskResult::Unknown) && j.upid.is_none());
    assert_eq!(searched(&sent(), None, at(NOW + 89)), wait);
    assert!(given_up(searched(&sent(), None, at(NOW + 90))));
    // Without the time of the request: it may have been sent up to 10 s after the intent.
    assert_eq!(searched(&intent(), None, at(NOW + 99)), wait);
    assert!(given_up(searched(&intent(), None, at(NOW + 100))));
}

#[test]
fn a_task_that_is_found_is_adopted_even_at_the_last_moment() {
    for s in [0, 89, 90, 5_000] {
        assert_eq!(
            searched(&sent(), Some("UPID:pve1:1".into()), at(NOW + s)),
            Change::Write(Box::new(task())),
            "after {s} s"
        );
    }
}

#[test]
fn a_task_that_never_ends_or_ended_unclearly_is_unknown() {
    let text = || "x".to_owned();
    let result = |change| match change {
        Change::Write(j) => j.task_result,
        _ => None,
    };
    assert_eq!(polled(&task(), None, at(NOW + 59)), Change::Wait(secs(1)));
    assert_eq!(result(polled(&task(), None, at(NOW + 60))), Some(TaskResult::Unknown));
    assert_eq!(
        result(polled(&task(), Some(TaskEnd::Unclear { text: text() }), at(NOW + 1))),
        Some(TaskResult::Unknown)
    );
    assert_eq!(
        result(polled(&task(), Some(TaskEnd::Failed { text: text() }), at(NOW + 1))),
        Some(TaskResult::Failed)
    );
    assert_eq!(
        polled(&task(), Some(TaskEnd::Ok), at(NOW + 1)),
        Change::Write(Box::new(ended(TaskResult::OK)))
    );
    assert!(
        matches!(
            polled(&task(), Some(TaskEnd::Refused { text: text() }), at(NOW + 1)),
            Change::Withdraw { .. }
        ),
        "a task that refused before it touched the VM costs no attempt"
    );
}

#[test]
fn unknown_is_verified_like_any_other_and_costs_one_attempt() {
    let scene = |s: u64| silent().episode(1, 5_000).under_way(ended(TaskResult::Unknown)).now(NOW + s);
    let Step::Finish(ending) = scene(DEADLINE + 1).step() else {
        panic!("the deadline has passed")
    };
    assert_eq!(ending.outcome, Outcome::Unknown);
    let books = Books::of(scene(0).vm.status.as_ref()).finish(ending.outcome, &[], at(NOW + 601));
    assert_eq!(books.episode.unwrap().attempts, 1, "the attempt stays spent");

    let proved = scene(60)
        .heard(report("boot-b", 40.0), NOW + 60)
        .with(|s| s.heartbeat.boot_first_received = Some(mono(NOW + 20)));
    let Step::Finish(ending) = proved.step() else {
        panic!("it has been back for 40 s")
    };
    assert_eq!(ending.outcome, Outcome::Recovered, "the VM itself tells what Proxmox did not");
}

#[test]
fn a_task_that_failed_ends_the_attempt_in_proxmoxs_words() {
    let journal = CurrentReset {
        answer: Some("VM 101 not running".into()),
        ..ended(TaskResult::Failed)
    };
    let Step::Finish(ending) = silent().under_way(journal).step() else {
        panic!("there is nothing to wait for")
    };
    assert_eq!(ending.outcome, Outcome::Failed);
    assert!(ending.message.contains("VM 101 not running"), "{}", ending.message);
}

/// The schema bounds what the journal holds, and Proxmox writes at what length it likes: an uncut text would be refused for ever.
#[test]
fn words_of_proxmox_are_cut_to_what_the_journal_holds() {
    let long = || "ä".repeat(600);
    let manual = CurrentReset {
        trigger: Trigger::Manual,
        ..intent()
    };
    for change in [
        after_sending(&intent(), Sent::Ambiguous { text: long() }, at(NOW)),
        after_sending(&manual, Sent::Refused { text: long() }, at(NOW)),
        polled(&task(), Some(TaskEnd::Failed { text: long() }), at(NOW + 1)),
        polled(&task(), Some(TaskEnd::Unclear { text: long() }), at(NOW + 1)),
    ] {
        let Change::Write(journal) = change else { panic!("{change:?}") };
        assert_eq!(journal.answer, Some("ä".repeat(256)));
    }
}
