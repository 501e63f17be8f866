//! `cargo xtask simulate`: lives through worlds and judges them.
use defib_world::plan::Plan;
use defib_world::run;

fn main() {
    let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let n: u64 = std::env::args().nth(2).map_or(1, |n| n.parse().unwrap());
    for seed in seed..seed + n {
        let began = std::time::Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = run::live(Plan::new(seed), None).await;
            let took = began.elapsed();
            if n == 1 {
                for (at, vm, text) in &world.log().lines {
                    println!("{at} {vm:?} {text}");
                }
                for post in &world.pve().posts {
                    println!("{post:?}");
                }
                for vm in world.api.objects("managedvms") {
                    println!("{} {}", vm["metadata"]["name"], vm["status"]["conditions"].as_array().map(|c| c.iter().map(|c| format!("{}={}/{}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())).collect::<Vec<_>>().join(" ")).unwrap_or_default());
                }
            }
            let reconciles: u64 = 0;
            println!("seed {seed} {:?} heard {} posts {} audit {} version {} {reconciles} took {:?}", world.plan.theme, world.log().heard.len(), world.pve().posts.len(), world.api.audit().len(), world.api.version(), took);
            run::end(&world);
        });
    }
}
