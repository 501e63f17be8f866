//! API tokens on the wire.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use jiff::Timestamp;

use crate::config::{Config, Dialect};
use crate::http::percent_decode;

/// The caller: an API token whose secret was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    id: String,
    separator: usize,
}

impl Identity {
    /// `user@realm!name`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// `user@realm`.
    pub(crate) fn user(&self) -> &str {
        self.id.get(..self.separator).unwrap_or(&self.id)
    }
}

/// Why a request is answered 401: the reason phrase.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AuthError(pub(crate) String);

/// Finds out who calls. Tickets are not issued here, so one is never valid.
pub(crate) fn authenticate(config: &Config, headers: &HeaderMap) -> Result<Identity, AuthError> {
    let legacy = config.dialect == Dialect::Legacy;
    let refused = |text: &str| Err(AuthError(if legacy { text } else { "Authentication failed!" }.to_owned()));
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = header(AUTHORIZATION);
    // A ticket takes precedence over a token, even when it is bad.
    if value_of(header(COOKIE), "PVEAuthCookie")
        .or_else(|| value_of(authorization, "PVEAuthCookie"))
        .is_some()
    {
        return refused("permission denied - invalid PVE ticket");
    }
    let Some(value) = value_of(authorization, "PVEAPIToken") else {
        return Err(AuthError("No ticket".to_owned()));
    };
    let parts = value.split_once('=').and_then(|(id, secret)| Some((id, secret, id.find('!')?)));
    let Some((id, secret, separator)) = parts else {
        return refused("no tokenid specified");
    };
    let Some(token) = config.tokens.iter().find(|token| token.id == id) else {
        let (user, name) = id.split_once('!').unwrap_or((id, ""));
        return refused(&format!("no such token '{name}' for user '{user}'"));
    };
    if token.secret.reveal() != secret {
        return refused("invalid token value!");
    }
    if token.expire != 0 && token.expire < Timestamp::now().as_second() {
        let name = id.split_once('!').map_or("", |(_, name)| name);
        return refused(&format!("token '{name}' access expired"));
    }
    Ok(Identity {
        id: id.to_owned(),
        separator,
    })
}

/// The value after `KEY=` or `KEY ` at the start or after white space, up to a semicolon.
fn value_of(header: &str, key: &str) -> Option<String> {
    header.match_indices(key).find_map(|(at, _)| {
        let before = header.get(..at)?.chars().next_back();
        let value = header.get(at + key.len()..)?.strip_prefix(['=', ' '])?;
        let value = value.split(';').next().filter(|value| !value.is_empty())?;
        before.is_none_or(char::is_whitespace).then(|| percent_decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, TokenConfig};

    fn config(dialect: Dialect) -> Config {
        let token = |id: &str, expire| TokenConfig {
            id: id.to_owned(),
            secret: Secret::new("s3cret"),
            privs: Default::default(),
            expire,
        };
        Config {
            dialect,
            tokens: vec![token("svc@pve!ctl", 0), token("svc@pve!old", 1)],
            ..Config::default()
        }
    }

    fn with(dialect: Dialect, name: http::HeaderName, value: &str) -> Result<String, String> {
        let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        authenticate(&config(dialect), &headers)
            .map(|found| found.id().to_owned())
            .map_err(|error| error.0)
    }

    #[test]
    fn tokens_are_read_in_every_accepted_spelling() {
        for value in [
            "PVEAPIToken=svc@pve!ctl=s3cret",
            "PVEAPIToken svc@pve!ctl=s3cret",
            "PVEAPIToken=svc%40pve%21ctl=s3cret",
            "Whatever PVEAPIToken=svc@pve!ctl=s3cret; more",
        ] {
            assert_eq!(
                with(Dialect::Current, AUTHORIZATION, value),
                Ok("svc@pve!ctl".to_owned()),
                "{value}"
            );
        }
    }

    #[test]
    fn refusals_say_nothing_now_and_too_much_before() {
        let cases = [
            ("PVEAPIToken=svc@pve!ctl=wrong", "invalid token value!"),
            ("PVEAPIToken=svc@pve!nope=s3cret", "no such token 'nope' for user 'svc@pve'"),
            ("PVEAPIToken=svc@pve!old=s3cret", "token 'old' access expired"),
        ];
        for (value, legacy) in cases {
            assert_eq!(with(Dialect::Legacy, AUTHORIZATION, value), Err(legacy.to_owned()));
            assert_eq!(
                with(Dialect::Current, AUTHORIZATION, value),
                Err("Authentication failed!".to_owned())
            );
        }
        assert_eq!(with(Dialect::Current, AUTHORIZATION, "Bearer x"), Err("No ticket".to_owned()));
        assert_eq!(
            with(Dialect::Current, COOKIE, "PVEAuthCookie=PVE:x"),
            Err("Authentication failed!".to_owned())
        );
    }

    #[test]
    fn a_token_knows_its_user() {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "PVEAPIToken=svc@pve!ctl=s3cret".parse().unwrap())]);
        assert_eq!(authenticate(&config(Dialect::Current), &headers).unwrap().user(), "svc@pve");
    }
}
