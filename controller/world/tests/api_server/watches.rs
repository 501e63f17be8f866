//! kube's watcher, reflector and controller.

use crate::support::{eventually, server, vm, vms};
use defib_api::ManagedVM;
use defib_world::api_server::ApiServer;
use futures::StreamExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A reflector of all ManagedVMs.
pub fn reflect(server: &ApiServer, config: watcher::Config) -> Store<ManagedVM> {
    let (store, writer) = reflector::store();
    let api: Api<ManagedVM> = Api::all(server.client("reflector"));
    let stream = watcher(api, config).default_backoff().reflect(writer);
    tokio::spawn(stream.for_each(|_| async {}));
    store
}

pub fn nodes(store: &Store<ManagedVM>) -> Vec<String> {
    let mut all: Vec<String> = store
        .state()
        .iter()
        .map(|vm| {
            let node = vm.status.as_ref().and_then(|s| s.node.clone()).unwrap_or_default();
            format!("{} {node}", vm.name_any())
        })
        .collect();
    all.sort();
    all
}

pub async fn write_node(vms: &Api<ManagedVM>, name: &str, node: &str) {
    let patch = Patch::Merge(json!({"status": {"node": node}}));
    vms.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn a_reflector_sees_what_happens(config: watcher::Config) {
    let server = server();
    let vms = vms(&server, "test");
    vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    let store = reflect(&server, config);
    eventually("the object that was there", || nodes(&store) == ["web-1 "]).await;
    vms.create(&PostParams::default(), &vm("web-2")).await.unwrap();
    write_node(&vms, "web-1", "pve1").await;
    eventually("an addition and a change", || nodes(&store) == ["web-1 pve1", "web-2 "]).await;
    vms.delete("web-1", &DeleteParams::default()).await.unwrap();
    eventually("a deletion", || nodes(&store) == ["web-2 "]).await;
}

#[tokio::test(start_paused = true)]
async fn a_reflector_that_lists_and_watches() {
    a_reflector_sees_what_happens(watcher::Config::default()).await;
    a_reflector_sees_what_happens(watcher::Config::default().page_size(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_reflector_that_streams_its_list() {
    a_reflector_sees_what_happens(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ended_goes_on_where_it_was() {
    let server = server();
    let vms = vms(&server, "test");
    let store = reflect(&server, watcher::Config::default().timeout(50));
    for n in 0..5 {
        let name = format!("web-{n}");
        vms.create(&PostParams::default(), &vm(&name)).await.unwrap();
        eventually(&name, || nodes(&store).len() == n + 1).await;
        tokio::time::sleep(Duration::from_secs(70)).await;
    }
    // Once: no event was missed at the end of a watch.
    let lists = server
        .audit()
        .iter()
        .filter(|e| e.call.client == "reflector" && e.call.verb.to_string() == "list")
        .count();
    assert_eq!(lists, 1);
}

#[tokio::test(start_paused = true)]
async fn a_controller_reconciles() {
    let server = server();
    let vms = vms(&server, "test");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all: Api<ManagedVM> = Api::all(server.client("controller"));
    let run = Controller::new(all, watcher::Config::default()).run(
        |vm: Arc<ManagedVM>, seen: Arc<Mutex<Vec<String>>>| async move {
            seen.lock().unwrap().push(vm.name_any());
            Ok::<_, std::convert::Infallible>(Action::await_change())
        },
        |_, _, _| Action::await_change(),
        seen.clone(),
    );
    tokio::spawn(run.for_each(|_| async {}));
    vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    eventually("the first reconcile", || seen.lock().unwrap().len() == 1).await;
    write_node(&vms, "web-1", "pve1").await;
    eventually("the second", || seen.lock().unwrap().len() == 2).await;
}
