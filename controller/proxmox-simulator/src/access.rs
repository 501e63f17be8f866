//! Who calls, and what they may do.

mod privileges;
mod token;

use std::collections::BTreeSet;

pub(crate) use token::{AuthError, Identity, authenticate};

use crate::cluster::State;
use crate::config::{Config, Privileges};

/// Top-level paths `/access/permissions` always looks at.
const STANDARD_PATHS: [&str; 8] = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];

/// The privileges of one caller.
#[derive(Debug)]
pub(crate) struct Rights<'a> {
    token: &'a Privileges,
    /// What limits the token, when its user is listed.
    user: Option<&'a Privileges>,
}

impl<'a> Rights<'a> {
    /// The rights of a token; none when it is not configured (any more).
    pub(crate) fn of(config: &'a Config, identity: &Identity) -> Option<Self> {
        let token = &config.tokens.iter().find(|token| token.id == identity.id())?.privs;
        let user = config.users.iter().find(|user| user.id == identity.user()).map(|user| &user.privs);
        Some(Self { token, user })
    }

    /// Whether the caller has any of these privileges on a path.
    pub(crate) fn any(&self, state: &State, path: &str, privileges: &[&str]) -> bool {
        let found = self.effective(state, path);
        privileges.iter().any(|wanted| found.contains(*wanted))
    }

    /// All privileges, per path: what `GET /access/permissions` answers.
    pub(crate) fn all(&self, state: &State) -> Privileges {
        let listed = self.token.keys().chain(self.user.iter().flat_map(|user| user.keys())).cloned();
        let pooled = state.vms.values().filter(|vm| vm.config.pool.is_some());
        let pooled = pooled.map(|vm| format!("/vms/{}", vm.config.vmid));
        let paths = STANDARD_PATHS.into_iter().map(str::to_owned).chain(listed).chain(pooled);
        paths
            .map(|path| {
                let found = self.on(state, &path);
                (path, found)
            })
            .filter(|(_, found)| !found.is_empty())
            .collect()
    }

    /// The privileges on one path.
    pub(crate) fn on(&self, state: &State, path: &str) -> BTreeSet<String> {
        self.effective(state, path).into_iter().map(str::to_owned).collect()
    }

    fn effective(&self, state: &State, path: &str) -> BTreeSet<&'a str> {
        let pool = pool_of(state, path);
        let mut found = privileges::effective(self.token, path, pool);
        if let Some(user) = self.user {
            let limit = privileges::effective(user, path, pool);
            found.retain(|name| limit.contains(name));
        }
        found
    }
}

fn pool_of<'a>(state: &'a State, path: &str) -> Option<&'a str> {
    let vmid = path.strip_prefix("/vms/")?.parse().ok()?;
    state.vms.get(&vmid)?.config.pool.as_deref()
}
