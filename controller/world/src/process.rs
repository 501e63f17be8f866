//! A controller process: the real controller, with nothing but its sockets replaced.

use crate::clock::Time;
use crate::proxmox::client::SimulatedProxmox;
use crate::sabotage::Line;
use crate::weather::client_name;
use crate::world::World;
use axum::Router;
use axum::body::Body;
use defib::assembly::{Assembly, Running, Setup};
use defib::clock::Clock;
use defib::heartbeat::receiver::{self, Limits as ReceiverLimits, PATH, canary_report};
use defib::heartbeat::serving::Serving;
use defib::metrics::Metrics;
use defib::reconcile::Context;
use defib::reconcile::vm_reset::start;
use defib_core::fleet::Limits;
use http::{Request, Response, StatusCode, header};
use kube::Client;
use prometheus::Registry;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Period in which a process reads Proxmox.
const POLL: Duration = Duration::from_secs(5);

/// One process.
pub struct Process {
    /// Which controller it is: a new process takes the place of one that died.
    pub controller: usize,
    /// When it was started.
    pub started: Time,
    /// When it died or was asked to end.
    pub ended: Option<Time>,
    /// How wrong the wall clock of its machine is, in milliseconds.
    pub skew: &'static AtomicI64,
    alive: Arc<AtomicBool>,
    stop: CancellationToken,
    /// What it decides with.
    pub ctx: Arc<Context>,
    registry: Registry,
    serving: Serving,
    router: Router,
    tasks: Option<JoinSet<()>>,
}

impl Process {
    /// Starts one in the place of a controller.
    pub fn start(world: &Arc<World>, controller: usize) {
        let index = world.processes().len();
        let skew: &'static AtomicI64 = match world.processes().iter().rfind(|p| p.controller == controller) {
            Some(before) => before.skew,
            // Clocks are copied freely and live as long as the process that they are in; eight bytes a world are left behind.
            None => Box::leak(Box::default()),
        };
        let name = client_name(index);
        let client = match world.sabotage {
            Some(sabotage) if sabotage.of_kubernetes() => Client::new(Line::new(world.api.service(&name), sabotage), "default"),
            _ => world.api.client(&name),
        };
        let alive = Arc::new(AtomicBool::new(true));
        let (pve, clock) = (world.pve.clone(), world.clock);
        let proxmox =
            SimulatedProxmox::new(pve, clock, world.seed, index, alive.clone(), skew, Arc::downgrade(world)).broken(world.sabotage);
        let own_node = Arc::new(OnceLock::new());
        if let Some(host) = world.own_host() {
            let uuid = world.pve().machines.get(&world.plan.vms[host].vmid).map(|m| m.uuid);
            uuid.map(|uuid| own_node.set(uuid));
        }
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).expect("the first in its registry"));
        let assembly = Assembly::new(Setup {
            client,
            namespace: world.lease_namespace(controller).into(),
            me: world.name_of(controller),
            clock: Clock::wrong(world.clock.wall(world.clock.now()), skew),
            metrics,
            connect: Arc::new(move |_| Ok(Arc::new(proxmox.clone()))),
            own_node,
            limits: Limits {
                max_in_flight: world.plan.max_in_flight,
                max_unhealthy: world.plan.start.max_unhealthy.clone(),
            },
            observe_only: world.plan.start.observe_only,
            poll: POLL,
            serving_every: Duration::from_millis(500),
        });
        let router = receiver::router(assembly.receiver(world.keys()), ReceiverLimits::default());
        let (ctx, serving) = (assembly.ctx.clone(), assembly.serving.clone());
        let (stop, last) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(assembly.publisher().run(stop.clone()));
        let (canary, itself, serves, around) = (world.canary(), router.clone(), serving.clone(), Arc::downgrade(world));
        let report = move || {
            let (router, canary, serving) = (itself.clone(), canary.clone(), serves.clone());
            let deaf = around.upgrade().is_some_and(|world| world.weather().deaf);
            async move {
                if deaf {
                    return Err("connection refused".to_owned());
                }
                if !serving.is_serving() {
                    return Ok(false);
                }
                let answer = send(router, &canary, canary_report("canary")).await;
                if answer.status() == StatusCode::OK {
                    Ok(true)
                } else {
                    Err(answer.status().to_string())
                }
            }
        };
        tasks.spawn(ctx.witness.clone().loopback(report, stop.clone()));
        let running = assembly.start(&stop, &last);
        tasks.spawn(carry_on(running, ctx.clone(), stop.clone(), last));
        world.processes().push(Self {
            controller,
            started: world.clock.now(),
            ended: None,
            skew,
            alive,
            stop,
            ctx,
            registry,
            serving,
            router,
            tasks: Some(tasks),
        });
        world.tell(None, format!("controller process {index} starts as {}", world.name_of(controller)));
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether its listener is open: it closes when the process is asked to end.
    pub fn listens(&self) -> bool {
        self.is_alive() && self.ended.is_none()
    }

    /// Whether it takes reports.
    pub fn is_serving(&self) -> bool {
        self.listens() && self.serving.is_serving()
    }

    /// How often it has looked at a machine.
    pub fn looks(&self) -> u64 {
        let families = self.registry.gather();
        let looks = families.iter().find(|f| f.name() == "defib_vm_reconciles_total");
        looks.map_or(0, |f| f.get_metric().iter().map(|m| m.get_counter().get_value() as u64).sum())
    }

    /// What takes its reports.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// It dies where it stands.
    pub fn kill(&mut self, now: Time) {
        self.alive.store(false, Ordering::Relaxed);
        self.ended.get_or_insert(now);
        self.tasks = None;
    }

    /// It is asked to end, as by SIGTERM.
    pub fn stop(&mut self, now: Time) {
        self.ended.get_or_insert(now);
        self.stop.cancel();
    }
}

/// As `defib run` does: what is under way ends first, the lease last.
async fn carry_on(running: Running, ctx: Arc<Context>, stop: CancellationToken, last: CancellationToken) {
    let Running {
        mut deciding,
        mut witnessing,
    } = running;
    stop.cancelled().await;
    let _ = tokio::time::timeout(Duration::from_secs(45), async { while deciding.join_next().await.is_some() {} }).await;
    start::pay_all(&ctx).await;
    last.cancel();
    while witnessing.join_next().await.is_some() {}
}

/// Sends a report the way that it goes behind the sockets.
pub async fn send(router: Router, key: &str, body: String) -> Response<Body> {
    let request = Request::post(PATH)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .expect("a request of constants and a key");
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
