//! Our own reports: to our own listener, and through the public URL as agents report. Each goes the whole way of an agent's, over a new connection as most agents
//! make one, and counts only when it has come to this process: what else may answer on the way (the default page of an ingress, a sign-in, another Defib) cannot
//! know of it.

use super::RunError;
use crate::assembly::Keys;
use crate::heartbeat::receiver::canary_report;
use crate::heartbeat::serving::Serving;
use crate::observer::Witness;
use http::header;
use reqwest::{Certificate, Client, redirect};
use ring::rand::{SecureRandom, SystemRandom};
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whoever waits for a report gives up earlier; this ends the request too.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most characters of what went wrong that are told.
const MAX_WHY: usize = 300;

/// Sends our own reports.
#[derive(Clone)]
pub struct Canary {
    url: String,
    trust: Trust,
    keys: Keys,
    serving: Serving,
    witness: Witness,
}

/// Whose certificates are believed.
#[derive(Clone)]
enum Trust {
    /// Anybody's: it is our own listener, by an address that its certificate need not name.
    Ourselves(Client),
    /// Those of the authorities that this system trusts, and of the one in a file.
    System(Arc<Mutex<Known>>),
}

/// The file of the authority, with the client that was made of its bytes: it is read each time, as its Secret may be renewed.
struct Known {
    file: Option<PathBuf>,
    made: Option<(Vec<u8>, Client)>,
}

impl Canary {
    /// Reports to our own listener.
    ///
    /// # Errors
    /// When there can be no client.
    pub fn to_listener(url: String, keys: Keys, serving: Serving, witness: Witness) -> Result<Self, RunError> {
        let client = builder().tls_danger_accept_invalid_certs(true).build();
        let client = client.map_err(|e| RunError::Setting(format!("cannot make the client of our own report: {e}")))?;
        Ok(Self {
            url,
            trust: Trust::Ourselves(client),
            keys,
            serving,
            witness,
        })
    }

    /// Reports through the public URL.
    ///
    /// # Errors
    /// When the file of its authority cannot be used.
    pub fn through(url: String, ca_file: Option<PathBuf>, keys: Keys, serving: Serving, witness: Witness) -> Result<Self, RunError> {
        let trust = Trust::System(Arc::new(Mutex::new(Known { file: ca_file, made: None })));
        trust.client().map_err(|e| RunError::Setting(format!("--public-url: {e}")))?;
        Ok(Self {
            url,
            trust,
            keys,
            serving,
            witness,
        })
    }

    /// Where they go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends one. `Ok(false)`: there was nothing to prove, as no report would be taken now.
    ///
    /// # Errors
    /// What was in its way.
    pub async fn report(self) -> Result<bool, String> {
        if !self.serving.is_serving() {
            // A report would be turned away for want of the lease, which says nothing about the way to us.
            return Ok(false);
        }
        let id = id()?;
        let key = self.keys.borrow().canary();
        let sent = self
            .trust
            .client()?
            .post(&self.url)
            .bearer_auth(key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(canary_report(&id))
            .send()
            .await;
        match sent {
            Ok(answer) if !answer.status().is_success() && !self.serving.is_serving() => Ok(false),
            Ok(answer) if !answer.status().is_success() => Err(format!("it was answered {}", answer.status())),
            Ok(_) if !self.witness.has_arrived(&id) => {
                Err("it was answered, and did not come to this process: somebody else answers there".into())
            }
            Ok(_) => Ok(true),
            Err(error) => Err(why(&error.without_url())),
        }
    }
}

impl Trust {
    fn client(&self) -> Result<Client, String> {
        match self {
            Self::Ourselves(client) => Ok(client.clone()),
            Self::System(known) => known.lock().unwrap_or_else(PoisonError::into_inner).client(),
        }
    }
}

impl Known {
    fn client(&mut self) -> Result<Client, String> {
        let pem = self.file.as_deref().map_or_else(|| Ok(Vec::new()), read)?;
        if let Some((of, client)) = &self.made
            && *of == pem
        {
            return Ok(client.clone());
        }
        let mut builder = builder();
        if let Some(file) = &self.file {
            let unusable = |e: String| format!("{} holds no usable certificate in PEM: {e}", file.display());
            let authorities = Certificate::from_pem_bundle(&pem).map_err(|e| unusable(why(&e)))?;
            if authorities.is_empty() {
                return Err(unusable("there is none in it".into()));
            }
            builder = builder.tls_certs_merge(authorities);
        }
        let client = builder.build().map_err(|e| why(&e))?;
        self.made = Some((pem, client.clone()));
        Ok(client)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))
}

/// As agents: no proxy that this process may need for other things, and no redirects, which would carry the key.
fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .timeout(DEADLINE)
}

/// A new id that nobody can guess.
fn id() -> Result<String, String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system gives no random bytes".to_owned())?;
    let mut id = String::with_capacity(32);
    for byte in bytes {
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

/// An error with its causes: the outermost says only that a request failed.
fn why(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    match text.char_indices().nth(MAX_WHY) {
        Some((end, _)) => text[..end].into(),
        None => text,
    }
}

#[cfg(test)]
mod tests;
