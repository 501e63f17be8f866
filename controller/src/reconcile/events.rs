//! Kubernetes events: a courtesy to people. Conditions and VMResets are the record.

use super::kube_api::DEADLINE;
use defib_api::{ManagedVM, VMReset};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use std::sync::{Mutex, PoisonError};

/// Most bytes of an event's note that the API takes.
const NOTE: usize = 1024;

/// Events of which the recorder keeps a copy, to count repetitions. It goes through all of them with each new event, and keeps each for six minutes: a fleet of
/// thousands that starts would be in memory twice.
const REMEMBERED: u32 = 256;

/// Publishes events.
pub struct Events {
    client: Client,
    reporter: Reporter,
    /// And how many events it has published.
    recorder: Mutex<(Recorder, u32)>,
}

impl Events {
    /// Publishes in the name of `reporter`.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self {
            client,
            reporter,
            recorder: Mutex::new((recorder, 0)),
        }
    }

    /// Publishes an event, and logs it. A failure is logged only.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, about: &K, kind: EventType, reason: &str, note: &str) {
        self.publish_with(about, None, kind, reason, note).await;
    }

    /// The same of one of its VMResets. A repetition keeps the words of the first event: without the VMReset in it, those of the second attempt would be lost.
    pub async fn publish_of(&self, vm: &ManagedVM, reset: &str, kind: EventType, reason: &str, note: &str) {
        let reset = ObjectReference {
            api_version: Some(VMReset::api_version(&()).into_owned()),
            kind: Some(VMReset::kind(&()).into_owned()),
            namespace: vm.namespace(),
            name: Some(reset.to_owned()),
            ..ObjectReference::default()
        };
        self.publish_with(vm, Some(reset), kind, reason, note).await;
    }

    async fn publish_with<K>(&self, about: &K, secondary: Option<ObjectReference>, kind: EventType, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let reference: ObjectReference = about.object_ref(&());
        let name = format!("{}/{}", about.namespace().unwrap_or_default(), about.name_any());
        match kind {
            EventType::Normal => tracing::info!(object = name, reason, "{note}"),
            EventType::Warning => tracing::warn!(object = name, reason, "{note}"),
        }
        let event = Event {
            type_: kind,
            reason: reason.into(),
            note: Some(note[..note.floor_char_boundary(NOTE)].into()),
            action: reason.into(),
            secondary,
        };
        let published = tokio::time::timeout(DEADLINE, self.recorder().publish(&event, &reference)).await;
        match published {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(object = name, reason, %error, "cannot publish the event"),
            Err(_) => tracing::warn!(object = name, reason, "cannot publish the event: no answer"),
        }
    }

    /// The recorder for one event. When it has seen its number, a new one takes its place: a repetition then begins a new event instead of a count.
    fn recorder(&self) -> Recorder {
        let mut guard = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let (recorder, seen) = &mut *guard;
        if *seen >= REMEMBERED {
            *recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            *seen = 0;
        }
        *seen += 1;
        recorder.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "the helpers of tests fail their test")]

    use super::*;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use std::sync::Arc;

    type Calls = Arc<Mutex<Vec<(Method, serde_json::Value)>>>;

    /// An API server that takes everything.
    fn events() -> (Events, Calls) {
        let calls = Calls::default();
        let seen = calls.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let seen = seen.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                seen.lock().unwrap().push((method, serde_json::from_slice(&body).unwrap()));
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(body.to_vec())))
            }
        });
        let reporter = Reporter {
            controller: "defib".into(),
            instance: None,
        };
        (Events::new(Client::new(service, "vms"), reporter), calls)
    }

    fn vm(name: &str) -> ManagedVM {
        let mut vm = ManagedVM::new(
            name,
            serde_json::from_str(r#"{"proxmox":{"clusterRef":{"name":"pve"},"vmid":101}}"#).unwrap(),
        );
        vm.metadata.namespace = Some("vms".into());
        vm
    }

    #[tokio::test]
    async fn repetitions_are_counted_and_a_bounded_number_of_events_is_remembered() {
        let (events, calls) = events();
        let publish = async |name: &str| events.publish(&vm(name), EventType::Normal, "Silent", "no heartbeat").await;
        let last = || calls.lock().unwrap().last().map(|(method, _)| method.clone());
        publish("web-1").await;
        assert_eq!(last(), Some(Method::POST));
        publish("web-1").await;
        assert_eq!(last(), Some(Method::PATCH));
        for n in 0..REMEMBERED {
            publish(&format!("other-{n}")).await;
        }
        publish("web-1").await;
        assert_eq!(last(), Some(Method::POST));
    }

    #[tokio::test]
    async fn the_events_of_two_resets_of_a_vm_are_two() {
        let (events, calls) = events();
        for reset in ["web-1-a-1", "web-1-a-2"] {
            events
                .publish_of(&vm("web-1"), reset, EventType::Warning, "ResetSent", &format!("VMReset {reset}"))
                .await;
        }
        let calls = calls.lock().unwrap();
        let told: Vec<_> = calls
            .iter()
            .map(|(method, event)| (method.as_str(), event["note"].as_str().unwrap()))
            .collect();
        assert_eq!(told, [("POST", "VMReset web-1-a-1"), ("POST", "VMReset web-1-a-2")]);
    }

    #[tokio::test]
    async fn a_note_is_cut_to_what_the_api_takes() {
        let (events, calls) = events();
        events
            .publish(&vm("web-1"), EventType::Normal, "Silent", &"\u{20ac}".repeat(900))
            .await;
        let note = calls.lock().unwrap()[0].1["note"].as_str().unwrap().to_owned();
        assert_eq!(note, "\u{20ac}".repeat(341));
    }
}
