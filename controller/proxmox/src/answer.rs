//! An HTTP answer of Proxmox, and what its status line and body mean.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Extensions, HeaderMap, StatusCode, header};
use hyper::ext::ReasonPhrase;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Vmid;
use crate::config::ApiToken;
use crate::error::Error;
use crate::loose::Loose;
use crate::text::clean;
use crate::upid::Upid;

/// Most faulty parameters an error names.
const MAX_FAULTS: usize = 16;

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Who answered.
    pub(crate) endpoint: String,
    pub(crate) status: StatusCode,
    /// The reason phrase; where that is empty or the standard one, the message of the body. First
    /// line only, cleaned, without the token's secret.
    pub(crate) reason: String,
    pub(crate) date: Option<Timestamp>,
    pub(crate) body: Bytes,
    /// Faulty parameters and what is wrong with each.
    pub(crate) errors: BTreeMap<String, String>,
}

/// What was asked: it completes what the texts of Proxmox leave out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a str,
    pub(crate) node: Option<&'a str>,
    pub(crate) vmid: Option<Vmid>,
    pub(crate) upid: Option<&'a Upid>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    message: Option<Loose>,
    #[serde(default)]
    errors: Option<BTreeMap<String, Loose>>,
}

impl Answer {
    /// From the head of a response, in whatever library's type, and its body.
    pub(crate) fn new(
        endpoint: &str,
        status: StatusCode,
        headers: &HeaderMap,
        extensions: &Extensions,
        body: Bytes,
        token: &ApiToken,
    ) -> Self {
        let said = |text: &str| clean(&token.redact(text.to_owned()));
        let error: ErrorBody = if status.is_success() {
            ErrorBody::default()
        } else {
            serde_json::from_slice(&body).unwrap_or_default()
        };
        // hyper keeps a phrase only when it is not the standard one, and empties it when it is not
        // ASCII. Before 5.2.0 (January 2025) the server puts the text nowhere but there.
        let phrase = extensions
            .get::<ReasonPhrase>()
            .and_then(|phrase| std::str::from_utf8(phrase.as_bytes()).ok())
            .map(said)
            .filter(|phrase| !phrase.is_empty());
        let message = || match error.message {
            Some(Loose::Text(text)) => text.lines().next().map(said).filter(|line| !line.is_empty()),
            _ => None,
        };
        let standard = || status.canonical_reason().unwrap_or("without a reason").to_owned();
        let fault = |(name, fault): (String, Loose)| Some((said(&name), said(&fault.into_text()?)));
        Self {
            endpoint: endpoint.to_owned(),
            status,
            reason: phrase.or_else(message).unwrap_or_else(standard),
            date: headers.get(header::DATE).and_then(|value| http_date(value.to_str().ok()?)),
            errors: error
                .errors
                .unwrap_or_default()
                .into_iter()
                .filter_map(fault)
                .take(MAX_FAULTS)
                .collect(),
            body,
        }
    }

    /// The `data` of a success.
    pub(crate) fn data<T: DeserializeOwned>(&self, asked: Asked<'_>) -> Result<T, Error> {
        if self.status != StatusCode::OK {
            return Err(self.to_error(asked));
        }
        let envelope: Envelope<T> = serde_json::from_slice(&self.body).map_err(|error| Error::InvalidAnswer {
            path: asked.path.to_owned(),
            // Only where and what kind: serde's own text quotes the answer.
            detail: format!(
                "{:?} error in JSON at line {} column {}",
                error.classify(),
                error.line(),
                error.column()
            ),
        })?;
        Ok(envelope.data)
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> ApiToken {
        ApiToken::new("svc@pve!ctl", "12345678-secret").unwrap()
    }

    pub(crate) fn answer(status: u16, phrase: Option<&'static str>, body: &[u8]) -> Answer {
        let mut extensions = Extensions::new();
        if let Some(phrase) = phrase {
            extensions.insert(ReasonPhrase::from_static(phrase.as_bytes()));
        }
        let status = StatusCode::from_u16(status).unwrap();
        Answer::new(
            "pve1:8006",
            status,
            &HeaderMap::new(),
            &extensions,
            Bytes::copy_from_slice(body),
            &token(),
        )
    }

    pub(crate) const ASKED: Asked<'_> = Asked {
        path: "/nodes/pve1/qemu/100/status/current",
        node: Some("pve1"),
        vmid: Some(100),
        upid: None,
    };

    #[test]
    fn the_message_stands_in_for_a_missing_phrase() {
        let body = br#"{"data":null,"message":"VM 100 not running\nmore\n"}"#;
        for phrase in [None, Some("")] {
            let error = answer(500, phrase, body).to_error(ASKED);
            assert_eq!(error, Error::NotRunning { vmid: Some(100) }, "{phrase:?}");
        }
        assert_eq!(answer(500, None, b"<html>").reason, "Internal Server Error");
        assert_eq!(answer(597, Some(""), b"").reason, "without a reason");
    }

    #[test]
    fn a_secret_that_a_server_sends_back_is_not_passed_on() {
        let body = br#"{"message":"bad header PVEAPIToken=svc@pve!ctl=12345678-secret"}"#;
        let error = answer(500, None, body).to_error(ASKED);
        assert!(!format!("{error} {error:?}").contains("12345678-secret"), "{error:?}");
        let error = answer(401, Some("got 12345678-secret"), b"").to_error(ASKED);
        assert!(!format!("{error} {error:?}").contains("12345678-secret"), "{error:?}");
    }

    #[test]
    fn reads_the_date_header() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().as_second(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(
            status in 200u16..600,
            body in prop::collection::vec(any::<u8>(), 0..200),
            text in any::<String>(),
        ) {
            let said = answer(status, None, &body);
            let _ = said.data::<Vec<Loose>>(ASKED);
            let _ = said.to_error(ASKED).to_string();
            let _ = http_date(&text);
        }

        #[test]
        fn json_of_any_shape_is_taken(json in json_value()) {
            let body = serde_json::json!({ "data": json, "message": json, "errors": { "upid": json } }).to_string();
            let said = answer(500, None, body.as_bytes());
            let error = said.to_error(ASKED);
            prop_assert!(error.to_string().chars().count() < 2000);
            let said = answer(200, None, body.as_bytes());
            let _ = said.data::<Vec<crate::vm::ResourceRow>>(ASKED).map(|rows| {
                rows.into_iter().filter_map(crate::vm::ResourceRow::into_resource).count()
            });
            let _ = said.data::<crate::vm::VmStatusBody>(ASKED).map(crate::vm::VmStatusBody::into_status);
            let _ = said.data::<crate::vm_config::VmConfigBody>(ASKED).map(crate::vm_config::VmConfigBody::into_config);
            let _ = said.data::<Vec<crate::cluster::ClusterRow>>(ASKED).map(crate::cluster::ClusterStatus::from_rows);
            let _ = said.data::<Vec<crate::task::TaskRow>>(ASKED).map(|rows| {
                rows.into_iter().filter_map(crate::task::TaskRow::into_entry).count()
            });
            let _ = said.data::<crate::task::TaskStatusBody>(ASKED).map(crate::task::TaskStatusBody::into_status);
        }
    }

    /// JSON whose objects use the names the API uses, with values of any kind.
    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let name = prop::sample::select(vec![
            "vmid",
            "type",
            "node",
            "name",
            "status",
            "uptime",
            "lock",
            "tags",
            "template",
            "ha",
            "managed",
            "state",
            "pid",
            "running-qemu",
            "qmpstatus",
            "smbios1",
            "reboot",
            "meta",
            "agent",
            "upid",
            "endtime",
            "exitstatus",
            "quorate",
            "ip",
            "local",
            "netin",
            "diskwrite",
        ]);
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            prop::sample::select(vec!["qemu", "node", "cluster", "running", "stopped", "pve1", "uuid=,"]).prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 48, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(name.clone(), inner, 0..8).prop_map(|map| map
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }
}
