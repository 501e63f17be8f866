//! Keys of agents: the text after `Bearer`, or the field `key` of a report.

use defib::heartbeat::keys::{KeyError, KeyRing, Master};
use std::sync::LazyLock;

/// Masters that everybody may know, so that the corpus can hold keys that are right.
static RINGS: LazyLock<Option<[KeyRing; 3]>> = LazyLock::new(|| {
    let new = Master::from_bytes(b"a master that fuzz targets alone")?;
    let old = Master::from_bytes(b"the master that was before it ..")?;
    Some([
        KeyRing::new(new.clone(), Some(old.clone())),
        KeyRing::new(new, None),
        KeyRing::new(old, None),
    ])
});

/// A key that is taken is to the byte the one that was issued; whatever is changed in one, it is refused.
pub(crate) fn check(input: &[u8]) {
    assert!(RINGS.is_some());
    let (Some([both, new, old]), Ok(text)) = (&*RINGS, std::str::from_utf8(input)) else {
        return;
    };
    let verdict = both.verify(text);
    match &verdict {
        Ok(claim) => {
            let issued = |ring: &KeyRing| ring.derive(claim.vm.namespace(), claim.vm.name(), claim.generation);
            assert!(text == issued(new) || text == issued(old), "{text} was never issued");
            assert!(claim.generation > 0);
            assert!(!both.verify_canary(text));
        }
        Err(KeyError::WrongSecret(vm)) => {
            for name in [vm.namespace(), vm.name()] {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
                assert!(
                    (1..=253).contains(&name.len()) && name.bytes().all(plain),
                    "{name:?} would reach a log"
                );
                assert!(text.contains(name));
            }
        }
        Err(KeyError::Malformed) => {}
    }
    if let Err(error) = &verdict {
        let mac = text.rsplit('_').next().unwrap_or_default();
        assert!(mac.len() < 64 || !error.to_string().contains(mac), "the error shows the key");
    }
    if both.verify_canary(text) {
        assert!(text == new.canary() || text == old.canary());
    }
    changed(both, new, input, text);
}

/// The input as a name of a VM: its key opens that VM alone, and with one character changed none.
fn changed(both: &KeyRing, new: &KeyRing, input: &[u8], text: &str) {
    let mut words = text.split(['_', '/']);
    let (namespace, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let generation = input
        .iter()
        .fold(1u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(*b)))
        .max(1);
    let key = new.derive(namespace, name, generation);
    let Ok(claim) = both.verify(&key) else {
        return;
    };
    assert_eq!(
        (claim.vm.namespace(), claim.vm.name(), claim.generation),
        (namespace, name, generation)
    );
    let at = usize::try_from(generation).unwrap_or_default() % key.len();
    let mut forged = key.into_bytes();
    if let Some(byte) = forged.get_mut(at) {
        *byte = if *byte == b'0' { b'1' } else { b'0' };
    }
    if let Ok(forged) = String::from_utf8(forged) {
        assert!(both.verify(&forged).is_err(), "{forged} was never issued");
    }
}
