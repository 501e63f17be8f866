//! Keys of agents. They are derived from one master, not stored: no list of keys can leak, be lost or grow.
//!
//! The text of a key is `defib_<namespace>_<name>_<generation>_<mac>`, where `mac` is an HMAC-SHA256 in lower-case hex. Kubernetes names contain no
//! underscore, so the text has one reading only.

mod secret;

pub use secret::{KeysError, SECRET_NAME, load, refresh};

use super::VmKey;
use ring::hmac;
use std::fmt;

/// First part of each agent's key, so that secret scanners and people recognise one.
const AGENT_PREFIX: &str = "defib";
/// First part of the canary's key.
const CANARY_PREFIX: &str = "defib-canary";
/// Length of an HMAC-SHA256 in hex.
const MAC_HEX_LEN: usize = 64;
/// Longest name of a Kubernetes object.
const MAX_NAME: usize = 253;

/// What a MAC is for. A MAC made for one purpose is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Key of the agent in a VM.
    Agent,
    /// Key of the controller's own report to itself.
    Canary,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Agent => "defib.dev/agent-key/v1",
            Self::Canary => "defib.dev/canary-key/v1",
        }
    }
}

/// A master: 32 random bytes from which keys are derived.
#[derive(Clone, PartialEq, Eq)]
pub struct Master([u8; Master::LEN]);

impl Master {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// A master of these bytes; none when they are not exactly [`Master::LEN`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn mac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master(redacted)")
    }
}

/// The master in force, and the one before it while agents move to their new keys.
#[derive(Clone)]
pub struct KeyRing {
    current: Secret,
    previous: Option<Secret>,
}

/// A master and its expanded form, which saves two hash blocks a report.
#[derive(Clone)]
struct Secret {
    master: Master,
    mac_key: hmac::Key,
}

impl From<Master> for Secret {
    fn from(master: Master) -> Self {
        Self {
            mac_key: master.mac_key(),
            master,
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = if self.previous.is_some() { "redacted" } else { "none" };
        write!(f, "KeyRing {{ current: redacted, previous: {previous} }}")
    }
}

impl PartialEq for KeyRing {
    fn eq(&self, other: &Self) -> bool {
        let masters = |ring: &Self| {
            let previous = ring.previous.as_ref().map(|s| s.master.clone());
            (ring.current.master.clone(), previous)
        };
        masters(self) == masters(other)
    }
}

/// What a right key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The VM whose agent may use it.
    pub vm: VmKey,
    /// Its generation, at least 1. Whether that generation is still valid is told by the VM's spec.
    pub generation: u32,
}

/// Why a key is wrong. The key itself is never part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no key of Defib.
    #[error("this is not a key of Defib; a key has the form defib_<namespace>_<name>_<generation>_<64 hex digits>")]
    Malformed,
    /// It has the form of a key and names a VM, but no master of ours made it.
    #[error("the key names {0} but was not made by this Defib; fetch the present key of the VM")]
    WrongSecret(VmKey),
}

impl KeyRing {
    /// A ring of the master in force and, while rotating, the one before.
    pub fn new(current: Master, previous: Option<Master>) -> Self {
        Self {
            current: current.into(),
            previous: previous.map(Secret::from),
        }
    }

    /// The key of the agent of a VM, made with the master in force.
    pub fn derive(&self, namespace: &str, name: &str, generation: u32) -> String {
        let digits = generation.to_string();
        let message = message(Purpose::Agent, &[namespace, name, &digits]);
        let mac = hmac::sign(&self.current.mac_key, &message);
        format!("{AGENT_PREFIX}_{namespace}_{name}_{digits}_{}", to_hex(mac.as_ref()))
    }

    /// Checks the key of an agent, in constant time where it matters.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the text is no key, [`KeyError::WrongSecret`] when it names a VM but no master of the ring made it.
    pub fn verify(&self, text: &str) -> Result<Claim, KeyError> {
        let mut parts = text.split('_');
        let (Some(AGENT_PREFIX), Some(namespace), Some(name), Some(digits), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Malformed);
        };
        let mac = from_hex(mac).ok_or(KeyError::Malformed)?;
        let generation = parse_generation(digits).ok_or(KeyError::Malformed)?;
        if !is_name(namespace) || !is_name(name) {
            return Err(KeyError::Malformed);
        }
        let vm = VmKey::new(namespace, name);
        if self.made(Purpose::Agent, &[namespace, name, digits], &mac) {
            Ok(Claim { vm, generation })
        } else {
            Err(KeyError::WrongSecret(vm))
        }
    }

    /// The key with which the controller reports to its own listener, to see that a report would get through. It opens no VM.
    pub fn canary(&self) -> String {
        let mac = hmac::sign(&self.current.mac_key, &message(Purpose::Canary, &[]));
        format!("{CANARY_PREFIX}_{}", to_hex(mac.as_ref()))
    }

    /// Whether `text` is the canary's key.
    pub fn verify_canary(&self, text: &str) -> bool {
        text.split_once('_')
            .filter(|(prefix, _)| *prefix == CANARY_PREFIX)
            .and_then(|(_, mac)| from_hex(mac))
            .is_some_and(|mac| self.made(Purpose::Canary, &[], &mac))
    }

    fn made(&self, purpose: Purpose, parts: &[&str], mac: &[u8]) -> bool {
        let message = message(purpose, parts);
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|secret| hmac::verify(&secret.mac_key, &message, mac).is_ok())
    }
}

/// What is signed: the purpose and each part, each with its length before it, so that no two lists of parts have the same bytes.
fn message(purpose: Purpose, parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    for part in std::iter::once(purpose.label()).chain(parts.iter().copied()) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// A generation as [`KeyRing::derive`] writes it: decimal, from 1, without leading zeros, so that each key has one text.
fn parse_generation(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

/// Whether Kubernetes would take it as the name of an object. What is no name must not reach a log or a look-up.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != MAC_HEX_LEN {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests;
