//! A demo that goes on in the background.

use anyhow::{Context, Result, bail};
use control_plane::{ProcessId, cache_folder};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xtask::lab::Lab;

/// Tells the process in the background where its folder is.
const FOLDER: &str = "DEFIB_DEMO_FOLDER";
/// The story takes about two minutes, a first build before it some more.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

fn folder() -> Result<PathBuf> {
    Ok(cache_folder()?.join("demo"))
}

/// The folder of a demo in the background; none in the foreground.
pub fn folder_from_env() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Starts the same command in the background, shows what it says until it is ready, and leaves it.
pub fn start() -> Result<()> {
    let folder = folder()?;
    if let Some(running) = running(&folder) {
        bail!("a demo runs already (process {}); end it with: cargo xtask demo down", running.pid);
    }
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let log = folder.join("demo.log");
    let out = std::fs::File::create(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("demo")
        .env(FOLDER, &folder)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()?;
    let id = ProcessId::of(child.id()).context("the demo ended at once")?;
    std::fs::write(folder.join("process.json"), serde_json::to_string(&id)?)?;
    let mut shown = std::fs::File::open(&log)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut text = String::new();
        shown.read_to_string(&mut text)?;
        print!("{text}");
        if folder.join("ready").exists() {
            println!("\nIt goes on in the background; end it with: cargo xtask demo down");
            return Ok(());
        }
        if child.try_wait()?.is_some() {
            shown.seek(std::io::SeekFrom::End(0))?;
            bail!("the demo ended; its log is {}", log.display());
        }
        if Instant::now() > deadline {
            bail!(
                "the demo is not ready after {} minutes; its log is {}",
                PATIENCE.as_secs() / 60,
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Says that the story is told and everything runs.
pub fn ready(_: &Lab) -> Result<()> {
    if let Some(folder) = folder_from_env() {
        std::fs::write(folder.join("ready"), "")?;
    }
    Ok(())
}

fn running(folder: &std::path::Path) -> Option<ProcessId> {
    let id: ProcessId = serde_json::from_str(&std::fs::read_to_string(folder.join("process.json")).ok()?).ok()?;
    id.is_running().then_some(id)
}

/// Ends the demo in the background and deletes its folder.
pub fn down() -> Result<()> {
    let folder = folder()?;
    let Some(id) = running(&folder) else {
        println!("no demo runs");
        let _ = std::fs::remove_dir_all(&folder);
        return Ok(());
    };
    let pid = rustix::process::Pid::from_raw(i32::try_from(id.pid)?).context("an impossible process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let deadline = Instant::now() + Duration::from_secs(90);
    while id.is_running() {
        if Instant::now() > deadline {
            bail!("the demo (process {}) does not end", id.pid);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::remove_dir_all(&folder)?;
    println!("the demo is gone");
    Ok(())
}
