//! What the kernel tells of processes.

use anyhow::{Context, Result};
use std::time::Duration;

/// The unit of CPU times in `/proc` is a hundredth of a second on every architecture that Linux has kept.
const TICK: Duration = Duration::from_millis(10);

/// CPU time that a process and its ended children that it waited for have used.
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> Result<Duration> {
    let fields = stat(pid)?;
    // utime and stime are fields 14 and 15 of proc(5); the first two are cut off before.
    Ok(ticks(&fields, 11)? + ticks(&fields, 12)?)
}

/// CPU time of the ended children that this process waited for, and of theirs.
///
/// # Errors
/// When the kernel does not tell.
pub fn cpu_of_children() -> Result<Duration> {
    let fields = stat(std::process::id())?;
    Ok(ticks(&fields, 13)? + ticks(&fields, 14)?)
}

fn stat(pid: u32) -> Result<Vec<String>> {
    let text = read(pid, "stat")?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], index: usize) -> Result<Duration> {
    let count: u32 = fields.get(index).context("too few fields in /proc/PID/stat")?.parse()?;
    Ok(TICK * count)
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// When there is no such process.
pub fn resident(pid: u32) -> Result<f64> {
    kib(&read(pid, "status")?, "VmRSS:")
}

/// A process and all that descend from it and still have it among their parents.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        // A child is that of the thread that started it.
        for thread in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

fn kib(text: &str, field: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let value = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no {field} there"))?;
    Ok(value.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_memory_and_time() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 0.1);
        let began = std::time::Instant::now();
        while cpu(own).unwrap() < Duration::from_millis(50) {
            assert!(began.elapsed() < Duration::from_secs(30), "no CPU time was counted");
        }
    }

    #[test]
    fn a_child_is_of_the_family_while_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!family(std::process::id()).contains(&child.id()));
    }
}
