//! One of the two servers: sends the steps to it, and makes of its answers what can be compared.

use crate::steps::{Body, Kind, Step, merge};
use futures::StreamExt;
use http::{Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body as HttpBody;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// An answer: code, reason of a refusal, object. Versions and uids are still those of the server.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub what: String,
    pub code: u16,
    pub reason: String,
    pub body: Value,
}

pub struct Side {
    client: Client,
    namespace: String,
    /// What was said of each object: resourceVersions, the newest last, and the uid.
    seen: BTreeMap<(Kind, String), (Vec<String>, String)>,
}

/// The object whose event is the last of a watch.
const SENTINEL: &str = "zz-sentinel";
/// Pages of a list that are followed.
const PAGES: usize = 20;

impl Side {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            seen: BTreeMap::new(),
        }
    }

    fn path(&self, kind: Kind, name: &str, status: bool) -> String {
        let mut path = format!("{}/namespaces/{}/{}", kind.root(), self.namespace, kind.plural());
        if !name.is_empty() {
            path += &format!("/{name}");
        }
        if status {
            path += "/status";
        }
        path
    }

    async fn send(&mut self, method: &str, path: &str, body: Vec<u8>, partial: bool) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        let content = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        request = request.header(header::CONTENT_TYPE, content);
        if partial {
            let of_list = path.split('?').next().is_some_and(|path| path.ends_with('s'));
            let list = if method == "GET" && of_list { "List" } else { "" };
            let accept = format!("application/json;as=PartialObjectMetadata{list};g=meta.k8s.io;v=v1");
            request = request.header(header::ACCEPT, accept);
        }
        let response = self.client.send(request.body(HttpBody::from(body)).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        (code, body)
    }

    pub async fn run(&mut self, step: &Step) -> Outcome {
        let mut path = if step.everywhere {
            format!("{}/{}", step.kind.root(), step.kind.plural())
        } else {
            self.path(step.kind, &step.name, step.status)
        };
        path += &format!("?{}", step.query.replace("$namespace", &self.namespace));
        let body = match &step.body {
            Body::None => Vec::new(),
            Body::Json(body) => self.filled(step, body).to_string().into_bytes(),
            Body::Current(patch) => {
                let now = self.path(step.kind, &step.name, false);
                let (code, mut object) = self.send("GET", &now, Vec::new(), false).await;
                if code != 200 {
                    object = step.kind.object(&step.name);
                }
                merge(&mut object, patch);
                self.filled(step, &object).to_string().into_bytes()
            }
        };
        let is_list = step.method == "GET" && step.name.is_empty();
        let (code, mut answer) = self.send(step.method, &path, body, step.partial).await;
        if is_list {
            answer = self.pages(&path, answer, step.partial).await;
        }
        let (reason, body) = if code >= 400 {
            (answer["reason"].as_str().unwrap_or_default().to_owned(), Value::Null)
        } else {
            if !step.query.contains("dryRun") {
                self.remember(step.kind, &answer);
            }
            (String::new(), normalized(answer))
        };
        Outcome {
            what: step.to_string(),
            code,
            reason,
            body,
        }
    }

    /// Follows a list to its end: one value for each page.
    async fn pages(&mut self, path: &str, first: Value, partial: bool) -> Value {
        let mut page = first;
        let mut pages = Vec::new();
        loop {
            let token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            pages.push(page);
            if token.is_empty() || pages.len() > PAGES {
                break;
            }
            let next = format!("{path}&continue={token}");
            page = self.send("GET", &next, Vec::new(), partial).await.1;
        }
        if pages.len() == 1 { pages.remove(0) } else { json!(pages) }
    }

    /// The body with what this server said before in place of the words for it.
    fn filled(&self, step: &Step, body: &Value) -> Value {
        match body {
            Value::String(text) => {
                let seen = self.seen.get(&(step.kind, step.name.clone()));
                let keeper = self.seen.get(&(Kind::Secret, "keeper".to_owned()));
                let versions = seen.map(|(versions, _)| versions.as_slice()).unwrap_or_default();
                // What was never there has no version; one that cannot be is the same to both.
                match text.as_str() {
                    "$version" => json!(versions.last().map_or("1", String::as_str)),
                    "$stale" => json!(versions.iter().rev().nth(1).map_or("1", String::as_str)),
                    "$uid" => json!(seen.map_or("1", |(_, uid)| uid.as_str())),
                    "$keeper" => json!(keeper.map_or("1", |(_, uid)| uid.as_str())),
                    _ => body.clone(),
                }
            }
            Value::Array(items) => items.iter().map(|item| self.filled(step, item)).collect(),
            Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), self.filled(step, value))).collect(),
            _ => body.clone(),
        }
    }

    fn remember(&mut self, kind: Kind, object: &Value) {
        let meta = &object["metadata"];
        let (Some(name), Some(version)) = (meta["name"].as_str(), meta["resourceVersion"].as_str()) else {
            return;
        };
        let (versions, uid) = self.seen.entry((kind, name.to_owned())).or_default();
        if versions.last().is_none_or(|last| last != version) {
            versions.push(version.to_owned());
        }
        meta["uid"].as_str().unwrap_or_default().clone_into(uid);
    }

    /// The version of each kind's list now.
    pub async fn versions(&mut self) -> BTreeMap<Kind, String> {
        let mut versions = BTreeMap::new();
        for kind in Kind::ALL {
            let path = self.path(kind, "", false);
            let (_, list) = self.send("GET", &path, Vec::new(), false).await;
            versions.insert(kind, list["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
        }
        versions
    }

    /// Makes an object of each kind that every watch sees.
    pub async fn leave_sentinels(&mut self) {
        for kind in Kind::ALL {
            let mut object = kind.object(SENTINEL);
            object["metadata"]["labels"] = json!({"env": "prod"});
            let path = self.path(kind, "", false);
            let (code, answer) = self.send("POST", &path, object.to_string().into_bytes(), false).await;
            assert_eq!(code, 201, "{answer}");
        }
        let reset = json!({"status": {"currentReset": {
            "name": "last", "holder": "defib-0", "step": 1, "action": "Reset", "attempt": 1, "trigger": "Automatic",
            "intentTime": "2026-01-01T00:00:00Z", "node": "pve1", "recoveryDeadlineSeconds": 600, "stabilizationSeconds": 60,
        }}});
        let path = self.path(Kind::ManagedVm, SENTINEL, true);
        let (code, answer) = self.send("PATCH", &path, reset.to_string().into_bytes(), false).await;
        assert_eq!(code, 200, "{answer}");
    }

    /// What watches see, from those versions to the sentinel, and as a list at the beginning.
    pub async fn watch_all(&mut self, versions: &BTreeMap<Kind, String>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for kind in Kind::ALL {
            let version = &versions[&kind];
            let mut queries = vec![
                format!("resourceVersion={version}"),
                format!("resourceVersion={version}&labelSelector=env%3Dprod"),
                format!("resourceVersion={version}&fieldSelector=metadata.name!%3Da"),
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
            ];
            if kind == Kind::ManagedVm {
                queries.push(format!("resourceVersion={version}&fieldSelector=status.currentReset.name!%3D"));
                queries.push("sendInitialEvents=true".to_owned());
                queries.push("resourceVersion=x".to_owned());
                queries.push("resourceVersionMatch=NotOlderThan".to_owned());
            }
            for query in queries {
                let what = format!("WATCH {} {}", kind.plural(), query.replace(version.as_str(), "(the beginning)"));
                outcomes.push(self.watch(kind, &query, what).await);
            }
        }
        outcomes
    }

    async fn watch(&mut self, kind: Kind, query: &str, what: String) -> Outcome {
        let path = format!("{}?watch=true&allowWatchBookmarks=true&{query}", self.path(kind, "", false));
        let request = Request::get(path).body(HttpBody::empty()).unwrap();
        let response = self.client.send(request).await.unwrap();
        let code = response.status().as_u16();
        if code >= 400 {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            return Outcome {
                what,
                code,
                reason: answer["reason"].as_str().unwrap_or_default().to_owned(),
                body: Value::Null,
            };
        }
        let mut events = Vec::new();
        let mut body = response.into_body().into_data_stream();
        let mut received = Vec::new();
        let initial = query.contains("sendInitialEvents");
        let until_the_end = async {
            while let Some(bytes) = body.next().await {
                received.extend_from_slice(&bytes.unwrap());
                while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = received.drain(..=end).collect();
                    let event: Value = serde_json::from_slice(&line).unwrap();
                    let meta = &event["object"]["metadata"];
                    let ends_list = meta["annotations"]["k8s.io/initial-events-end"] == "true";
                    let is_bookmark = event["type"] == "BOOKMARK";
                    let is_last = if initial { ends_list } else { meta["name"] == SENTINEL };
                    if ends_list {
                        events.push(json!("the end of the list"));
                    } else if !is_bookmark {
                        events.push(json!({ "type": event["type"], "object": normalized(event["object"].clone()) }));
                    }
                    if is_last || event["type"] == "ERROR" {
                        return;
                    }
                }
            }
        };
        if timeout(Duration::from_secs(30), until_the_end).await.is_err() {
            events.push(json!("nothing more for 30 s"));
        }
        Outcome {
            what,
            code,
            reason: String::new(),
            body: json!(events),
        }
    }
}

/// An answer without what is different on every server.
fn normalized(mut answer: Value) -> Value {
    normalize(&mut answer);
    answer
}

fn normalize(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(fields) => {
            if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
                meta.remove("managedFields");
                for time in ["creationTimestamp", "deletionTimestamp"] {
                    if meta.get(time).is_some_and(|t| !t.is_null()) {
                        meta.insert(time.into(), json!("(time)"));
                    }
                }
                if meta.get("continue").is_some_and(|token| token != "") {
                    meta.insert("continue".into(), json!("(more)"));
                }
                if meta
                    .get("name")
                    .and_then(Value::as_str)
                    .is_some_and(|name| name.starts_with("gen-"))
                {
                    meta.insert("name".into(), json!("gen-(suffix)"));
                }
            }
            if let Some(Value::Array(items)) = fields.get_mut("items") {
                items.iter_mut().for_each(normalize);
            }
            let is_list = fields
                .get("kind")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.ends_with("List"));
            if is_list {
                // The version of a list is that of the whole server, where others write too.
                fields["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                // Which of several generated names comes first is chance.
                if fields["items"].to_string().contains("gen-(suffix)") {
                    fields["items"].as_array_mut().unwrap().sort_by_key(|item| {
                        let version = item["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
                        version.unwrap_or(0)
                    });
                }
            }
        }
        _ => {}
    }
}
