use super::*;

fn master(first: u8) -> Master {
    let bytes: Vec<u8> = (first..first + 32).collect();
    Master::from_bytes(&bytes).unwrap()
}

fn ring() -> KeyRing {
    KeyRing::new(master(0), None)
}

/// Agents in the field hold these texts: a change of the encoding would lock all of them out. The values were computed with another HMAC implementation.
#[test]
fn the_keys_of_a_master_never_change() {
    assert_eq!(
        ring().derive("homelab", "web-1", 1),
        "defib_homelab_web-1_1_4f4552fb7ef024839fedf4bcd0f85ada97dc597bde9ddf9b1d0813a4240c074d"
    );
    assert_eq!(
        ring().canary(),
        "defib-canary_cfc08c068fdec2b6a059b1ef58187f01cd59a17da7992599b784317b7d6776e4"
    );
}

#[test]
fn a_key_opens_the_vm_that_it_names() {
    for (namespace, name, generation) in [("default", "db", 1), ("a", "b.c-d", 7), ("n", "x", u32::MAX)] {
        let claim = ring().verify(&ring().derive(namespace, name, generation));
        let vm = VmKey::new(namespace, name);
        assert_eq!(claim, Ok(Claim { vm, generation }));
    }
}

#[test]
fn a_key_for_one_vm_is_worth_nothing_for_another() {
    let key = ring().derive("default", "db", 1);
    for (from, to) in [("_db_", "_web_"), ("_default_", "_prod_"), ("_1_", "_2_")] {
        let forged = key.replace(from, to);
        let Err(KeyError::WrongSecret(vm)) = ring().verify(&forged) else {
            panic!("{from} to {to} was not refused as a wrong key that names a VM");
        };
        assert!(forged.contains(vm.name()));
    }
    // The same letters, cut elsewhere.
    let mac = key.rsplit('_').next().unwrap();
    let other = KeyError::WrongSecret(VmKey::new("defaul", "tdb"));
    assert_eq!(ring().verify(&format!("defib_defaul_tdb_1_{mac}")), Err(other));
}

#[test]
fn while_rotating_both_masters_count_and_only_the_new_one_makes_keys() {
    let (old, new) = (ring(), KeyRing::new(master(100), Some(master(0))));
    let done = KeyRing::new(master(100), None);
    let key = old.derive("default", "db", 1);
    assert!(new.verify(&key).is_ok() && new.verify_canary(&old.canary()));
    assert!(done.verify(&new.derive("default", "db", 1)).is_ok() && done.verify_canary(&new.canary()));
    assert_eq!(done.verify(&key), Err(KeyError::WrongSecret(VmKey::new("default", "db"))));
    assert!(!done.verify_canary(&old.canary()));
}

#[test]
fn what_is_no_key_is_told_from_a_wrong_one() {
    let key = ring().derive("default", "db", 1);
    let (head, mac) = key.rsplit_once('_').unwrap();
    let texts = [
        String::new(),
        "defib".into(),
        "Bearer".into(),
        head.into(),
        format!("{key}0"),
        format!("{key}_"),
        key.to_uppercase(),
        format!("{head}_{}", mac.to_uppercase()),
        format!("{head}_{}", &mac[2..]),
        format!("defib_default_db_0_{mac}"),
        format!("defib_default_db_01_{mac}"),
        format!("defib_default_db_+1_{mac}"),
        format!("defib_default_db_4294967296_{mac}"),
        format!("defib_default__1_{mac}"),
        format!("defib_de fault_db_1_{mac}"),
        format!("defib_default_d\u{1b}b_1_{mac}"),
        format!("defib_default_{}_1_{mac}", "x".repeat(254)),
        ring().canary(),
    ];
    for text in texts {
        assert_eq!(ring().verify(&text), Err(KeyError::Malformed), "{text:?}");
    }
}

#[test]
fn the_canary_and_the_agents_cannot_stand_in_for_each_other() {
    let agent = ring().derive("default", "db", 1);
    assert!(ring().verify_canary(&ring().canary()));
    let mac = agent.rsplit('_').next().unwrap();
    for text in [
        agent.clone(),
        format!("defib-canary_{mac}"),
        "defib-canary".into(),
        "defib-canary_".into(),
    ] {
        assert!(!ring().verify_canary(&text));
    }
}

#[test]
fn neither_debug_nor_errors_show_a_secret() {
    let ring = KeyRing::new(master(0), Some(master(100)));
    let key = ring.derive("default", "db", 1);
    let mac = key.rsplit('_').next().unwrap();
    let forged = key.replace("_db_", "_web_");
    let shown = format!(
        "{ring:?} {:?} {:?} {} {}",
        master(0),
        ring.verify(&forged),
        ring.verify(&forged).unwrap_err(),
        ring.verify(&key[1..]).unwrap_err()
    );
    assert!(!shown.contains(mac) && !shown.contains("0, 1, 2"), "{shown}");
}

#[test]
fn a_master_has_exactly_32_bytes() {
    for length in [0, 31, 33] {
        assert_eq!(Master::from_bytes(&vec![0; length]), None);
    }
}
