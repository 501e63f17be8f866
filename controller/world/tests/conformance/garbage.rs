//! What owners leave behind.

use crate::real;
use defib_world::api_server::ApiServer;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const NAMESPACE: &str = "garbage";

async fn create(secrets: &Api<Secret>, name: &str, owners: &[&Secret]) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.into());
    let owners: Vec<_> = owners.iter().filter_map(|owner| owner.owner_ref(&())).collect();
    secret.metadata.owner_references = (!owners.is_empty()).then_some(owners);
    secrets.create(&PostParams::default(), &secret).await.unwrap()
}

/// Two owners, of which one is deleted; then what is left is told, as `name(owners)`.
async fn play(client: Client) -> Api<Secret> {
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let goes = create(&secrets, "owner-that-goes", &[]).await;
    let stays = create(&secrets, "owner-that-stays", &[]).await;
    create(&secrets, "of-both", &[&goes, &stays]).await;
    create(&secrets, "of-the-one-that-goes", &[&goes]).await;
    create(&secrets, "of-the-one-that-stays", &[&stays]).await;
    secrets.delete("owner-that-goes", &DeleteParams::default()).await.unwrap();
    secrets
}

async fn left(secrets: &Api<Secret>) -> Vec<String> {
    let all = secrets.list(&kube::api::ListParams::default()).await.unwrap();
    let shown = |secret: &Secret| {
        let owners = secret.owner_references().iter().map(|owner| owner.name.as_str());
        format!("{}({})", secret.name_any(), owners.collect::<Vec<_>>().join(" "))
    };
    all.items.iter().map(shown).collect()
}

#[tokio::test]
async fn garbage_is_collected_alike() {
    let expected = [
        "of-both(owner-that-stays)",
        "of-the-one-that-stays(owner-that-stays)",
        "owner-that-stays()",
    ];
    let server = ApiServer::new(jiff::Timestamp::now);
    let secrets = play(server.client("test")).await;
    server.collect_garbage();
    assert_eq!(left(&secrets).await, expected);

    let client = real::client(real::plane()).await;
    real::create_namespace(&client, NAMESPACE).await;
    let secrets = play(client).await;
    let began = Instant::now();
    loop {
        let left = left(&secrets).await;
        if left == expected {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "a minute later: {left:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
