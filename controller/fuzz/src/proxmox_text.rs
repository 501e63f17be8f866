//! Short texts of Proxmox, and of people about it: UPIDs, exit and run states, endpoints, tokens, fingerprints, certificates.

use crate::assert_shown;
use crate::proxmox_answer::round_trip;
use defib_proxmox::{ApiToken, Client, Config, Endpoint, Fingerprint, RunState, TaskExit, Trust, Upid};

/// Each is read, and where it has one meaning written and read back as the same.
pub(crate) fn check(input: &[u8]) {
    let lossy = String::from_utf8_lossy(input);
    let text = lossy.as_ref();
    match text.parse::<Upid>() {
        Ok(upid) => {
            assert_eq!(upid.as_str(), text, "a UPID is kept as it came");
            round_trip(&upid);
        }
        Err(error) => assert_shown("an error", &error.to_string(), 100),
    }

    let exit = TaskExit::parse(text);
    assert_shown("an exit status", &exit.to_string(), 512);
    assert_eq!(exit, TaskExit::parse(text));
    if let TaskExit::Ok | TaskExit::Warnings(_) | TaskExit::Unexpected | TaskExit::Locked { .. } = exit {
        assert_eq!(TaskExit::parse(&exit.to_string()), exit);
    }

    let state = RunState::parse(text);
    assert_shown("a state", state.as_str(), 512);
    assert_eq!(RunState::parse(state.as_str()), state);

    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(
            endpoint.to_string().parse::<Endpoint>().map(|e| e.to_string()),
            Ok(endpoint.to_string())
        );
        let authority = endpoint.authority();
        assert!(!authority.contains(['/', '@', '?', '#']), "{authority}");
        assert_shown("an authority", authority, 300);
    }
    token(text);
    certificates(input);
}

fn token(text: &str) {
    let (id, secret) = text.split_once('\n').unwrap_or((text, "a-secret-of-its-own"));
    let made = ApiToken::new(id, secret);
    match &made {
        Ok(token) => {
            assert_eq!(token.id(), id.trim());
            assert_eq!(ApiToken::new(token.id(), secret.trim()), made);
            // As in a UPID, where it stands between two colons.
            assert!(!token.id().contains([':', '/', '=']) && token.id().is_ascii());
        }
        Err(error) => {
            let shown = error.to_string();
            let secret = secret.trim();
            assert!(secret.len() < 32 || id.contains(secret) || !shown.contains(secret), "{shown}");
        }
    }
}

fn certificates(input: &[u8]) {
    let marker = b"-----BEGIN";
    if !input.windows(marker.len()).any(|w| w == marker) {
        return;
    }
    let endpoint = "https://127.0.0.1:8006".parse::<Endpoint>();
    let token = ApiToken::new("svc@pve!ctl", "a-secret");
    if let (Ok(endpoint), Ok(token)) = (endpoint, token)
        && let Err(error) = Client::new(Config::new(vec![endpoint], token, Trust::Ca(input.to_vec())))
    {
        assert!(!error.to_string().is_empty());
    }
}
