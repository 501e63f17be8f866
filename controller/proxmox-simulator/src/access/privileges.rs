//! How access control entries add up to privileges.

use std::collections::BTreeSet;

use crate::config::Privileges;

/// The privileges on a path. The deepest entry on the way to it counts and replaces those above it;
/// a VM gets what its pool grants on top.
pub(crate) fn effective<'a>(granted: &'a Privileges, path: &str, pool: Option<&str>) -> BTreeSet<&'a str> {
    let mut found = deepest(granted, path);
    if let Some(pool) = pool {
        found.extend(deepest(granted, &format!("/pool/{pool}")));
    }
    found
}

fn deepest<'a>(granted: &'a Privileges, path: &str) -> BTreeSet<&'a str> {
    let mut at = path;
    loop {
        if let Some(names) = granted.get(at) {
            return names.iter().map(String::as_str).collect();
        }
        at = match at.rsplit_once('/') {
            None => return BTreeSet::new(),
            Some(("", "")) => return BTreeSet::new(),
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(entries: &[(&str, &[&str])]) -> Privileges {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        entries.iter().map(|(path, names)| ((*path).to_owned(), set(names))).collect()
    }

    #[test]
    fn a_deeper_entry_replaces_a_higher_one() {
        let granted = granted(&[("/", &["Sys.Audit", "VM.Audit"]), ("/vms/101", &["VM.PowerMgmt"])]);
        assert_eq!(effective(&granted, "/vms/101", None), BTreeSet::from(["VM.PowerMgmt"]));
        assert_eq!(effective(&granted, "/vms/102", None), BTreeSet::from(["Sys.Audit", "VM.Audit"]));
        assert_eq!(effective(&granted, "/", None), BTreeSet::from(["Sys.Audit", "VM.Audit"]));
    }

    #[test]
    fn a_pool_grants_its_members() {
        let granted = granted(&[("/pool/managed", &["VM.Audit"]), ("/vms/101", &["VM.PowerMgmt"])]);
        assert_eq!(
            effective(&granted, "/vms/101", Some("managed")),
            BTreeSet::from(["VM.Audit", "VM.PowerMgmt"])
        );
        assert_eq!(effective(&granted, "/vms/102", Some("other")), BTreeSet::new());
    }

    #[test]
    fn an_empty_entry_takes_everything_away() {
        let granted = granted(&[("/", &["VM.Audit"]), ("/vms/101", &[])]);
        assert!(effective(&granted, "/vms/101", None).is_empty());
    }
}
